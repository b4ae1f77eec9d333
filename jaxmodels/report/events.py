"""TensorBoard events, without TensorFlow."""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO


class Events:
    """An event file, opened with the first event.

    tensorboardX's own writers call fsync with every flush (milliseconds, far more on a network
    disk), or keep events back from a reader for minutes; here each is flushed, without fsync.
    """

    def __init__(self, folder: Path):
        """Touch nothing yet."""
        self._folder = folder
        self._file: BinaryIO | None = None

    def write(self, step: int, now: float, scalars: Mapping[str, float]) -> None:
        """Write one event with all scalars of a step; `now` in seconds since the epoch."""
        values = [{"tag": name, "simple_value": value} for name, value in scalars.items()]
        self._add({"wall_time": now, "step": step, "summary": {"value": values}})

    def resume(self, step: int) -> None:
        """Mark a restart, at which TensorBoard forgets the events beyond `step`."""
        if not self._folder.exists():
            return
        start = {"status": "START"}
        self._add({"wall_time": time.time(), "step": step + 1, "session_log": start})

    def close(self) -> None:
        """Close the file, if one was opened."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, event: dict[str, Any]) -> None:
        if self._file is None:
            self._file = _open(self._folder)
            self._file.write(_record({"wall_time": time.time(), "file_version": "brain.Event:2"}))
        self._file.write(_record(event))
        self._file.flush()


def _open(folder: Path) -> BinaryIO:
    """TensorBoard reads all files of a folder in the order of their names, so time comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time_ns()
    name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
    return open(folder / name, "xb")


def _record(event: dict[str, Any]) -> bytes:
    """A TFRecord: length, its checksum, data, their checksum."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    message: Any = vars(event_pb2)["Event"]  # made at run time, which type checkers can't see
    data = message(**event).SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]
