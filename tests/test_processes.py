"""The same run on other devices, and on several processes; and when several are started."""

import contextlib
import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import disturbed, numbers, quietly, tiny

from jaxmodels import experiment
from jaxmodels.errors import UserError
from jaxmodels.sharding import distributed

TINY = Path(__file__).parent / "tiny_run.py"
OPTIONS = "--dropout 0 --batch-size 16 --steps 12 --eval-every 4 --save-every 4 --log-every 1"


@pytest.fixture
def devices(monkeypatch):
    """Choose how many devices there are."""
    everything = jax.devices()
    return lambda count: monkeypatch.setattr(jax, "devices", lambda: everything[:count])


def assert_near(found, expected):
    """The same numbers of two runs, as far as sums in another order allow."""
    lines = [numbers(folder) for folder in (found, expected)]
    assert [(line["step"], line.keys()) for line in lines[0]] == [
        (line["step"], line.keys()) for line in lines[1]
    ]
    losses = [[line["train/loss"] for line in run if "train/loss" in line] for run in lines]
    # Sums in another order differ in the last of 24 bits, 6e-8; Adam divides by gradients' sizes,
    # which blows that up where they are near zero, and twelve steps carry it on.
    np.testing.assert_allclose(*losses, rtol=1e-3)
    results = [experiment.results(folder) for folder in (found, expected)]
    # An example of the 360 may lie so near to a border that it falls on the other side.
    assert abs(results[0]["test/error"] - results[1]["test/error"]) <= 2 / 360
    for result in results:  # of 360 examples, none of them padding
        assert result["test/error"] * 360 == pytest.approx(
            round(result["test/error"] * 360), abs=1e-3
        )


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """A run on eight devices."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    return quietly(tiny, *OPTIONS.split(), "--mesh", "data=4,fsdp=2", "--out", folder)[0]


def fail():
    raise RuntimeError("as if the machine failed")


@pytest.mark.parametrize("count", [4, 1])
def test_a_run_goes_on_with_fewer_devices(count, on_eight, devices, tmp_path):
    arguments = *OPTIONS.split(), "--out", tmp_path / "run"
    with pytest.raises(RuntimeError):
        quietly(disturbed(10, fail), *arguments, "--mesh", "data=4,fsdp=2")
    devices(count)
    outcome, printed = quietly(tiny, *arguments)
    assert "resumed at step " in printed
    assert f"parameters on {count} x cpu" in printed
    assert len(outcome.state.params["Dense_0"]["kernel"].sharding.device_set) == count
    assert_near(outcome.folder, on_eight.folder)


def test_a_run_goes_on_with_more_devices(on_eight, devices, tmp_path):
    arguments = *OPTIONS.split(), "--out", tmp_path / "run"
    devices(1)
    with pytest.raises(RuntimeError):
        quietly(disturbed(10, fail), *arguments)
    devices(8)
    outcome, printed = quietly(tiny, *arguments, "--mesh", "data=4,fsdp=2")
    assert "resumed at step " in printed
    assert_near(outcome.folder, on_eight.folder)


def test_the_mesh_and_the_calls_change_no_metric(on_eight, tmp_path):
    arguments = "--mesh", "data=2,fsdp=-1,tensor=2", "--steps-per-call", 4
    outcome, _ = quietly(tiny, *OPTIONS.split(), *arguments, "--out", tmp_path / "run")
    assert_near(outcome.folder, on_eight.folder)


# Several processes

MESHES = {2: "data=2,fsdp=2", 4: "data=2,fsdp=4"}
"""By the number of processes, with two devices each."""


def start(folder, count, options=OPTIONS, killed=None, last=()):
    """Several processes that train together; one may kill itself at step 10.

    `last` are arguments of the last one alone.
    """
    joined = f"--mesh {MESHES[count]} --coordinator {free_address()} --processes {count}"
    command = [sys.executable, str(TINY), "--out", str(folder), *options.split(), *joined.split()]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    fatal = {**environment, "TINY_KILLED_AT": "10"}
    return [
        subprocess.Popen(
            [*command, "--process-id", str(number), *(last if number == count - 1 else ())],
            env=fatal if number == killed else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def free_address():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return f"localhost:{listening.getsockname()[1]}"


@contextlib.contextmanager
def cleared(processes):
    """However a test ends, none of them goes on."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes, status=0):
    """What each of them printed, on stdout and on stderr; all must end so."""
    with cleared(processes):
        printed = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), printed
    return printed


def wait_for(path, processes):
    while not path.exists():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, [process.communicate() for process in ended]
        time.sleep(0.05)


# Four are started below as well, and cost half a minute.
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_are_one_run(count, devices, tmp_path):
    printed = finish(start(tmp_path / "several", count))
    # Gloo's threads write there as they like, lines torn apart; of the run, nothing stands there.
    for words in ("parameters on", "step 1/", "test/error", "report.html"):
        assert words in printed[0][0]
        assert not any(words in out for out, _ in printed[1:])
    devices(2 * count)
    arguments = *OPTIONS.split(), "--mesh", MESHES[count]
    quietly(tiny, *arguments, "--out", tmp_path / "one")
    assert_near(tmp_path / "several", tmp_path / "one")
    # What they saved, one goes on with.
    outcome, printed = quietly(tiny, *arguments, "--steps", 14, "--out", tmp_path / "several")
    assert "resumed at step 12" in printed
    assert int(outcome.state.step) == 14


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (("--seed", "1"), "  seed: 0 there, 1 here\n"),
        # Its own mistake, as if its data were not there.
        pytest.param(("--data-dir", "/nowhere"), "/nowhere holds no data", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_on_one_is_an_error_on_all(last, words, tmp_path):
    printed = finish(start(tmp_path / "run", 2, last=last), 2)
    assert words in printed[1][1]
    assert "tiny_run.py: another process failed; its own message says why\n" in printed[0][1]
    assert not any("Traceback" in errors for _, errors in printed)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", MESHES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_all(number, count, tmp_path):
    processes = start(tmp_path / "run", count, f"{OPTIONS} --steps 3000 --save-every 100")
    with cleared(processes):
        wait_for(tmp_path / "run" / "checkpoints" / "100.json", processes)
        processes[-1].send_signal(number)
        printed = finish(processes, 143)
    assert "stopped and saved at step" in printed[0][0]
    assert not any("stopped and saved" in out for out, _ in printed[1:])


def assert_others_end(processes, lost, seconds, folder):
    """When one is lost, so many seconds later the others have ended, and said how to go on."""
    others = [process for process in processes if process is not processes[lost]]
    began = time.monotonic()
    printed = [process.communicate(timeout=seconds)[1] for process in others]
    print(f"ended after {time.monotonic() - began:.1f} s")
    for process, text in zip(others, printed, strict=True):
        # A collective fails, or jax aborts the process: which of them comes first is chance.
        assert process.returncode in (1, -signal.SIGABRT), text
        assert f"Every completed checkpoint in {folder}/checkpoints is good." in text
        # Last, but for what jax's own threads have still to say.
        assert f"\n  --out {folder}\n" in text


def test_fewer_go_on_where_one_of_four_was_killed(on_eight, devices, tmp_path):
    processes = start(tmp_path / "two", 4, killed=0)
    with cleared(processes):
        assert processes[0].wait(timeout=240) == -signal.SIGKILL
        assert_others_end(processes, 0, 20, tmp_path / "two")
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    printed = finish(start(tmp_path / "two", 2))
    assert "resumed at step " in printed[0][0]
    assert_near(tmp_path / "two", on_eight.folder)
    devices(1)
    _, printed = quietly(tiny, *OPTIONS.split(), "--out", tmp_path / "one")
    assert "resumed at step " in printed
    assert_near(tmp_path / "one", on_eight.folder)


@pytest.mark.slow
@pytest.mark.parametrize("count", MESHES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_silent_process_ends_the_others(number, count, tmp_path):
    options = f"{OPTIONS} --steps 30000 --save-every 100 --eval-every 30000"
    processes = start(tmp_path / "run", count, options)
    with cleared(processes):
        wait_for(tmp_path / "run" / "checkpoints" / "100.json", processes)
        processes[-1].send_signal(number)
        assert_others_end(
            processes, count - 1, distributed.HEARTBEAT_TIMEOUT + 40, tmp_path / "run"
        )


# When several are started

SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "4",
}
BATCH_SCRIPT = {k: v for k, v in SRUN.items() if "STEP" not in k}
MPIRUN = {"OMPI_MCA_orte_hnp_uri": "9.0;tcp://10.0.0.1:5", "OMPI_COMM_WORLD_SIZE": "2"}
NAMES = {
    *SRUN,
    *MPIRUN,
    "TPU_PROCESS_ADDRESSES",
    "TPU_PROCESS_ADDRESSES_PATH",
    "TPU_SKIP_MDS_QUERY",
    "TPU_WORKER_HOSTNAMES",
    "MEGASCALE_NUM_SLICES",
    "GCE_METADATA_IP",
}


@pytest.fixture
def environment(monkeypatch):
    """Set what launchers set; nothing else of theirs is there."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def put(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        (SRUN, "SLURM"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive shell of four tasks' job
        (BATCH_SCRIPT, None),
        (MPIRUN, "Open MPI"),
        ({**MPIRUN, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({**SRUN, **MPIRUN, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),  # a plan for a slice, made on a laptop
    ],
)
def test_launchers_are_found(values, expected, environment):
    environment(values)
    assert distributed.detect_cluster() == expected


@pytest.mark.parametrize(
    ("values", "metadata", "expected"),
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None, "a TPU slice"),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, None, "a TPU slice"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, None, "a TPU slice"),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None, None),
        ({}, {}, None),
        ({}, {"worker-network-endpoints": "unknown:unknown:10.0.0.2"}, None),
        ({}, {"worker-network-endpoints": "a:0:10.0.0.2,b:1:10.0.0.3"}, "a TPU slice"),
        ({}, {"worker-network-endpoints": "a,b"}, "a TPU slice"),
        (
            {},
            {
                "worker-network-endpoints": "a",
                "tpu-env": "ZONE: 'eu:1'\nMEGASCALE_NUM_SLICES: '2'",
            },
            "a TPU slice",
        ),
    ],
)
def test_a_tpu_slice_is_found(values, metadata, expected, environment, monkeypatch):
    monkeypatch.setattr(distributed, "_on_tpu", lambda: True)
    environment(values)
    with telling(metadata) as address:
        environment({"GCE_METADATA_IP": address})
        assert distributed.detect_cluster() == expected


def test_a_file_names_the_hosts_of_a_tpu_slice(environment, monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "_on_tpu", lambda: True)
    (tmp_path / "hosts").write_text("a:1,b:1")
    environment({"TPU_PROCESS_ADDRESSES_PATH": str(tmp_path / "hosts")})
    assert distributed.detect_cluster() == "a TPU slice"


def test_a_tpu_whose_metadata_nobody_tells(environment, monkeypatch):
    monkeypatch.setattr(distributed, "_on_tpu", lambda: True)
    environment({"GCE_METADATA_IP": free_address()})
    with pytest.raises(UserError, match=r"does not answer(.|\n)*TPU_SKIP_MDS_QUERY=1"):
        distributed.detect_cluster()


@pytest.mark.parametrize(("platforms", "expected"), [(None, True), ("", True), ("cpu", False)])
def test_jax_tells_whether_it_is_on_a_tpu(platforms, expected):
    # JAX_FORCE_TPU_INIT is jax's own: it takes this machine for one with TPU chips.
    environment = {**os.environ, "JAX_FORCE_TPU_INIT": "1", "TPU_WORKER_HOSTNAMES": "a,b"}
    environment.pop("JAX_PLATFORMS", None)
    environment |= {"JAX_PLATFORMS": platforms} if platforms is not None else {}
    code = "from jaxmodels.sharding.distributed import *; print(detect_cluster() is not None)"
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(expected)


@contextlib.contextmanager
def telling(metadata):
    """The address of a server that tells a machine's attributes, as Google's do."""
    with http.server.HTTPServer(("localhost", 0), functools.partial(Metadata, metadata)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


class Metadata(http.server.BaseHTTPRequestHandler):
    def __init__(self, attributes, *arguments):
        self.attributes = attributes
        super().__init__(*arguments)

    # The base class calls it so.
    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        assert folder == "/computeMetadata/v1/instance/attributes"
        assert self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if name in self.attributes else 404)
        self.end_headers()
        self.wfile.write(self.attributes.get(name, "").encode())

    def log_message(self, *_):
        pass


NOBODY = None, None, None
"""Who a process is, if jax is to find out."""


@pytest.fixture
def joined(environment, monkeypatch):
    """What jax.distributed.initialize is called with: (who, by which method)."""
    calls = []

    def initialize(*who, cluster_detection_method, **timeouts):
        assert set(timeouts.values()) == {distributed.HEARTBEAT_TIMEOUT}
        calls.append((who, cluster_detection_method))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


@pytest.mark.parametrize(
    ("values", "who", "expected"),
    [
        ({}, (), []),
        (SRUN, (), [(NOBODY, None)]),
        (MPIRUN, (), [(NOBODY, None)]),
        (BATCH_SCRIPT, (), []),
        # What the user says counts, wherever it is said; jax is not to ask SLURM for the rest.
        ({}, ("a:1", 2, 0), [(("a:1", 2, 0), "deactivate")]),
        (SRUN, ("a:1", 2, 0), [(("a:1", 2, 0), "deactivate")]),
    ],
)
def test_several_are_joined_and_one_is_left_alone(values, who, expected, joined, environment):
    environment(values)
    distributed.initialize_distributed(*who)
    assert joined == expected


@pytest.mark.parametrize("installed", [True, False])
def test_open_mpi_5_needs_mpi4py(installed, joined, environment, monkeypatch):
    environment({"OMPI_COMM_WORLD_SIZE": "2"})
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: installed or None)
    if installed:
        distributed.initialize_distributed()
        assert joined == [(NOBODY, "mpi4py")]
    else:
        with pytest.raises(UserError, match="mpi4py, which is not installed"):
            distributed.initialize_distributed()


@pytest.mark.parametrize(
    ("who", "teller"), [((), "SLURM"), (("localhost:1", 2, 1), "--coordinator")]
)
def test_processes_that_cannot_be_joined(who, teller, environment, monkeypatch):
    def fail(*_, **__):
        raise ValueError("this is no cluster")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    environment(SRUN)
    with pytest.raises(UserError, match=f"{teller} .* cannot connect .* no cluster\nGive each its"):
        distributed.initialize_distributed(*who)


def test_half_of_who_a_process_is(joined):
    with pytest.raises(UserError, match="together or not at all"):
        distributed.initialize_distributed("a:1", 2)
    assert joined == []
