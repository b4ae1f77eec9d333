"""All models under JAX_ENABLE_X64=1, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("run", [[], pytest.param(["run"], marks=pytest.mark.slow)])
def test_models_keep_the_type_of_params_and_inputs_where_64_bits_are_enabled(run):
    script = Path(__file__).parent / "x64_models.py"
    done = subprocess.run(
        [sys.executable, script, *run],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
