"""What a run costs: sensors that are imitated, usage over several starts, the page."""

import json
import re
import sys
import types

import jax
import pytest
from tiny_run import disturbed, quietly, send, tiny

from jaxmodels import report, sharding, train
from jaxmodels.errors import UserError
from jaxmodels.experiment import Options, cost, energy, run
from jaxmodels.experiment.setup import configure

CPU = types.SimpleNamespace(platform="cpu")
GPU = types.SimpleNamespace(platform="gpu")


# RAPL


def zone(folder, number, name, microjoules, span=262_143_328_850):
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    for file, value in ("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", span):
        (path / file).write_text(f"{value}\n")
    return path / "energy_uj"


def test_packages_are_counted_and_nothing_twice(tmp_path):
    first, second = zone(tmp_path, "0", "package-0", 5), zone(tmp_path, "1", "package-1", 7)
    zone(tmp_path, "0:0", "core", 3)
    zone(tmp_path, "0:1", "dram", 3)
    zone(tmp_path, "2", "psys", 12)
    (tmp_path / "intel-rapl-mmio:0").mkdir()
    (tmp_path / "intel-rapl").mkdir()
    meter = energy.open_meter([CPU], tmp_path)
    assert meter.running
    assert meter.read() == {"RAPL package-0": 0.0, "RAPL package-1": 0.0}
    first.write_text("2000005\n")
    second.write_text("500007\n")
    assert meter.read() == pytest.approx({"RAPL package-0": 2.0, "RAPL package-1": 0.5})


def test_a_counter_that_begins_again_at_zero_goes_on(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 9_000_000, span=10_000_000)
    meter = energy.open_meter([CPU], tmp_path)
    for value, joules in (9_500_000, 0.5), (1_500_000, 2.5), (500_000, 11.5):
        counter.write_text(f"{value}\n")
        assert meter.read() == pytest.approx({"RAPL package-0": joules})


def test_a_counter_that_may_not_be_read_is_absent(tmp_path):
    zone(tmp_path, "0", "package-0", 1).unlink()
    zone(tmp_path, "1", "package-1", "nonsense")
    # Root may read all files; a folder not even root.
    zone(tmp_path, "2", "package-2", 1).unlink()
    (tmp_path / "intel-rapl:2" / "energy_uj").mkdir()
    meter = energy.open_meter([CPU], tmp_path)
    assert not meter.running
    assert meter.read() == {}
    assert meter.unmeasured == {"CPUs": f"{tmp_path} is not readable by this user"}
    unmeasured = energy.rapl_sensors(tmp_path / "absent").unmeasured
    assert unmeasured == {"CPUs": f"{tmp_path / 'absent'} has no RAPL"}


def test_a_counter_that_fails_ends_the_measurement_and_nothing_else(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 0)
    meter = energy.open_meter([CPU], tmp_path)
    counter.write_text("3000000")
    assert meter.read() == {"RAPL package-0": 3.0}
    counter.unlink()
    assert meter.read() == {"RAPL package-0": 3.0}
    assert not meter.running
    counter.write_text("4000000")
    assert meter.read() == {"RAPL package-0": 3.0}


# NVML


class NVMLError(Exception):
    """As in pynvml."""


def pynvml(millijoules, driver=True):
    """The package with GPUs that count so; one of None cannot count."""

    def check(good):
        if not good:
            raise NVMLError("Not Supported")

    def energy_of(number):
        check(millijoules[number] is not None)
        return millijoules[number]

    def by_uuid(name):
        check(name.startswith("GPU-"))
        return int(name.removeprefix("GPU-"))

    return types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: check(driver),
        nvmlDeviceGetCount=lambda: len(millijoules),
        nvmlDeviceGetHandleByIndex=lambda n: check(n < len(millijoules)) or n,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )


@pytest.fixture
def gpus(monkeypatch):
    """Counters of three GPUs, the last of which has none."""
    millijoules = [1_000, 2_000, None]
    monkeypatch.setitem(sys.modules, "pynvml", pynvml(millijoules))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return millijoules


def test_gpus_are_counted_where_a_run_uses_gpus(gpus, tmp_path):
    assert energy.open_meter([CPU], tmp_path).read() == {}
    meter = energy.open_meter([GPU], tmp_path)
    gpus[0] += 4_000
    assert meter.read() == {"NVML GPU 0": 4.0, "NVML GPU 1": 0.0}
    assert meter.unmeasured["GPU 2"] == "NVML: Not Supported"
    assert meter.unmeasured.keys() == {"CPUs", "GPU 2"}


def test_a_driver_that_was_loaded_anew_counts_from_zero(gpus, tmp_path):
    meter = energy.open_meter([GPU], tmp_path)
    gpus[1] = 500
    assert meter.read()["NVML GPU 1"] == 0.5


@pytest.mark.parametrize(
    ("chosen", "names"),
    [("1", ["1"]), ("GPU-1, 0", ["GPU-1", "0"]), ("2", []), ("", []), ("-1", []), ("7", [])],
)
def test_only_the_gpus_that_the_process_sees(gpus, chosen, names):
    del gpus
    counters = energy.nvml_sensors({"CUDA_VISIBLE_DEVICES": chosen}).counters
    assert [counter.name for counter in counters] == [f"NVML GPU {name}" for name in names]


def test_without_package_or_driver_no_gpu_is_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    unmeasured = {"GPUs": "nvidia-ml-py, of the extra cuda, is not installed"}
    assert energy.nvml_sensors({}) == energy.Sensors((), unmeasured)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml([1], driver=False))
    assert energy.nvml_sensors({}) == energy.Sensors((), {"GPUs": "NVML: Not Supported"})


def test_no_counter_of_a_tpu_is_known(tmp_path):
    assert energy.open_meter(
        [types.SimpleNamespace(platform="tpu")], tmp_path
    ).unmeasured.keys() == {
        "CPUs",
        "TPUs",
    }


# Usage


class Watch:
    """A clock that is set by hand."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def watch(monkeypatch):
    clock = Watch()
    monkeypatch.setattr(cost, "time", clock)
    return clock


def counted(values):
    return energy.Meter([energy.Counter("RAPL package-0", lambda: values[0], 1.0)])


def test_usage_is_summed_over_all_starts(tmp_path, watch):
    values = [50]
    tracker = cost.UsageTracker(tmp_path, [CPU] * 4, counted(values))
    watch.now += 3
    values[0] += 30
    assert tracker.record() == cost.Usage(1, 12.0, 12.0, {"RAPL package-0": 30.0})
    watch.now += 1000  # between two starts nothing is spent
    tracker = cost.UsageTracker(tmp_path, [CPU] * 2, energy.Meter([]))
    watch.now += 5
    assert tracker.record() == cost.Usage(2, 22.0, 12.0, {"RAPL package-0": 30.0})
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]


def test_usage_is_written_at_intervals(tmp_path, watch):
    tracker = cost.UsageTracker(tmp_path, [CPU], energy.Meter([]))
    watch.now += cost.WRITE_INTERVAL - 1
    tracker.tick()
    assert not (tmp_path / "cost.json").exists()
    watch.now += 1
    tracker.tick()
    assert json.loads((tmp_path / "cost.json").read_text())["device_seconds"] == cost.WRITE_INTERVAL


@pytest.mark.parametrize("text", ["{", "[1]", '{"seconds": 1}'])
def test_a_broken_usage_file_is_an_error(tmp_path, text):
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(UserError, match=r"cost\.json is not a file that a run has written"):
        cost.UsageTracker(tmp_path, [CPU], energy.Meter([]))


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_is_an_amount(price):
    with pytest.raises(UserError, match="--price"):
        Options(price=price)


# The report


def costs(**changed):
    fixed = {"devices": 2, "kind": "TPU v5 lite", "starts": 1, "device_seconds": 200.0}
    counted = {"steps": 50, "step_flops": 4 * 10**14, "step_matmul_flops": 3 * 10**14}
    return report.Costs(**{**fixed, **counted, **changed})


def lines(**changed):
    text = report.cost_lines(costs(**changed))
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_time_operations_and_utilisation():
    found = lines(peak_flops=197e12, starts=3)
    assert found["device time"] == "3:20 (200.0 s), 2 x TPU v5 lite, starts: 3"
    assert found["FLOPs"] == "20 PFLOP, 50 steps of 400 TFLOP, 75 % in matrix products"
    # 50 x 3e14 / (200 x 197e12)
    assert found["utilisation"] == "38.1 % of 197 TFLOP/s a device in bfloat16"
    assert lines(kind="cpu")["utilisation"] == "unknown: no peak is published for cpu"
    assert "too low (while: counted once)" in lines(uncounted=("while: counted once",))["FLOPs"]


def test_missing_sensors_are_reported():
    unmeasured = {"CPUs": "/sys/class/powercap has no RAPL", "GPUs": "NVML: Driver Not Loaded"}
    words = "not measured (CPUs: /sys/class/powercap has no RAPL; GPUs: NVML: Driver Not Loaded)"
    assert lines(unmeasured=unmeasured)["energy"] == words
    assert lines()["energy"] == "not measured"
    # What was measured is then not taken for the whole.
    found = lines(joules={"RAPL package-0": 1_500.0}, metered=200.0, unmeasured=unmeasured)[
        "energy"
    ]
    assert found.endswith(f"(RAPL package-0 1.5 kJ); {words}")


def test_energy():
    joules = {"RAPL package-0": 1_500.0, "NVML GPU 0": 3.6e6 - 1_500}
    found = lines(joules=joules, metered=200.0)["energy"]
    assert found == "3.6 MJ, 1 kWh (RAPL package-0 1.5 kJ, NVML GPU 0 3.6 MJ)"
    found = lines(joules=joules, metered=50.0, processes=4)["energy"]
    assert found.endswith("measured in 25 % of the time, of one machine of 4 processes")


def test_a_price_gives_the_cost():
    assert "cost" not in lines()
    assert lines(price=36.0)["cost"] == "2.00, at 36 per device and hour"


def test_much_and_nothing():
    assert lines(step_flops=0, step_matmul_flops=0)["FLOPs"].startswith(
        "0 FLOP, 50 steps of 0 FLOP"
    )
    assert "e+" not in lines(step_flops=10**30, step_matmul_flops=10**30)["FLOPs"].split(",")[0]


def test_the_section_names_what_is_in_it():
    section = report.cost(costs(peak_flops=197e12, price=1.0))
    assert section.title == "Cost"
    names = re.findall("<dt>(.*?)</dt>", section.html)
    assert names == ["device time", "FLOPs", "utilisation", "energy", "cost"]


# A run


def test_a_run_tells_its_costs_over_its_starts(tmp_path, monkeypatch, capsys):
    values = [0]

    def open_meter(devices):
        assert len(devices) == 8
        values[0] += 1  # so that starts differ
        return counted(values)

    monkeypatch.setattr(cost, "open_meter", open_meter)
    folder = str(tmp_path / "run")
    arguments = "--price", "2.5", "--eval-every", "4", "--save-every", "4", "--out", folder
    with pytest.raises(SystemExit):
        run(disturbed(6, send(15)), arguments)
    stopped = capsys.readouterr().out
    assert "8 x cpu, starts: 1" in stopped
    assert "RAPL" in stopped
    assert stopped.endswith("at 2.5 per device and hour\n")
    first = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert first["starts"] == 1
    assert first["device_seconds"] > 0
    outcome, printed = quietly(tiny, *arguments)
    second = json.loads((outcome.folder / "cost.json").read_text())
    assert second["starts"] == 2
    assert second["device_seconds"] > first["device_seconds"]
    page = (outcome.folder / "report.html").read_text()
    assert '<section id="cost">' in page
    for words in "8 x cpu, starts: 2", "12 steps of", "at 2.5 per device and hour", "RAPL":
        assert words in page
        assert words in printed


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_the_operations_of_a_step(changes):
    experiment = configure(tiny(), Options(**changes))
    parts = experiment.prepared_objective, experiment.optimizer, experiment.train.example
    state = train.init(jax.random.key(0), *parts, sharding.mesh())
    found = cost.count_step_flops(experiment, state)
    # Conv 4 of 3x3 at 4x4 places, Dense 64 -> 64 -> 10; the images need no gradient.
    conv, dense = 16 * 9 * 4, 64 * 64 + 64 * 10
    assert found.matmul == 2 * 16 * (2 * conv + 3 * dense)
    assert found.matmul < found.total
    assert found.uncounted == ()
