"""Plans: what compiled programs tell, planning without data, and every experiment on a TPU."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec
from test_experiments import FILES, SMALL, load
from tiny_run import tiny

from jaxmodels import objectives, plan, report, sharding, train
from jaxmodels.data import placeholders
from jaxmodels.errors import UserError
from jaxmodels.experiment import Options, run
from jaxmodels.experiment.planning import find_alternatives, plan_experiment
from jaxmodels.models.causal_lm import gpt2, gpt3_175b
from jaxmodels.sharding import match

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra: tpu)"
)


def test_a_plan_of_this_machine_adds_up():
    made = plan_experiment(tiny(dropout=0.0), Options(mesh="data=2,fsdp=4"), plan.target("cpu:8"))
    assert made.devices == 8
    assert made.fits is None
    assert made.per_step == {"examples": 16}
    params = {leaf.path: leaf for leaf in made.placement}
    assert params["Dense_0/kernel"].spec == ("fsdp",)
    assert params["Dense_0/kernel"].bytes == 64 * 64 * 4 // 4
    assert made.memory["params"] == sum(leaf.bytes for leaf in made.placement)
    # Images of 8x8, a convolution to 4x4 of 4, two dense layers; thrice, but for the first input.
    conv, dense = 4 * 4 * 4 * 9, 64 * 64 + 64 * 10
    assert made.matmul_flops == 16 * 2 * (3 * dense + 2 * conv)
    assert {part.kind for part in made.collectives} >= {"all-reduce", "all-gather"}


def test_a_plan_is_told_and_written(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(tiny, ["--plan", "cpu:8", "--out", str(tmp_path)])
    assert ended.value.code == 0
    assert "cpu:8, 8 x CPU" in capsys.readouterr().out
    made = json.loads((tmp_path / "plan.json").read_text())
    assert made["parameters"] == sum(
        size for size in (4 * 9 + 4, 2 * 4, 64 * 64 + 64, 64 * 10 + 10)
    )
    assert "Collectives of a step" in (tmp_path / "plan.html").read_text()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["cpu:0", "cpu:many", "cpu:9"])
def test_devices_that_cannot_be_are_refused(name):
    with pytest.raises(UserError, match=f"--plan {name}"):
        plan.target(name)


@needs_libtpu
@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5litepod-16", "v5e:3x5"])
def test_a_topology_that_libtpu_does_not_know_is_refused(name):
    with pytest.raises(UserError, match=r"no such topology .* v5e:4x4"):
        plan.target(name)


TOO_WIDE = 14_000_000
"""Of the hidden layer of `tiny`: params, average and Adam's moments are 17 GB, a v5e has 16 GiB."""


@needs_libtpu
def test_what_does_not_fit_is_changed_until_it_does(tmp_path, capsys):
    arguments = f"--plan v5e:2x4 --mesh data=4,tensor=2 --batch-size 4 --width {TOO_WIDE}"
    with pytest.raises(SystemExit) as ended:
        run(tiny, [*arguments.split(), "--out", str(tmp_path)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "GiB of 15.75 GiB: DOES NOT FIT" in printed
    assert "with --mesh fsdp=-1,tensor=2:" in printed
    made = json.loads((tmp_path / "plan.json").read_text())
    assert made["memory"]["params"] == 4 * made["parameters"]
    assert made["memory_total"] >= 4 * made["memory"]["params"]
    assert made["collectives"] is made["device_matmul_flops"] is None
    assert made["lower_bounds"].keys() == {"matmul", "memory"}
    (alternative,) = made["alternatives"]
    assert alternative["change"] == {"mesh": "fsdp=-1,tensor=2"}
    assert alternative["fits"]
    assert "a step that does not fit is not compiled" in (tmp_path / "plan.html").read_text()


@needs_libtpu
def test_a_change_that_cannot_be_made_is_told_and_left():
    rule = match({"Dense_0/bias$": PartitionSpec("fsdp")})
    wide = dataclasses.replace(tiny(width=TOO_WIDE + 2), rule=rule)
    options = Options(mesh="data=4,fsdp=2", remat="dots")
    target = plan.target("v5e:2x4")
    refused, *others = find_alternatives(
        wide, options, target, plan_experiment(wide, options, target)
    )
    assert refused[0] == {"mesh": "fsdp=-1"}
    assert "Dense_0/bias" in str(refused[1])
    assert [change for change, _ in others] == [
        {"remat": "full"},
        {"remat": "full", "batch-size": "8"},
    ]
    assert not any(other.fits for _, other in others)


@needs_libtpu
def test_an_axis_that_does_not_split_the_products_is_no_gain():
    target = plan.target("v5e:2x4")
    experiment = tiny(batch_size=128, width=512, dropout=0.0)
    split = plan_experiment(experiment, Options(mesh="data=8"), target)
    whole = plan_experiment(experiment, Options(mesh="tensor=8"), target)
    assert split.device_matmul_flops == split.matmul_flops // 8
    # The convolution's padding is in `matmul`, a five-hundredth of it, and in no compiled product.
    assert whole.device_matmul_flops == pytest.approx(whole.matmul_flops, rel=2e-3)
    assert whole.lower_bounds["matmul"] == pytest.approx(8 * split.lower_bounds["matmul"], rel=2e-3)


def test_the_axes_that_do_not_divide_a_param_are_told():
    target = plan.target("cpu:8")
    mesh = sharding.mesh("fsdp=2,tensor=4", target.devices)
    model = gpt2(vocab_size=257, context=64, width=96, depth=1, num_heads=6)
    example = {name: jax.ShapeDtypeStruct((8, 64), jnp.int32) for name in ("tokens", "targets")}
    objective, rule = objectives.next_token(model), sharding.tensor(model.tensor_dims)
    state = train.abstract_state(objective, optax.sgd(0.1), example, mesh, rule)
    step = jax.jit(lambda state, batch: state)
    made = plan.plan(step, state, example, mesh, target)
    placed = {leaf.path.removeprefix("stack/layers/block/"): leaf for leaf in made.placement}
    hidden = placed["feedforward/hidden/kernel"]
    assert hidden.spec == (None, "fsdp", "tensor")
    assert hidden.undivided == ()
    # Six heads and 257 rows, of which four devices hold no equal parts.
    for path in "attention/query/kernel", "attention/out/kernel", "embedding/embedding":
        assert "fsdp" in placed[path].spec
        assert placed[path].undivided == ("tensor",)
    assert placed["attention/out/bias"].undivided == ()  # too small to be split
    assert "257 × 96, 96 over fsdp, not over tensor" in report.plan_lines(made.to_json())


@needs_libtpu
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_compiles_for_a_tpu(path):
    claim = load(path)(**SMALL[path.stem], steps=20, batch_size=8)
    made = plan_experiment(claim, Options(), plan.target("v5e:2x4"))
    assert made.fits
    assert made.matmul_flops > 0
    assert made.lower_bounds.keys() == {"matmul", "memory", "network"}


DECLARED = {
    "mlp_mnist": ("image", (128, 28, 28, 1)),
    "iwae_mnist": ("image", (20, 28, 28, 1)),
    "resnet_cifar10": ("image", (128, 32, 32, 3)),
    "gpt_shakespeare": ("tokens", (12, 64)),
    "lstm_ptb": ("tokens", (20, 20)),
    "transformer_multi30k": ("source", None),
}


@pytest.mark.parametrize("path", [p for p in FILES if p.stem in DECLARED], ids=lambda p: p.stem)
def test_an_experiment_is_made_without_its_data_for_a_plan_only(path, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXMODELS_TEXT_DIR", raising=False)
    make = load(path)
    with pytest.raises(UserError, match=r"not prepared|is not there"):
        make(data_dir=str(tmp_path))
    with placeholders.with_placeholders():
        claim = make(data_dir=str(tmp_path))
    name, shape = DECLARED[path.stem]
    found = claim.train.example[name]
    assert shape is None or found.shape == shape
    params, _ = jax.eval_shape(
        claim.prepared_objective.init, jax.random.key(0), claim.train.example
    )
    largest = max(leaf.size for leaf in jax.tree.leaves(params))
    if path.stem == "lstm_ptb":
        assert largest == 10_000 * 200
    if path.stem == "transformer_multi30k":
        assert largest == 7_885 * 256


def test_gpt3_has_175_billion_parameters():
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    params = jax.eval_shape(gpt3_175b().init, jax.random.key(0), tokens)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 174_604_259_328
