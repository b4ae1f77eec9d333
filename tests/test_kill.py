"""Killed at any moment and started again, a run ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import numbers

from jaxmodels import experiment

TINY = Path(__file__).parent / "tiny_run.py"
DIGITS = Path(__file__).parent.parent / "experiments" / "cnn_digits.py"


def command(script, folder, options):
    return [sys.executable, str(script), *options.split(), "--out", str(folder)]


def finish(script, folder, options):
    """Run to the end."""
    ended = subprocess.run(command(script, folder, options), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def kill(delay, starting, script, folder, options):
    """Start a run and kill it, `delay` seconds after its start, or after it saved a state."""
    before = saved(folder)
    with subprocess.Popen(
        command(script, folder, options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        while not starting and saved(folder) <= before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
    # Any other status means that it came to an end before: it needs more steps.
    assert process.returncode == -signal.SIGKILL


def saved(folder):
    """The newest step of which a state is on disk."""
    return max((int(path.stem) for path in folder.glob("checkpoints/*.json")), default=0)


def assert_same_run(found, expected):
    def same(a, b):
        np.testing.assert_array_equal(a, b, strict=True)

    for part in "params", "opt_state", "step", "skipped":
        jax.tree.map(same, *(experiment.params(folder, part) for folder in (found, expected)))
    jax.tree.map(same, *(experiment.results(folder) for folder in (found, expected)))
    assert numbers(found) == numbers(expected)
    assert (found / "report.html").exists()


def test_killed_twice(tmp_path):
    options = "--steps 150 --save-every 5 --eval-every 20"
    for delay in 0.3, 0.6:
        kill(delay, False, TINY, tmp_path / "killed", options)
    finish(TINY, tmp_path / "killed", options)
    finish(TINY, tmp_path / "whole", options)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    options = "--steps 3000 --eval-every 50 --log-every 5"
    began = time.monotonic()
    finish(DIGITS, tmp_path / "start", "--steps 1")
    startup = time.monotonic() - began
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = random.Random(seed)
    for number in range(20):
        starting = number % 4 == 3
        delay = generator.uniform(0, startup if starting else 1.5)
        kill(delay, starting, DIGITS, tmp_path / "killed", f"{options} --save-every 5")
        print(f"kill {number + 1}: step {saved(tmp_path / 'killed')} is on disk")
    finish(DIGITS, tmp_path / "killed", options)
    finish(DIGITS, tmp_path / "whole", options)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
