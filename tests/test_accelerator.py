"""scripts/accelerator.py, in its tiny form on a CPU, and that PyTorch's networks are the same."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import accelerator
from accelerator import Case, Options, Result, Sizes
from xla_flags import FLAGS

PARAMETERS = {"gpt2": 124_439_808, "resnet50": 25_557_032}


def test_the_tiny_form_prints_its_table(capsys):
    options = Options(turns=1, steps=1, batch_size=2, torch=False, tiny=True)
    results = accelerator.accelerator(options)
    assert [result.case.workload for result in results] == ["gpt2", "resnet50", "decode"]
    for result in results:
        assert result.seconds > 0
        assert result.peer_seconds is None
        assert result.compile_seconds > 0
    *_, head, rule, first, second, third = capsys.readouterr().out.splitlines()
    columns = head.count("|")
    assert "utilisation" in head
    assert all(line.count("|") == columns for line in (rule, first, second, third))
    assert " tokens |" in first
    assert " images |" in second
    assert "| decode |" in third


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_have_their_papers_size(name):
    work = accelerator.work_of(Case(name, Sizes(), 1))
    params, _ = jax.eval_shape(work.objective.init, jax.random.key(0), work.batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_pytorchs_networks_have_the_same_size(name):
    pytest.importorskip("torch", reason="PyTorch is the peer, and no dependency")
    import torch_accelerator

    assert torch_accelerator.count(Case(name, Sizes(), 1)) == PARAMETERS[name]


def test_the_operations_of_gpt2_are_palms():
    # Per token 6 per parameter of a product and 12 L T D of attention; T here is 64.
    sizes = Sizes(context=64)
    L, D, T = sizes.depth, sizes.width, sizes.context
    per_token = 6 * (12 * L * D**2 + sizes.vocab * D) + 12 * L * T * D
    for loss in ("whole", "chunks"):
        assert accelerator.operations(Case("gpt2", sizes, 2, loss)) == 2 * T * per_token


def test_utilisation_is_of_the_peak():
    case = Case("gpt2", Sizes(), 1)
    result = Result(case, 1, "tokens", 1024, 1.0, 50, [(1.0, 4.0), (2.0, None), (3.0, 2.0)])
    assert result.utilisation(100.0, result.seconds) == 0.25
    assert result.utilisation(100.0, result.peer_seconds) == pytest.approx(50 / 300)
    assert result.utilisation(None, result.seconds) is None


def test_variants_are_rows_of_gpt2_only():
    options = Options(losses=("whole", "chunks"), attention=("xla", "cudnn"), unroll=(1, 12))
    found = [case.workload for case in accelerator.cases(options)]
    assert [found.count(name) for name in ("gpt2", "resnet50", "decode")] == [8, 1, 2]


def test_the_kernel_of_attention_is_the_one_asked_for(monkeypatch):
    asked = []
    x = jnp.zeros((1, 4, 2, 8))
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda q, *_, implementation=None, **__: asked.append(implementation) or q,
    )
    for kernel in ("xla", "cudnn"):
        accelerator.attend_by(kernel)(x, x, x, None, None, True, None)
    assert asked == ["xla", "cudnn"]


def test_xla_knows_every_flag():
    flags = " ".join(found.get("XLA_FLAGS", "") for found in FLAGS.values())
    program = "import jax.numpy as jnp; jnp.zeros(3) + 1"

    def start(flags):
        environment = {**os.environ, "XLA_FLAGS": flags}
        return subprocess.run([sys.executable, "-c", program], env=environment, stderr=-1)

    done = start(flags)
    assert done.returncode == 0, done.stderr.decode()
    assert start("--xla_gpu_no_such_flag=true").returncode != 0
