"""One event file of TensorBoard, written without a thread of its own.

TensorBoard's own writer leaves the disk to a thread. Where the disk is full, that thread dies with
a traceback of its own, and the run hears of it one event later.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

_numbers = itertools.count()


class EventFile:
    """Events, each with the system when `add` returns.

    Args:
        folder: of a run's event files, created where it is missing.
        purge_step: TensorBoard forgets what earlier files of the folder hold from this step on.

    Raises:
        OSError: from the disk, here and of every method; the file holds no half event.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(folder / f"events.out.tfevents.{name}", flags, 0o666)
        self._records = RecordWriter(self)
        try:
            self._append(Event(file_version="brain.Event:2"))
            start = SessionLog(status=SessionLog.START)
            self._append(Event(step=purge_step, session_log=start))
        except BaseException:
            self.close()
            raise

    def add(self, summary: Any, step: int) -> None:
        """Append what `torch.utils.tensorboard.summary` makes of a value.

        Args:
            summary: a protocol buffer.
            step: optimiser steps done.
        """
        self._append(Event(summary=summary, step=step))

    def flush(self) -> None:
        """Bring everything written so far to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; closing twice does nothing more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, data: bytes) -> None:
        """Append bytes, all or none; called with a whole record each time."""
        size = os.fstat(self._descriptor).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
                os.lseek(self._descriptor, size, os.SEEK_SET)
            raise

    def _append(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
