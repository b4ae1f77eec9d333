"""Runs whose folder is in a bucket: interrupted, gone on with on another machine, read back.

The bucket is a folder on disk behind Google's address, by the ways that epath and TensorStore go
there. As in a bucket there are no empty folders, and nothing is appended to.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time

import fsspec
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from orbax.checkpoint._src.serialization import tensorstore_utils
from tiny_run import assert_identical, disturbed, numbers, quietly, raw, send, tiny

from jaxmodels import experiment
from jaxmodels.errors import UserError
from jaxmodels.experiment import bucket, run

URL = "gs://bucket/some/run"
EVERY = "--eval-every", 4, "--save-every", 4, "--log-every", 2


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """The folder that stands for all buckets; also what is put on local disks is under tmp_path."""
    root = tmp_path / "buckets"
    (root / "bucket").mkdir(parents=True)

    class Buckets(LocalFileSystem):
        protocol = "gs", "gcs"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            path = os.fspath(path)
            _, found, rest = path.partition("://")
            return f"{root}/{rest}".rstrip("/") if found else path.rstrip("/")

        def mkdir(self, path, create_parents=True, **kwargs):
            assert (root / self._strip_protocol(path)).is_relative_to(root / "bucket")

        def makedirs(self, path, exist_ok=False):
            self.mkdir(path)

        def info(self, path, **kwargs):
            found = super().info(path, **kwargs)
            if found["type"] == "directory" and not any(filled(found["name"])):
                raise FileNotFoundError(path)
            return found

        def isdir(self, path):
            with contextlib.suppress(FileNotFoundError):
                return self.info(path)["type"] == "directory"
            return False

        def ls(self, path, detail=False, **kwargs):
            return [
                found if detail else found["name"]
                for found in super().ls(path, detail=True, **kwargs)
            ]

        def glob(self, path, **kwargs):
            return [found.removeprefix(f"{root}/") for found in super().glob(path, **kwargs)]

        def mv(self, path1, path2, recursive=True, **kwargs):
            path2 = self._strip_protocol(path2)
            os.makedirs(os.path.dirname(path2), exist_ok=True)
            os.rename(self._strip_protocol(path1), path2)

        def _open(self, path, mode="rb", **kwargs):
            assert "a" not in mode, "nothing in a bucket can be appended to"
            if "w" in mode:
                os.makedirs(os.path.dirname(self._strip_protocol(path)), exist_ok=True)
            return super()._open(path, mode, **kwargs)

    monkeypatch.setitem(_registry, "gcs", Buckets)
    monkeypatch.setattr(tensorstore_utils, "_normalize_path", Buckets._strip_protocol)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield root
    backend.fsspec_backend._get_filesystem.cache_clear()
    assert {path.name for path in tmp_path.iterdir()} <= {"buckets", "local", "lost"}
    assert not any((tmp_path / "local").iterdir())


def filled(folder):
    """The files in it and below."""
    return (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)


def ended(capsys, make, *arguments):
    """The exit status of a run that does not reach its end, and all that it printed."""
    with pytest.raises(SystemExit) as caught:
        run(make, [str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return caught.value.code, printed.out + printed.err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of a run on disk, and the lines of its metrics."""
    outcome, _ = quietly(tiny, *EVERY, "--out", tmp_path_factory.mktemp("whole") / "run")
    return dataclasses.replace(outcome, state=raw(outcome.state)), numbers(outcome.folder)


def test_a_stopped_and_a_lost_run_go_on_exactly_on_another_machine(disk, whole, tmp_path, capsys):
    expected, lines = whole
    home, folder, lost = disk / "bucket", disk / "bucket/some/run", tmp_path / "lost"

    patience = time.monotonic() + 30

    def lose():
        """Keep what would be there if all machines were lost now, and stop."""
        while not (folder / "checkpoints/4.json").exists() and time.monotonic() < patience:
            time.sleep(0.01)
        shutil.copytree(home, lost, ignore=shutil.ignore_patterns("8", "8.*"))
        send(signal.SIGTERM)()

    status, printed = ended(capsys, disturbed(8, lose), *EVERY, "--out", URL)
    assert status == 128 + signal.SIGTERM
    assert "stopped and saved at step " in printed
    assert f"--out {URL}\n" in printed
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.jsonl", "tensorboard", "checkpoints", "cost.json")
    }
    outcome, printed = quietly(tiny, *EVERY, "--out", URL)
    assert "resumed at step " in printed
    assert f"folder    {URL}\npage      {URL}/report.html\n" in printed
    assert str(outcome.folder) == URL
    assert_identical(raw(outcome.state), expected.state)
    printed_metrics = [line for line in lines if "test/error" in line]
    assert numbers(folder, "test/") == printed_metrics
    for name, value in expected.metrics.items():
        np.testing.assert_array_equal(experiment.results(URL)[name], value)
    assert_identical(raw(experiment.params(URL)), expected.state.params)
    assert (folder / "report.html").stat().st_size > 10_000
    assert json.loads((folder / "cost.json").read_text())["starts"] == 2
    assert len(list((folder / "tensorboard").iterdir())) == 2

    shutil.rmtree(home)
    shutil.copytree(lost, home)
    outcome, printed = quietly(tiny, *EVERY, "--out", URL)
    assert "resumed at step 4" in printed
    assert_identical(raw(outcome.state), expected.state)
    assert numbers(folder) == lines


def test_in_a_bucket_damage_is_passed_over_and_another_run_refused(disk, whole, capsys):
    folder = disk / "bucket/some/run"
    shutil.copytree(whole[0].folder, folder)
    status, printed = ended(capsys, tiny, "--rate", 0.1, "--out", URL)
    assert status == 2
    assert f"--out {URL} belongs to another run:\n  rate: 0.01 there, 0.1 now" in printed
    record = folder / "checkpoints/12.json"
    record.write_text(record.read_text().replace("4", "5", 1))
    outcome, printed = quietly(tiny, *EVERY, "--out", URL)
    assert "skipped a damaged checkpoint: step 12: 12.json: " in printed
    assert "resumed at step 8" in printed
    assert_identical(raw(outcome.state), whole[0].state)
    assert (folder / "checkpoints/12.damaged").is_dir()
    (folder / "config.json").unlink()
    status, printed = ended(capsys, tiny, "--out", URL)
    assert status == 2
    assert f"--out {URL} is not empty and holds no config.json" in printed
    with pytest.raises(UserError, match="gs://bucket/none holds no folder checkpoints"):
        experiment.params("gs://bucket/none")
    with pytest.raises(UserError, match=r"gs://bucket/none holds no results\.json"):
        experiment.results("gs://bucket/none")


class HttpError(Exception):
    """As gcsfs raises: no OSError."""


def refuse(*arguments, **kwargs):
    raise HttpError("Anonymous caller does not have storage.objects.create access, 401")


def test_a_bucket_without_the_right_to_write_is_said(disk, capsys, monkeypatch):
    monkeypatch.setattr(fsspec.get_filesystem_class("gcs"), "_open", refuse)
    status, printed = ended(capsys, tiny, "--out", URL)
    assert status == 2
    assert f"--out {URL} cannot be used (HttpError: Anonymous caller does not have" in printed


def test_files_that_cannot_be_copied_are_said(disk, capsys, monkeypatch):
    def cut_off():
        monkeypatch.setattr(bucket.epath.Path, "write_bytes", refuse)

    status, printed = ended(capsys, disturbed(1, cut_off), *EVERY, "--out", URL)
    assert status == 1
    words = f" could not be copied to {URL}.\nThe reason: Anonymous caller"
    assert words in printed


@pytest.mark.parametrize("out", ["s3://bucket/run", "gcs://bucket/run", "gs://"])
def test_other_addresses_are_refused(out, capsys):
    status, printed = ended(capsys, tiny, "--out", out)
    assert status == 2
    assert f"expected a folder on disk or gs://BUCKET/FOLDER; got {out}\n" in printed


def test_without_gcsfs_it_is_said_what_to_install(capsys, monkeypatch):
    monkeypatch.delitem(_registry, "gcs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    status, printed = ended(capsys, tiny, "--out", URL)
    assert status == 2
    assert f"{URL} needs the package gcsfs, which is not installed" in printed
    assert "uv run --extra bucket" in printed
