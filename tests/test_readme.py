"""The README's Python runs as printed, from top to bottom."""

import re
from pathlib import Path

import pytest

from jaxmodels import experiment

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    small_run(monkeypatch)
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    loss = float(re.search(r"loss (\d\.\d+)", capsys.readouterr().out)[1])
    assert loss < 1.0
    assert names["per_example"]["conv1"]["kernel"].shape == (128, 3, 3, 1, 32)
    assert names["first"]["image"].shape == (64, 28, 28, 1)
    assert names["figures"]["test/error"] <= 1
    assert names["params"]["output"]["kernel"].shape == (16, 10)


def small_run(monkeypatch):
    """A run of two steps in the folder that the README reads back."""
    monkeypatch.syspath_prepend(README.parent / "experiments")
    from mlp_mnist import mlp_mnist

    arguments = "--dataset digits --steps 2 --widths 16 --batch-size 8 --out runs/lenet"
    experiment.run(mlp_mnist, [*arguments.split(), "--compilation-cache", "off"])


@pytest.mark.parametrize("name", ["experiments/README.md", "CONTRIBUTING.md", "scripts/README.md"])
def test_linked_pages_are_there(name):
    assert f"({name})" in README.read_text()
    assert (README.parent / name).exists()
