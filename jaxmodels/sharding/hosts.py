"""Starting several processes that train together."""

import importlib.util
import os
import urllib.error
import urllib.request

import jax

from jaxmodels.errors import UserError

PATIENCE = 60
"""Seconds after which jax ends all processes, if one gives no sign of life, or if one comes to its
end and another does not. jax's own are 100 and 300. Signs are given by C++ threads, which Python
cannot hold up.
"""

_ATTRIBUTES = "computeMetadata/v1/instance/attributes"


def start(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes, before anything else touches a device.

    With `coordinator` ("host:port"), `processes` and `process_id`: those, and all devices of the
    machine. Without: where SLURM, Open MPI or a TPU VM slice started several processes, jax finds
    them (with a GPU for each, under the first two). A process that is alone starts nothing.

    Raises:
        UserError: only some of the three are given, or not what they are to be, or jax cannot join
            what is there.
    """
    if coordinator is None and processes is None and process_id is None:
        teller = found()
        if teller is None:
            return
        method = _method(teller)
    else:
        _check(coordinator, processes, process_id)
        # Else jax would still ask SLURM, and hide all GPUs but one of those that it gave.
        teller, method = "--coordinator", "deactivate"
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method=method,
            heartbeat_timeout_seconds=PATIENCE,
            # For one that fails, while the others show signs of life, but wait in a collective.
            shutdown_timeout_seconds=PATIENCE,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"{teller} tells of several processes, but jax cannot join them: {error}\n"
            "Tell each who it is: --coordinator HOST:PORT --processes COUNT --process-id FROM_0"
        ) from error


def _check(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Raise `UserError` where jax would say less, or wait for who never comes."""
    if coordinator is None or processes is None or process_id is None:
        raise UserError(
            "--coordinator, --processes and --process-id are given together or not at all; got "
            f"coordinator={coordinator}, processes={processes}, process_id={process_id}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--coordinator is the HOST:PORT of process 0, such as host0:1234; got {coordinator}"
        )
    if not 0 <= process_id < processes:
        raise UserError(f"--process-id counts the {processes} processes from 0; got {process_id}")


def found() -> str | None:
    """What started this process together with others; None if it is alone.

    jax knows whether it is in a cluster, but no public function tells, or counts. What is read
    here is what the launchers document and jax reads itself, and it is asked in jax's order.
    """
    if size := os.environ.get("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI" if int(size) > 1 else None
    # Of the step that this process belongs to. SLURM_NTASKS may be the whole allocation's, in which
    # a batch script or an interactive shell is one task. jax needs the step's nodes.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_STEP_NODELIST" in os.environ and int(tasks) > 1:
        return "SLURM"
    return "a TPU slice" if _on_tpu() and _tpu_hosts() > 1 else None


def _method(cluster: str) -> str | None:
    """How jax is to find the others, where it does not do so by itself."""
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
    """Of this slice, times the slices; from the environment (GKE) or else the VM's metadata."""
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
    """An attribute of this virtual machine, as Google's metadata server tells it; "" if unset."""
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
        f"this machine has TPU chips, but its metadata server {server} does not tell whether it is "
        f"one of several: {name}: {error}\n"
        "If it is alone, set TPU_SKIP_MDS_QUERY=1; else give --coordinator, --processes, "
        "--process-id"
    )
