"""The README's Python runs as printed, from top to bottom, and its pages are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

CHECKS = """
assert scalars["loss"] < 1.5
assert per_example["conv1"]["kernel"].shape == (128, 3, 3, 1, 32)
assert first["image"].shape == (64, 28, 28, 1)
assert written.shape == (1, 40)
assert figures["test/error"] <= 1
assert params["output"]["kernel"].shape == (16, 10)
assert logits.shape == (64, 10)
"""


def python(*arguments, folder):
    """Run a fresh interpreter, as a user would, on one device; warnings are errors."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-W", "error", *arguments], check=True, cwd=folder, env=environment
    )


def test_the_readmes_python_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 7
    script = ROOT / "experiments" / "mlp_mnist.py"
    small = "--dataset digits --steps 2 --widths 16 --batch-size 8 --out runs/lenet"
    python(script, *small.split(), folder=tmp_path)
    (tmp_path / "readme.py").write_text("\n".join([*blocks, CHECKS]))
    python("readme.py", folder=tmp_path)


@pytest.mark.parametrize("name", ["experiments/README.md", "CONTRIBUTING.md", "scripts/README.md"])
def test_linked_pages_are_there(name):
    assert f"({name})" in README.read_text()
    assert (ROOT / name).exists()
