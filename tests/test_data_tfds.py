"""Datasets prepared by TFDS: finding, decoding, the decoded copy, damage; no TensorFlow."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxmodels import data
from jaxmodels.data import cache, decode, sources, tfds
from jaxmodels.errors import UserError

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning:tensorflow_datasets")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with the dataset `tiny`, prepared by a builder which needs no TensorFlow."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder

        def _info(self):
            features = {
                "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                "id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

        def _generate_examples(self, n):
            for i in range(n):
                image = np.full((4, 4, 1), i, np.uint8)
                yield i, {"image": image, "label": i % 3, "id": f"number {i}"}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(tiny, tmp_path / "tfds")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder of decoded copies."""
    monkeypatch.setenv("JAXMODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the splits that were decoded."""
    names, original = [], decode.decode_all

    def counted(records, fields):
        names.append(records.name)
        return original(records, fields)

    monkeypatch.setattr(decode, "decode_all", counted)
    return names


def ids(split):
    return sorted(int(example["id"].split()[1]) for example in split)


def files(kept):
    return sorted(path for path in kept.rglob("*") if path.is_file())


def test_reads_what_was_prepared(folder):
    tiny = data.load("tiny", folder)
    assert list(tiny) == ["train", "test"]
    assert (tiny.num_classes, tiny.class_names) == (3, ("a", "b", "c"))
    train = tiny["train"]
    assert (train.name, len(train), train.in_memory) == ("tiny/train", 40, True)
    assert ids(train) == list(range(40))
    for example in train:
        number = int(example["id"].split()[1])
        assert (example["image"] == number).all()
        assert example["label"] == number % 3
    assert train.batches(8)[0].keys() == {"image", "label"}


def test_folder_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert len(data.load("tiny")["test"]) == 10
    assert len(data.load("tiny:1.0.0")["test"]) == 10


def test_records_give_the_same_batches_as_the_decoded_copy(folder, monkeypatch):
    in_memory = data.load("tiny", folder)["train"]
    monkeypatch.setattr(tfds, "MAX_DECODED_BYTES", 100)
    shutil.rmtree(os.environ["JAXMODELS_CACHE"])
    read = data.load("tiny", folder)["train"]
    assert not read.in_memory
    assert isinstance(read.source, sources.RecordSource)
    one, other = (split.batches(16).iterate(0, 9) for split in (in_memory, read))
    for ours, theirs in zip(one, other, strict=True):
        assert all((ours[key] == theirs[key]).all() for key in ("image", "label"))


def test_is_decoded_once(folder, kept, decoded):
    first, again = (data.load("tiny", folder)["train"] for _ in range(2))
    assert decoded == ["tiny/train"]
    assert len(files(kept)) == 4
    assert all((again.source.arrays[k] == a).all() for k, a in first.source.arrays.items())


def test_is_decoded_again_when_prepared_again(folder, decoded):
    data.load("tiny", folder)["train"]
    for path in folder.rglob("*train.array_record*"):
        os.utime(path, (1, 1))
    data.load("tiny", folder)["train"]
    assert decoded == ["tiny/train", "tiny/train"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("number", range(4))  # three arrays, and what is said about them
def test_damaged_copy_is_made_anew(folder, kept, damage, number):
    data.load("tiny", folder)["train"]
    damage(files(kept)[number])
    with pytest.warns(UserWarning, match="damaged"):
        assert ids(data.load("tiny", folder)["train"]) == list(range(40))
    assert ids(data.load("tiny", folder)["train"]) == list(range(40))
    assert len(files(kept)) == 4


def test_copies_can_be_turned_off(folder, kept, monkeypatch):
    monkeypatch.setenv("JAXMODELS_CACHE", "off")
    assert ids(data.load("tiny", folder)["train"]) == list(range(40))
    assert not kept.exists()


def test_where_no_copy_can_be_kept_the_data_are_still_there(folder, kept):
    kept.write_text("a file, no folder")
    with pytest.warns(UserWarning, match="cannot be cached"):
        assert ids(data.load("tiny", folder)["train"]) == list(range(40))


def test_many_may_start_at_once(folder, kept):
    with ThreadPoolExecutor(8) as pool:
        splits = list(pool.map(lambda _: data.load("tiny", folder)["train"], range(8)))
    assert all(ids(split) == list(range(40)) for split in splits)
    assert len(files(kept)) == 4


@pytest.mark.parametrize("limit", [tfds.MAX_DECODED_BYTES, 100])
def test_damaged_record_is_found_and_can_be_skipped(folder, kept, limit, monkeypatch):
    monkeypatch.setattr(tfds, "MAX_DECODED_BYTES", limit)
    (path,) = folder.rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    content[161] ^= 255  # within the first record; each has a checksum
    path.write_bytes(content)
    train = data.load("tiny", folder)["train"]
    with pytest.raises(data.DataError, match="Example 0 of tiny/train could not be read") as caught:
        list(train.batches(16).iterate(0, 5))
    assert (caught.value.source, caught.value.split, caught.value.index) == ("tiny", "train", 0)
    report = data.check(train)
    assert report.bad.tolist() == [0]
    assert len(list(train.batches(16, skip=report.bad).iterate(0, 5))) == 5
    assert not files(kept)


def test_not_prepared_names_command_and_stand_in(tiny):
    with pytest.raises(UserError, match="not prepared") as caught:
        data.load("mnist", tiny)
    assert "uv run --extra prepare scripts/prepare_data.py mnist" in str(caught.value)
    assert "--dataset digits" in str(caught.value)
    assert f"Prepared in {tiny}: tiny" in str(caught.value)


@pytest.mark.parametrize("name", ["mnst", "cifar_10", "tinny", "digit"])
def test_unknown_name_gets_suggestions(tiny, name):
    with pytest.raises(
        UserError, match=rf"no dataset {name!r}. Did you mean .*(mnist|cifar|tiny|dig)"
    ):
        data.load(name, tiny)


@pytest.mark.parametrize("name", ["", "..", ".", "../x", "tiny/none"])
def test_strange_names_are_refused(tiny, name):
    with pytest.raises(UserError, match="Prepared in"):
        data.load(name, tiny)


def test_a_configuration_must_be_named(folder):
    shutil.move(folder / "tiny" / "1.0.0", folder / "tiny" / "big" / "1.0.0")
    assert len(data.load("tiny/big", folder)["test"]) == 10
    with pytest.raises(
        UserError, match="tiny has configurations; choose one that is prepared: tiny/big"
    ):
        data.load("tiny", folder)


def test_newest_version_wins(folder):
    for version in ("1.0.9", "1.0.10"):
        shutil.copytree(folder / "tiny" / "1.0.0", folder / "tiny" / version)
    assert tfds.find_prepared("tiny", folder).path.name == "1.0.10"
    assert tfds.find_prepared("tiny:1.0.9", folder).path.name == "1.0.9"


def test_other_file_formats_are_refused(folder):
    path = folder / "tiny" / "1.0.0" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow reads"):
        data.load("tiny", folder)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_default_folder_is_the_users(platform, monkeypatch):
    monkeypatch.delenv("JAXMODELS_CACHE")
    monkeypatch.setattr(sys, "platform", platform)
    assert cache.cache_dir().name == "jaxmodels"


BLOCK_TENSORFLOW = """
import sys
class Hiding:
    # As if it were not installed. None in sys.modules would not do: TFDS takes any entry there for
    # a TensorFlow in use.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""

SECOND_START = """
import sys
from jaxmodels import data
loaded = data.load("tiny", sys.argv[1])["train"].batches(16)
loaded[0]
print("tensorflow_datasets" in sys.modules, "grain" in sys.modules)
"""


def test_second_start_imports_no_tfds(folder):
    data.load("tiny", folder)["train"]
    command = [sys.executable, "-c", SECOND_START, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


WITHOUT_TENSORFLOW = """
import importlib, pkgutil, sys
import jaxmodels
for module in pkgutil.walk_packages(jaxmodels.__path__, "jaxmodels."):
    importlib.import_module(module.name)
from jaxmodels import data
split = data.load(sys.argv[1], sys.argv[2])["test"]
batch = next(split.batches(16).iterate(0, 1))
print(split.name, *batch["image"].shape)
"""


def without_tensorflow(*arguments):
    command = [sys.executable, "-c", BLOCK_TENSORFLOW + WITHOUT_TENSORFLOW, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_works_without_tensorflow(folder):
    assert without_tensorflow("tiny", str(folder)) == "tiny/test 16 4 4 1\n"


def test_script_prepares(tiny, tmp_path, monkeypatch, capsys):
    path = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
    spec = importlib.util.spec_from_file_location("prepare_data", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    # This dataset needs no TensorFlow.
    monkeypatch.setattr(script, "check_tensorflow", lambda name: None)
    script.prepare("tiny", tmp_path / "new")
    assert "Train on it with: --dataset tiny" in capsys.readouterr().out
    assert ids(data.load("tiny", tmp_path / "new")["train"]) == list(range(40))


needs_real_data = pytest.mark.skipif(
    not (Path(os.environ.get("TFDS_DATA_DIR", "-")) / "mnist").is_dir(),
    reason="no MNIST: TFDS_DATA_DIR names no folder that holds it",
)


@needs_real_data
def test_mnist_without_tensorflow():
    assert without_tensorflow("mnist", os.environ["TFDS_DATA_DIR"]) == "mnist/test 16 28 28 1\n"


@needs_real_data
def test_mnist_is_decoded_rightly():
    import tensorflow_datasets as tfds

    mnist = data.load("mnist")
    test = mnist["test"]
    original = tfds.data_source("mnist", split="test")
    assert (len(test), mnist.num_classes) == (len(original), 10)
    for index in range(0, 10_000, 997):
        assert (test[index]["image"] == original[index]["image"]).all()
        assert test[index]["label"] == original[index]["label"]


def test_without_a_home_nothing_is_cached(monkeypatch):
    def nameless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("JAXMODELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nameless)
    assert cache.cache_dir() is None
    assert cache.read_cached(cache.CacheEntry("tiny/train", "tiny", "train")) is None


def test_a_cache_that_may_not_be_entered_is_none(monkeypatch, tmp_path):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("JAXMODELS_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert cache.read_cached(cache.CacheEntry("tiny/train", "tiny", "train")) is None
