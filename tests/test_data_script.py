"""scripts/prepare_data.py: what can be tested without a download."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"


def run(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_is_short():
    done = run("--help")
    assert done.returncode == 0
    assert "--data-dir" in done.stdout
    assert len(done.stdout.splitlines()) < 25


def test_unknown_name():
    done = run("mnst")
    assert done.returncode == 2
    assert "TFDS has no dataset 'mnst'. Similar names: mnist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_missing_tensorflow_names_the_command():
    done = run("mnist")
    assert done.returncode == 2
    assert "uv run --extra prepare scripts/prepare_data.py mnist" in done.stderr
    assert "Traceback" not in done.stderr
