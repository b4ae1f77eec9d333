"""Starting several processes that train together."""

import os

import jax

from jaxmodels.typing import UserError


def start(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes, before anything else touches a device.

    With `coordinator` ("host:port"), `processes` and `process_id`: those. Without: where SLURM,
    Open MPI or a TPU VM slice started several processes, jax finds them; else nothing happens.

    Raises:
        UserError: only some of the three are given.
    """
    given = [coordinator, processes, process_id]
    if all(value is None for value in given):
        if _cluster():
            jax.distributed.initialize()
        return
    if coordinator is None or processes is None or process_id is None:
        raise UserError(
            "--coordinator, --processes and --process-id are given together or not at all; got "
            f"coordinator={coordinator}, processes={processes}, process_id={process_id}"
        )
    jax.distributed.initialize(coordinator, processes, process_id)


def _cluster() -> bool:
    counts = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(int(count) > 1 for count in counts) or "," in os.environ.get(
        "TPU_WORKER_HOSTNAMES", ""
    )
