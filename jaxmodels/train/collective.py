"""Collective helpers for several processes: share results, errors and settings between hosts.

Every function here must be called by all processes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.errors import UserError

T = TypeVar("T")


def run_on_process_0(work: Callable[[], Any]) -> Any:
    """Run `work` on process 0 and return its result (JSON) on all; an error is raised on all."""
    if jax.process_count() == 1:
        return work()
    answer, error = {}, None
    if jax.process_index() == 0:
        try:
            answer = {"result": work()}
        except Exception as caught:
            answer, error = {"error": str(caught)}, caught
    answer = _broadcast(answer)
    if error is not None:
        raise error
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["result"]


def raise_on_all(error: BaseException | None) -> None:
    """Raise `error` if there is one here, else `UserError` if another process has one."""
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(np.any(multihost_utils.process_allgather(np.array(failed))))
    if error is not None:
        raise error
    if failed:
        raise UserError("another process failed; its own message says why")


def run_on_all(work: Callable[[], T]) -> T:
    """Run `work` on every process; an error on one is raised on all."""
    try:
        result = work()
    except Exception as error:
        raise_on_all(error)
        raise
    raise_on_all(None)
    return result


def check_processes_agree(facts: Mapping[str, str]) -> None:
    """Raise `UserError` on all processes if the facts of one differ from those of process 0."""
    first = run_on_process_0(lambda: dict(facts))
    different = [
        f"  {name}: {first.get(name, 'absent')} there, {facts.get(name, 'absent')} here"
        for name in sorted(first.keys() | facts.keys())
        if first.get(name) != facts.get(name)
    ]
    error = UserError(
        f"process {jax.process_index()} has other settings or data than process 0:\n"
        + "\n".join(different)
        + "\n"
        "Start all with the same command, on the same data, with the same packages."
    )
    raise_on_all(error if different else None)


def _broadcast(answer: dict[str, Any]) -> dict[str, Any]:
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = np.resize(text, size)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
