"""The README's Python runs as printed, its commands are understood, and its pages are there."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxmodels import plan
from jaxmodels.data import placeholders
from jaxmodels.experiment import cli, setup

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LAUNCH_TPU = ROOT / "scripts" / "launch_tpu_vm.sh"

CHECKS = """
assert scalars["loss"] < 1.5
assert per_example["conv1"]["kernel"].shape == (128, 3, 3, 1, 32)
assert first["image"].shape == (64, 28, 28, 1)
assert sampled.shape == (1, 40)
assert results["test/error"] <= 1
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
    assert len(blocks) == 8
    script = ROOT / "experiments" / "mlp_mnist.py"
    small = "--dataset digits --steps 2 --widths 16 --batch-size 8 --out runs/lenet"
    python(script, *small.split(), folder=tmp_path)
    (tmp_path / "readme.py").write_text("\n".join([*blocks, CHECKS]))
    python("readme.py", folder=tmp_path)


@pytest.mark.parametrize("name", ["experiments/README.md", "CONTRIBUTING.md", "scripts/README.md"])
def test_linked_pages_are_there(name):
    assert f"({name})" in README.read_text()
    assert (ROOT / name).exists()


def commands(path):
    """The lines of a page that start experiments, each whole."""
    whole = re.sub(r"\\+\n *", "", path.read_text())
    lines = re.findall(r"^(?:    |scripts/).*experiments/\w+\.py.*", whole, re.MULTILINE)
    return [line.strip() for line in lines if "--help" not in line]


def devices(command):
    """Those that it is started on."""
    if "v5litepod-16" in command:
        pytest.importorskip("libtpu", reason="the extra tpu is not installed")
        return plan.target("v5e:4x4").devices
    return jax.devices()[: 8 if "--mesh" in command else 4 if "--nodes 4" in command else 1]


@pytest.mark.parametrize(
    "command",
    [*commands(README), *commands(LAUNCH_TPU)],
    ids=lambda command: command.partition("experiments/")[2],
)
def test_a_command_is_understood_and_its_batch_can_be_split(command, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    script, *arguments = shlex.split(command.partition("experiments/")[2], comments=True)
    name = script.removesuffix(".py")
    make = getattr(importlib.import_module(name), name)
    hyperparameters, options = cli.parse(make, arguments)
    with placeholders.with_placeholders():
        experiment = make(**hyperparameters)
    setup.make_mesh(experiment, options, devices(command))


def test_a_slice_is_among_the_commands():
    for page in README, LAUNCH_TPU:
        assert any("--type v5litepod-16" in command for command in commands(page))
