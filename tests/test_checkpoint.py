"""Checkpoints: exact, verified, and never worse off after a kill, damage or a full disk."""

import contextlib
import os
import pwd
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.errors import UserError
from jaxmodels.train import checkpoint_folder
from jaxmodels.train.checkpoint import Checkpoints, DamagedCheckpoints, SaveFailed, StateDiffers


def mesh(size, first=0):
    return Mesh(np.array(jax.devices()[first : first + size]), ("data",))


def make(step, on):
    """A state of every kind of leaf, all of whose values follow from `step`."""
    kernel = jnp.arange(64 * 8, dtype=jnp.float32).reshape(64, 8) + step
    state = {
        "params": {"Dense_0": {"kernel": kernel, "bias": jnp.full(8, step, jnp.bfloat16)}},
        "opt_state": ({"count": jnp.int32(step)}, (), [kernel * 2]),
        "key": jax.random.key(step),
        "keys": jax.random.split(jax.random.key(step, impl="rbg"), 8),
        "nothing": jnp.zeros((0, 3)),
        "step": jnp.int32(step),
    }
    return jax.tree.map(jax.device_put, state, shardings(state, on))


def shardings(state, on):
    return jax.tree.map(
        lambda x: NamedSharding(on, P("data") if x.shape[:1] == (64,) else P()), state
    )


def like(state, on=None):
    where = jax.tree.map(lambda x: x.sharding, state) if on is None else shardings(state, on)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, where
    )


def assert_same(found, expected):
    def compare(a, b):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)

    jax.tree.map(compare, found, expected)


def save(folder, *steps, on=None, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make(step, on or mesh(1)))


def save_and_fail(folder, state):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(300, state)
        raise ZeroDivisionError


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.fixture
def state():
    return make(300, mesh(1))


class TestSaving:
    def test_gives_back_what_was_saved(self, tmp_path, state):
        with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
            assert checkpoints.restore_latest(like(state)) is None
            checkpoints.save(300, state, {"loss": 0.5}, {"batch": [1, None, "a"]})
            restored = checkpoints.restore_latest(like(state))
        assert restored.step == 300
        assert restored.rejected == []
        assert restored.metrics == {"loss": 0.5}
        assert restored.metadata == {"batch": [1, None, "a"]}
        assert_same(restored.state, state)

    def test_state_may_be_donated_at_once(self, tmp_path):
        add = jax.jit(lambda x: x + 1, donate_argnums=0)
        x = add(jnp.zeros(3_000_000))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, {"x": x})
            for _ in range(5):
                x = add(x)
            restored = checkpoints.restore(1, {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
        assert (restored.state["x"] == 1).all()

    def test_numbers_of_python_and_numpy(self, tmp_path):
        state = {"a": 3, "b": np.float32(2), "c": np.arange(3, dtype=np.int32), "d": True}
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(0, state)
            state["c"][:] = 0
            restored = checkpoints.restore_latest(
                jax.eval_shape(lambda: jax.tree.map(jnp.array, state))
            )
        assert {k: v.tolist() for k, v in restored.state.items()} == {
            "a": 3,
            "b": 2,
            "c": [0, 1, 2],
            "d": True,
        }

    def test_a_step_is_not_compiled_again(self, tmp_path, caplog):
        where = {"x": NamedSharding(mesh(8), P("data")), "key": NamedSharding(mesh(8), P())}
        init = jax.jit(lambda: {"x": jnp.zeros(64), "key": jax.random.key(0)}, out_shardings=where)

        def update(state):
            return {"x": state["x"] + 1, "key": jax.random.fold_in(state["key"], 1)}

        step = jax.jit(update, out_shardings=where, donate_argnums=0)
        with Checkpoints(tmp_path) as checkpoints, jax.log_compiles():
            state = step(step(init()))
            checkpoints.save(2, state)
            restored = checkpoints.restore_latest(like(state))
            step(step(restored.state))
        compiled = [r for r in caplog.messages if r.startswith("Finished XLA") and "update" in r]
        assert len(compiled) == 1

    def test_same_step_again_is_nothing_new(self, tmp_path, state):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(300, state)
            checkpoints.save(300, state)
            assert checkpoints.steps() == [300]
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore_latest(like(state))
            checkpoints.save(300, state)

    def test_another_runs_step_is_not_overwritten(self, tmp_path, state):
        save(tmp_path, 300)
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="another run"):
            checkpoints.save(300, state)

    @pytest.mark.parametrize("empty", [{}, {"a": jnp.zeros((0, 2))}])
    def test_state_without_numbers(self, tmp_path, empty):
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="no numbers"):
            checkpoints.save(0, empty)

    def test_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="no checkpoints can be kept"):
            Checkpoints(tmp_path / "file")

    @pytest.mark.parametrize("name", ["run[3]", "run*", "run?", "a\\b"])
    def test_folder_that_orbax_takes_for_a_pattern(self, tmp_path, name):
        with pytest.raises(UserError, match="a pattern of names; choose a folder without"):
            Checkpoints(tmp_path / name)

    @pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "{x}", "ünï", "a'b", "a:b", "-x", "~"])
    def test_folders_with_odd_names(self, tmp_path, state, name):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(3, state)
            assert_same(checkpoints.restore_latest(like(state)).state, state)

    def test_a_user_without_a_name(self, tmp_path, state, monkeypatch):
        """As in a container, `docker run --user 12345`."""

        def unnamed(uid):
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        monkeypatch.setattr(pwd, "getpwuid", unnamed)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(3, state)
        assert_same(Checkpoints(tmp_path).restore_latest(like(state)).state, state)

    def test_what_cannot_be_read_is_not_recorded(self, tmp_path, state, monkeypatch):
        monkeypatch.setattr(checkpoint_folder, "_PATTERN_CHARACTERS", "")
        with Checkpoints(tmp_path / "run[3]") as checkpoints:
            checkpoints.save(3, state)
            with pytest.raises(SaveFailed):
                checkpoints.wait()
            assert checkpoints.steps() == []

    def test_an_error_of_the_caller_comes_through(self, tmp_path, state):
        with pytest.raises(ZeroDivisionError):
            save_and_fail(tmp_path, state)
        assert Checkpoints(tmp_path).steps() == [300]


class TestKeeping:
    def test_last_ones(self, tmp_path):
        save(tmp_path, 1, 2, 3, 4, keep=2)
        assert Checkpoints(tmp_path).steps() == [3, 4]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "3.json", "4", "4.json"]

    @pytest.mark.parametrize(("minimize", "expected"), [(True, [2, 5]), (False, [3, 5])])
    def test_best_one(self, tmp_path, minimize, expected):
        metrics = [{"loss": np.nan}, {"loss": 0.1}, {"loss": 0.9}, {"loss": 0.5}, {}]
        with Checkpoints(tmp_path, keep=1, best="loss", minimize=minimize) as checkpoints:
            for step, values in enumerate(metrics, 1):
                checkpoints.save(step, {"x": jnp.int32(step)}, values)
        assert checkpoints.steps() == expected
        best = Checkpoints(tmp_path, best="loss", minimize=minimize).open("best")
        assert best.step == expected[0]
        assert best.read_part("x") == expected[0]

    def test_better_than_all(self, tmp_path):
        with Checkpoints(tmp_path, best="loss") as checkpoints:
            assert checkpoints.improves({"loss": 9.0})
            for step, loss in enumerate([0.5, 0.2, np.nan], 1):
                checkpoints.save(step, {"x": jnp.int32(step)}, {"loss": loss})
            found = [checkpoints.improves({"loss": x}) for x in (0.1, 0.2, 0.3, np.nan)]
            assert found == [True, False, False, False]
            assert not checkpoints.improves({})
        assert not Checkpoints(tmp_path).improves({"loss": 0.0})

    def test_one_whose_record_is_damaged_is_not_deleted(self, tmp_path):
        state = {"x": jnp.int32(1)}
        with Checkpoints(tmp_path, keep=1, best="loss") as checkpoints:
            checkpoints.save(1, state, {"loss": 0.1})
            checkpoints.save(2, state, {"loss": 0.5})
            checkpoints.wait()
            (tmp_path / "1.json").write_text("{")
            checkpoints.save(3, state, {"loss": 0.6})
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"1.damaged", "1.damaged.json", "2", "2.json", "3", "3.json"}

    def test_metrics_of_a_step_that_was_saved_without(self, tmp_path):
        with Checkpoints(tmp_path, best="loss") as checkpoints:
            checkpoints.save(1, {"x": jnp.int32(1)})
            checkpoints.add_metrics(1, {"loss": 0.5})
            checkpoints.add_metrics(1, {"loss": 0.1})  # it has some now
            checkpoints.add_metrics(7, {"loss": 0.1})  # there is none
            assert not checkpoints.improves({"loss": 0.5})
            assert checkpoints.open("best").step == 1

    def test_unknown_metric(self, tmp_path, state):
        checkpoints = Checkpoints(tmp_path, best="eror")
        with pytest.raises(
            UserError, match="best='eror' is not a metric of step 1; it has: error, loss"
        ):
            checkpoints.save(1, state, {"error": 1.0, "loss": 2.0})

    def test_none(self, tmp_path):
        with pytest.raises(UserError, match="at least 1"):
            Checkpoints(tmp_path, keep=0)


class TestParts:
    def test_is_read_without_knowing_the_state(self, tmp_path):
        save(tmp_path, 100, 300, on=mesh(8))
        params = Checkpoints(tmp_path).open().read_part("params")
        assert_same(params, make(300, mesh(8))["params"])
        count = Checkpoints(tmp_path).open().read_part("opt_state/0/count")
        assert count == 300

    def test_of_a_step_and_of_none(self, tmp_path):
        save(tmp_path, 100, 300)
        assert Checkpoints(tmp_path).open(100).read_part("opt_state/0/count") == 100
        with pytest.raises(UserError, match=r"no checkpoint of step 200 .* available: 100, 300"):
            Checkpoints(tmp_path).open(200)
        with pytest.raises(UserError, match="these checkpoints have no metric to rank them"):
            Checkpoints(tmp_path).open("best")

    def test_warns_of_damage_and_changes_nothing(self, tmp_path):
        save(tmp_path, 100, 300)
        reason = flip_bit(tmp_path)
        with pytest.warns(UserWarning, match=reason):
            assert Checkpoints(tmp_path).open().read_part("opt_state/0/count") == 100
        assert (tmp_path / "300").exists()

    def test_there_is_none(self, tmp_path):
        with pytest.raises(UserError, match="there is no checkpoint in"):
            Checkpoints(tmp_path).open().read_part("params")
        save(tmp_path, 100)
        with pytest.raises(UserError, match=r"no part 'parms'; its parts are .*params"):
            Checkpoints(tmp_path).open().read_part("parms")


class TestMeshes:
    @pytest.mark.parametrize(("written", "read"), [(8, 4), (8, 1), (4, 8), (1, 8), (2, 4)])
    def test_moves_to_another(self, tmp_path, written, read):
        state = make(7, mesh(written))
        save(tmp_path, 7, on=mesh(written))
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore_latest(like(state, on=mesh(read, first=8 - read)))
        assert_same(restored.state, state)
        expected = shardings(state, mesh(read, first=8 - read))
        same = jax.tree.map(
            lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), restored.state, expected
        )
        assert all(jax.tree.leaves(same))


class TestAnotherState:
    def test_leaf_by_leaf(self, tmp_path, state):
        save(tmp_path, 300)
        other = like(state)
        other["params"]["Dense_0"] = {"kernel": jax.ShapeDtypeStruct((64, 10), jnp.float32)}
        other["step"] = jax.ShapeDtypeStruct((), jnp.float32)
        other["key"] = other["keys"]
        other["extra"] = other["step"]
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(StateDiffers) as caught:
            checkpoints.restore_latest(other)
        lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
        assert sorted(lines) == [
            "extra: expected float32[], found nothing",
            "key: expected key<rbg>[8], found key<fry>[]",
            "params/Dense_0/bias: expected nothing, found bfloat16[8]",
            "params/Dense_0/kernel: expected float32[64, 10], found float32[64, 8]",
            "step: expected float32[], found int32[]",
        ]
        assert checkpoints.steps() == [300]


def flip_bit(folder):
    path = largest(folder / "300")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return rf"{path.name}: checksum differs"


def truncate(folder):
    path = largest(folder / "300")
    os.truncate(path, path.stat().st_size // 2)
    return rf"{path.name}: \d+ bytes, \d+ were written"


def remove_file(folder):
    path = largest(folder / "300")
    path.unlink()
    return f"{path.name}: missing"


def remove_data(folder):
    shutil.rmtree(folder / "300" / "state" / "ocdbt.process_0")
    return r"ocdbt.process_0/\S*: missing"


def empty_folder(folder):
    shutil.rmtree(folder / "300")
    (folder / "300").mkdir()
    return "_METADATA: missing"


def remove_folder(folder):
    shutil.rmtree(folder / "300")
    return "_METADATA: missing"


def truncate_record(folder):
    os.truncate(folder / "300.json", 100)
    return "300.json: unreadable"


def change_record(folder):
    path = folder / "300.json"
    path.write_text(path.read_text().replace('"step": 300', '"step": 301'))
    return "300.json: checksum differs"


def remove_record(folder):
    (folder / "300.json").unlink()
    return "300.json: missing"


DAMAGES = [
    flip_bit,
    truncate,
    remove_file,
    remove_data,
    empty_folder,
    remove_folder,
    truncate_record,
    change_record,
    remove_record,
]


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_the_one_before_is_used(self, tmp_path, state, damage):
        save(tmp_path, 100, 200, 300)
        reason = damage(tmp_path)
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore_latest(like(state))
            assert restored.step == 200
            assert_same(restored.state, make(200, mesh(1)))
            checkpoints.save(300, state)
            again = checkpoints.restore_latest(like(state))
        assert all(line.startswith("step 300: ") for line in restored.rejected)
        assert any(re.search(reason, line) for line in restored.rejected)
        assert again.step == 300
        assert again.rejected == []
        left = [path.name for path in tmp_path.iterdir() if path.name.startswith("300.")]
        # What was never completed goes once the step is.
        assert left == ["300.json"] if damage is remove_record else "300.damaged" in str(left)

    @pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not remove_record])
    def test_none_is_good(self, tmp_path, state, damage):
        save(tmp_path, 300)
        damage(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        message = r"step 300: .*\n.*Nothing was deleted"
        with Checkpoints(tmp_path) as checkpoints, pytest.raises(DamagedCheckpoints, match=message):
            checkpoints.restore_latest(like(state))
        assert sorted(tmp_path.rglob("*")) == before

    def test_two_damaged_ones_twice(self, tmp_path, state):
        save(tmp_path, 100)
        for _ in range(2):
            save(tmp_path, 200, 300)
            for step in (200, 300):
                largest(tmp_path / str(step)).write_bytes(b"")
            with Checkpoints(tmp_path) as checkpoints:
                assert checkpoints.restore_latest(like(state)).step == 100
        names = {path.name for path in tmp_path.iterdir()}
        assert {"200.damaged", "200.damaged-2", "300.damaged-2", "300.damaged-2.json"} <= names

    def test_by_number(self, tmp_path, state):
        save(tmp_path, 200, 300)
        flip_bit(tmp_path)
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.restore(200, like(state)).step == 200
            with pytest.raises(DamagedCheckpoints, match="checksum differs"):
                checkpoints.restore(300, like(state))
            with pytest.raises(UserError, match=r"no checkpoint of step 7 .*; available: 200, 300"):
                checkpoints.restore(7, like(state))

    def test_left_by_a_killed_save(self, tmp_path, state):
        save(tmp_path, 100)
        for name in ("150.orbax-checkpoint-tmp", "300.orbax-checkpoint-tmp", "170"):
            shutil.copytree(tmp_path / "100", tmp_path / name)
        (tmp_path / "300.json.partial").write_text('{"crc')
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.restore_latest(like(state)).step == 100
            checkpoints.save(300, state)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["100", "100.json", "300", "300.json"]


def big(step):
    return {"x": jnp.full(1_000_000, step)}


def save_big(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(100, big(100))


@contextlib.contextmanager
def files_up_to(size):
    """In place of a full disk: writing beyond `size` bytes of a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_ends_with_what_is_good(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(100, big(100))
            checkpoints.wait()
            with files_up_to(1_000_000):
                checkpoints.save(200, big(200))
                with pytest.raises(SaveFailed, match=r"step 200 .* MB free .* one is of step 100"):
                    checkpoints.wait()
            assert checkpoints.steps() == [100]
            checkpoints.save(200, big(200))
            assert checkpoints.restore_latest(jax.eval_shape(lambda: big(0))).step == 200
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["100", "100.json", "200", "200.json"]

    def test_is_raised_by_the_next_save(self, tmp_path):
        with Checkpoints(tmp_path) as checkpoints, files_up_to(1_000_000):
            checkpoints.save(100, big(100))
            with pytest.raises(SaveFailed, match="there is no earlier one"):
                checkpoints.save(200, big(200))

    def test_is_raised_on_the_way_out(self, tmp_path):
        with files_up_to(1_000_000), pytest.raises(SaveFailed):
            save_big(tmp_path)

    def test_hides_no_other_error(self, tmp_path):
        with files_up_to(1_000_000), pytest.raises(ZeroDivisionError) as caught:
            save_and_fail(tmp_path, big(300))
        assert "step 300 could not be written" in caught.value.__notes__[0]


QUIET = """
import sys, jax, jax.numpy as jnp, resource
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxmodels.train.checkpoint import Checkpoints, SaveFailed
jax.config.update("jax_num_cpu_devices", 2)
devices = jax.devices()
def state(step, devices, size=100):
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices)
    return {"x": jax.device_put(jnp.full(size, step), NamedSharding(mesh, P("data")))}
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state(1, devices))
    checkpoints.save(2, state(2, devices))
    checkpoints.restore(1, state(1, devices[:1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    checkpoints.save(3, state(3, devices, 1_000_000))
    try:
        checkpoints.wait()
    except SaveFailed:
        print("failed")
"""


def test_nothing_is_printed(tmp_path):
    command = [sys.executable, "-W", "error", "-c", QUIET, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("failed\n", "")


TRAINING = """
import os, sys
import jax, jax.numpy as jnp
from orbax.checkpoint import v1
from jaxmodels.train.checkpoint import Checkpoints

def state(step):
    return {f"layer {i}": jnp.full((100, 100), step) for i in range(10)}

def train():
    with Checkpoints(sys.argv[1], keep=2) as checkpoints:
        restored = checkpoints.restore_latest(jax.eval_shape(lambda: state(0)))
        step = restored.step if restored else 0
        checkpoints.save(step + 1, state(step + 1))
        print(os.getpid(), flush=True)
        for n in range(step + 2, 10_000):
            checkpoints.save(n, state(n))

for _ in sys.stdin:  # each line starts a run; importing everything is done once for all of them
    child = os.fork()
    if not child:
        train()
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    command = [sys.executable, "-c", TRAINING, tmp_path]
    like = {f"layer {i}": jax.ShapeDtypeStruct((100, 100), jnp.int32) for i in range(10)}
    last = 0
    chance = random.Random(0)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        for _ in range(10):
            print("start", file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(chance.uniform(0.0, 0.6))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"
            with Checkpoints(tmp_path) as checkpoints:
                restored = checkpoints.restore_latest(like)
            if restored is None:
                continue
            assert all(line.endswith(".json: missing") for line in restored.rejected)
            assert restored.step >= last
            assert all((x == restored.step).all() for x in restored.state.values())
            last = restored.step
        parent.stdin.close()
    assert last > 5


PROCESS = """
import os, sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jax.experimental import multihost_utils
from jaxmodels.train.checkpoint import Checkpoints, SaveFailed
folder, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, process)
mesh = jax.make_mesh((4,), ("data",))
def state(step):
    key, none = jax.random.key(step), jnp.zeros(0)
    return {"x": jnp.arange(8) * step, "r": jnp.float32(step), "key": key, "none": none}
everywhere = NamedSharding(mesh, P())
where = dict.fromkeys(["r", "key", "none"], everywhere) | {"x": NamedSharding(mesh, P("data"))}
make = jax.jit(state, out_shardings=where)
like = make(0)
with Checkpoints(folder) as checkpoints:
    assert checkpoints.restore_latest(like) is None
    checkpoints.save(1, make(1))
    checkpoints.save(2, make(2))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    multihost_utils.sync_global_devices("saved")
    if process == 0:
        os.truncate(f"{folder}/2/state/_METADATA", 3)
    restored = checkpoints.restore_latest(like)
    assert restored.step == 1 and "_METADATA: 3 bytes" in restored.rejected[0]
    for shard in restored.state["x"].addressable_shards:
        np.testing.assert_array_equal(shard.data, (np.arange(8) * 1)[shard.index])
    checkpoints.save(2, make(2))
    assert checkpoints.restore_latest(like).step == 2
    if process == 0:
        checkpoints._folder.write_record = lambda *args: 1 / 0
    checkpoints.save(3, make(3))
    try:
        checkpoints.wait()
    except ValueError as error:
        print(type(error).__name__)
"""


def test_two_processes_agree(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", PROCESS, tmp_path, str(port)]
    both = [
        subprocess.Popen(
            [*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    out = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    # The line before it is of the transport between processes.
    assert [stdout.split()[-1] for stdout, _ in out] == ["SaveFailed", "UserError"]
    assert [stderr for _, stderr in out] == ["", ""]
