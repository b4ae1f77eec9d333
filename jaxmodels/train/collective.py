"""What one process decides and all must know. Every function here is called by all processes."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.typing import UserError


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


def _broadcast(answer: dict[str, Any]) -> dict[str, Any]:
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    text = np.resize(text, size)
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
