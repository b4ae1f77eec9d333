"""Plans: what compiled programs tell, planning without data, and every experiment on a TPU."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from test_experiments import FILES, SMALL, load
from tiny_run import tiny

from jaxmodels import plan
from jaxmodels.data import declared
from jaxmodels.experiment import Options, run
from jaxmodels.experiment.planning import plan_for
from jaxmodels.models.transformer import gpt3_175b
from jaxmodels.plan import collectives
from jaxmodels.typing import UserError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra: tpu)"
)

HLO = """\
HloModule step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %all-gather.1 = bf16[8,4]{1,0} all-gather(%part), channel_id=1, dimensions={0}
  %all-gather.2 = bf16[8,4]{1,0} all-gather(%part), channel_id=1, dimensions={0}
  %all-reduce.1 = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=2, to_apply=%add
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
  %moved = (f32[16]{0}, f32[16]{0}, u32[]) collective-permute-start(%q), channel_id=3
  %done = f32[16]{0} collective-permute-done(%moved)
}
"""


def test_collectives_are_counted_as_often_as_they_run():
    found = {part.kind: (part.count, part.bytes) for part in collectives.found(HLO)}
    assert found == {
        "all-gather": (12, 12 * 64),  # one, written twice, under one channel
        "all-reduce": (12, 12 * 28),
        "collective-permute": (1, 64),
    }


def test_a_plan_of_this_machine_adds_up():
    made = plan_for(tiny(dropout=0.0), Options(mesh="data=2,fsdp=4"), plan.target("cpu:8"))
    assert made.devices == 8
    assert made.fits is None
    assert made.per_step == {"examples": 16}
    params = {leaf.path: leaf for leaf in made.placement}
    assert params["Dense_0/kernel"].spec == ("fsdp",)
    assert params["Dense_0/kernel"].bytes == 64 * 64 * 4 // 4
    assert made.memory["params"] == sum(leaf.bytes for leaf in made.placement)
    # Images of 8x8, a convolution to 4x4 of 4, two dense layers; thrice, but for the first input.
    conv, dense = 4 * 4 * 4 * 9, 64 * 64 + 64 * 10
    assert made.matmul == 16 * 2 * (3 * dense + 2 * conv)
    assert {part.kind for part in made.traffic} >= {"all-reduce", "all-gather"}


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


@needs_libtpu
def test_what_does_not_fit_is_changed_until_it_does(tmp_path, capsys, monkeypatch):
    real = plan.target("v5e:2x4")
    asked = plan_for(tiny(width=512), Options(), real)
    chip = dataclasses.replace(real.chip, memory=asked.total - 1)
    small = dataclasses.replace(real, chip=chip)
    monkeypatch.setattr(plan, "target", lambda name: small)
    with pytest.raises(SystemExit):
        run(tiny, ["--plan", "v5e:2x4", "--width", "512", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed
    assert "with --mesh fsdp=-1:" in printed
    tried = json.loads((tmp_path / "plan.json").read_text())["instead"]
    assert tried[0]["change"] == {"mesh": "fsdp=-1"}
    assert [other["fits"] for other in tried][-1]


@needs_libtpu
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_compiles_for_a_tpu(path):
    claim = load(path)(**SMALL[path.stem], steps=20, batch_size=8)
    made = plan_for(claim, Options(), plan.target("v5e:2x4"))
    assert made.fits
    assert made.matmul > 0
    assert made.bounds.keys() == {"products", "memory", "network"}


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
    with declared.instead_of_data():
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
