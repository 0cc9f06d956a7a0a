"""A lock that one process at a time has; the system frees it when the process ends in any way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vpt.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_WINDOWS_BYTE = 2**30
"""The byte that is locked on Windows, where nobody else can read what is locked."""


def open_lock_file(path: Path) -> int:
    """A descriptor to read, write and lock a file by, which is created where it is missing.

    Nothing is opened through a link, and nothing that another name leads to: what is written
    there would change a file that has nothing to do with the lock.

    Raises:
        RunError: there is something else of that name.
        OSError: from the disk.
    """
    if path.is_symlink():
        raise _unusable(path, "is a link")
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK"):  # not all of them everywhere
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise _unusable(path, "is a link") from error
        if path.exists() and not path.is_file():
            raise _unusable(path, "is no regular file") from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    what = "has another name" if stat.S_ISREG(status.st_mode) else "is no regular file"
    raise _unusable(path, what)


def lock(descriptor: int, *, wait: bool) -> None:
    """Take the lock of a file, until its descriptor is closed.

    Args:
        descriptor: of `open_lock_file`.
        wait: for a process that has it.

    Raises:
        BlockingIOError: another process has it, and it was not to be waited for.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt

    os.lseek(descriptor, _WINDOWS_BYTE, os.SEEK_SET)
    mode = "LK_LOCK" if wait else "LK_NBLCK"
    try:
        msvcrt.locking(descriptor, getattr(msvcrt, mode), 1)
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from error


def _unusable(path: Path, what: str) -> RunError:
    return RunError(f"{path} {what} and is not used as a lock; remove it")
