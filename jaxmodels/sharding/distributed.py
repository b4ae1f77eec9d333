"""Multi-host start: `jax.distributed.initialize` under SLURM, Open MPI, TPU slices, or by hand."""

import importlib.util
import os
import urllib.error
import urllib.request

import jax

from jaxmodels.errors import UserError

HEARTBEAT_TIMEOUT = 60
"""Seconds after which jax ends all processes, if one sends no heartbeat, or if one has ended and
another has not. jax's defaults are 100 and 300. Heartbeats come from C++ threads, which Python
cannot block.
"""

_ATTRIBUTES = "computeMetadata/v1/instance/attributes"


def initialize_distributed(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Initialize jax's distributed runtime, before anything else touches a device.

    With `coordinator` ("host:port"), `processes` and `process_id`: from these, with all devices of
    the machine. Without them: if SLURM, Open MPI or a TPU VM slice started several processes, jax
    detects them (under SLURM and Open MPI one GPU for each process). For a single process this does
    nothing.

    Raises:
        UserError: only some of the three are given, one is invalid, or jax cannot connect.
    """
    if coordinator is None and processes is None and process_id is None:
        cluster = detect_cluster()
        if cluster is None:
            return
        method = _detection_method(cluster)
    else:
        _check(coordinator, processes, process_id)
        # Else jax would still ask SLURM, and hide all GPUs but one of those that it gave.
        cluster, method = "--coordinator", "deactivate"
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method=method,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            # For a process that fails while the others, still alive, wait in a collective.
            shutdown_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"{cluster} tells of several processes, but jax cannot connect them: {error}\n"
            "Give each its place: --coordinator HOST:PORT --processes COUNT --process-id INDEX"
        ) from error


def _check(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Raise `UserError` for arguments with which jax would wait forever, or fail unexplained."""
    if coordinator is None or processes is None or process_id is None:
        raise UserError(
            "give --coordinator, --processes and --process-id together or not at all; got "
            f"coordinator={coordinator}, processes={processes}, process_id={process_id}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--coordinator is the HOST:PORT of process 0, such as host0:1234; got {coordinator}"
        )
    if not 0 <= process_id < processes:
        raise UserError(f"--process-id must be in 0..{processes - 1}; got {process_id}")


def detect_cluster() -> str | None:
    """The kind of cluster that started several processes (SLURM, Open MPI, TPU); None for one.

    jax detects clusters, but has no public function that says so, or that counts processes. This
    reads the environment variables that the launchers document and jax reads, in jax's order.
    """
    if size := os.environ.get("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI" if int(size) > 1 else None
    # Of the step that this process belongs to. SLURM_NTASKS may be the whole allocation's, in which
    # a batch script or an interactive shell is one task. jax needs the step's nodes.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_STEP_NODELIST" in os.environ and int(tasks) > 1:
        return "SLURM"
    return "a TPU slice" if _on_tpu() and _tpu_hosts() > 1 else None


def _detection_method(cluster: str) -> str | None:
    """The `cluster_detection_method` for jax; None where its automatic detection works."""
    if cluster != "Open MPI" or "OMPI_MCA_orte_hnp_uri" in os.environ:
        return None
    # Open MPI 5 does not set the address that jax reads, but mpi4py knows it; jax's documentation
    # names this way for other kinds of MPI.
    if importlib.util.find_spec("mpi4py") is None:
        raise UserError(
            "Open MPI 5 started several processes, and jax joins those by mpi4py, which is not "
            "installed: uv run --with mpi4py ..., or give --coordinator, --processes, --process-id"
        )
    return "mpi4py"


def _on_tpu() -> bool:
    # Where it finds TPU chips and libtpu, jax sets both when it's imported, unless the user has.
    chosen = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue] - jax 0.10
    return "tpu" in chosen if chosen else "TPU_ML_PLATFORM" in os.environ


def _tpu_hosts() -> int:
    """Hosts of a slice times slices, from the environment (GKE) or else from the VM's metadata."""
    names = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    if path := os.environ.get("TPU_PROCESS_ADDRESSES_PATH"):  # from jax 0.12 on
        with open(path) as file:
            names = file.read()
    slices = os.environ.get("MEGASCALE_NUM_SLICES")
    # Importing jax sets it where there are no chips; users do where there is no such server.
    if names is None and "TPU_SKIP_MDS_QUERY" not in os.environ:
        names = _attribute("worker-network-endpoints")
        lines = (line.partition(":") for line in _attribute("tpu-env").splitlines())
        settings = {name.strip(): value.strip(" '") for name, _, value in lines}
        slices = slices or settings.get("MEGASCALE_NUM_SLICES")
    return len((names or "").split(",")) * int(slices or 1)


def _attribute(name: str) -> str:
    """An attribute of this virtual machine from Google's metadata server; "" if it is not set."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/{_ATTRIBUTES}/{name}", headers={"Metadata-Flavor": "Google"}
    )
    # The server is on this very machine; a proxy does not know it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise UserError(_unanswered(name, server, error)) from error
    except OSError as error:
        raise UserError(_unanswered(name, server, error)) from error


def _unanswered(name: str, server: str, error: Exception) -> str:
    return (
        f"this machine has TPU chips, but its metadata server {server} does not answer whether the "
        f"slice has several hosts: {name}: {error}\n"
        "For a single host set TPU_SKIP_MDS_QUERY=1; else give --coordinator, --processes, "
        "--process-id"
    )
