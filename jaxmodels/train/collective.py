"""What one process decides and all must know. Every function here is called by all processes."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.errors import UserError

T = TypeVar("T")


def from_first(work: Callable[[], Any]) -> Any:
    """The result (JSON) of `work`, done by process 0 alone; if it raises, all processes raise."""
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


def raise_any(error: BaseException | None) -> None:
    """Raise `error`; without one of one's own, raise if any other process has one."""
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(np.any(multihost_utils.process_allgather(np.array(failed))))
    if error is not None:
        raise error
    if failed:
        raise UserError("another process failed; its own message says why")


def on_all(work: Callable[[], T]) -> T:
    """The result of `work`, which each process does; if it raises on one, all processes raise."""
    try:
        result = work()
    except Exception as error:
        raise_any(error)
        raise
    raise_any(None)
    return result


def check_same(facts: Mapping[str, str]) -> None:
    """Raise `UserError` on all processes if the facts of one differ from those of process 0."""
    there = from_first(lambda: dict(facts))
    different = [
        f"  {name}: {there.get(name, 'absent')} there, {facts.get(name, 'absent')} here"
        for name in sorted(there.keys() | facts.keys())
        if there.get(name) != facts.get(name)
    ]
    error = UserError(
        f"process {jax.process_index()} does not agree with process 0, with which it is to train:\n"
        + "\n".join(different)
        + "\n"
        "Start all with the same command, on the same data, with the same packages."
    )
    raise_any(error if different else None)


def _broadcast(answer: dict[str, Any]) -> dict[str, Any]:
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = np.resize(text, size)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
