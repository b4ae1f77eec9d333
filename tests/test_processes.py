"""The same run on other devices, and on several processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import disturbed, numbers, quietly, tiny

from jaxmodels import experiment

TINY = Path(__file__).parent / "tiny_run.py"
OPTIONS = "--dropout 0 --batch-size 16 --steps 12 --eval-every 4 --save-every 4 --log-every 1"


@pytest.fixture
def devices(monkeypatch):
    """Choose how many devices there are."""
    everything = jax.devices()
    return lambda count: monkeypatch.setattr(jax, "devices", lambda: everything[:count])


def assert_near(found, expected):
    """The same numbers of two runs, as far as sums in another order allow."""
    lines = [numbers(folder) for folder in (found, expected)]
    assert [(line["step"], line.keys()) for line in lines[0]] == [
        (line["step"], line.keys()) for line in lines[1]
    ]
    losses = [[line["train/loss"] for line in run if "train/loss" in line] for run in lines]
    # Sums in another order differ in the last of 24 bits, 6e-8; Adam divides by gradients' sizes,
    # which blows that up where they are near zero, and twelve steps carry it on.
    np.testing.assert_allclose(*losses, rtol=1e-3)
    results = [experiment.results(folder) for folder in (found, expected)]
    # An example of the 360 may lie so near to a border that it falls on the other side.
    assert abs(results[0]["test/error"] - results[1]["test/error"]) <= 2 / 360
    assert results[0]["test/confusion"].sum() == results[1]["test/confusion"].sum() == 360


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """A run on eight devices."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    return quietly(tiny, *OPTIONS.split(), "--mesh", "data=4,fsdp=2", "--out", folder)[0]


def fail():
    raise RuntimeError("as if the machine failed")


@pytest.mark.parametrize("count", [4, 1])
def test_a_run_goes_on_with_fewer_devices(count, on_eight, devices, tmp_path):
    arguments = *OPTIONS.split(), "--out", tmp_path / "run"
    with pytest.raises(RuntimeError):
        quietly(disturbed(10, fail), *arguments, "--mesh", "data=4,fsdp=2")
    devices(count)
    outcome, printed = quietly(tiny, *arguments)
    assert "going on at " in printed
    assert f"parameters on {count} x cpu" in printed
    assert len(outcome.state.params["Dense_0"]["kernel"].sharding.device_set) == count
    assert_near(outcome.folder, on_eight.folder)


def test_a_run_goes_on_with_more_devices(on_eight, devices, tmp_path):
    arguments = *OPTIONS.split(), "--out", tmp_path / "run"
    devices(1)
    with pytest.raises(RuntimeError):
        quietly(disturbed(10, fail), *arguments)
    devices(8)
    outcome, printed = quietly(tiny, *arguments, "--mesh", "data=4,fsdp=2")
    assert "going on at " in printed
    assert_near(outcome.folder, on_eight.folder)


def test_the_mesh_and_the_calls_change_no_figure(on_eight, tmp_path):
    arguments = "--mesh", "data=2,fsdp=-1,tensor=2", "--steps-per-call", 4
    outcome, _ = quietly(tiny, *OPTIONS.split(), *arguments, "--out", tmp_path / "run")
    assert_near(outcome.folder, on_eight.folder)


# Several processes


def start(folder, count, number, coordinator, options=OPTIONS):
    """One of several processes with two devices each."""
    joined = f"--coordinator {coordinator} --processes {count} --process-id {number}"
    arguments = f"{options} --mesh data=2,fsdp=2 {joined}".split()
    return subprocess.Popen(
        [sys.executable, str(TINY), *arguments, "--out", str(folder)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return f"localhost:{listening.getsockname()[1]}"


def test_two_processes_are_one_run(devices, tmp_path):
    coordinator = free_address()
    both = [start(tmp_path / "two", 2, number, coordinator) for number in (0, 1)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    # Gloo's threads write there as they like, lines torn apart; of the run, nothing stands there.
    for words in ("parameters on", "step 1/", "test/error", "report.html"):
        assert words in printed[0][0]
        assert words not in printed[1][0]
    devices(4)
    arguments = *OPTIONS.split(), "--mesh", "data=2,fsdp=2"
    quietly(tiny, *arguments, "--out", tmp_path / "one")
    assert_near(tmp_path / "two", tmp_path / "one")
    # What two processes saved, one goes on with.
    outcome, printed = quietly(tiny, *arguments, "--steps", 14, "--out", tmp_path / "two")
    assert "going on at 12" in printed
    assert int(outcome.state.step) == 14


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path):
    coordinator = free_address()
    options = f"{OPTIONS} --steps 3000 --save-every 100"
    both = [start(tmp_path / "run", 2, number, coordinator, options) for number in (0, 1)]
    wait_for(tmp_path / "run" / "checkpoints" / "100.json", both)
    both[1].send_signal(signal.SIGTERM)
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [143, 143], printed
    assert "stopped and saved at step" in printed[0][0]


def wait_for(path, processes):
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
