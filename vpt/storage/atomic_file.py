"""Replacing a file: a crash at any moment leaves all of the old bytes or all of the new ones."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from vpt.errors import RunError

Chunk = bytes | memoryview

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomic(path: Path, chunks: Sequence[Chunk]) -> None:
    """Replace `path` with the chunks, one after the other; on any failure it keeps its old bytes.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and only then take
    the name.

    Raises:
        RunError: no space left, no permission, no such folder, or another failure of the disk.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_synced(temporary, chunks)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error, sum(len(chunk) for chunk in chunks)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError, size: int) -> RunError:
    """The one line that tells a user why `size` bytes could not be written to `path`."""
    if error.errno in _FULL:
        return RunError(
            f"no space left to write {path}: {size} bytes are needed, {free_bytes(path)} are free; "
            f"what was saved before is intact; free some space and go on"
        )
    if error.errno in _FORBIDDEN:
        return RunError(f"no permission to write {path}; choose a folder that you may write to")
    if isinstance(error, FileNotFoundError):
        return RunError(f"cannot write {path}: its folder {path.parent} does not exist")
    return RunError(f"cannot write {path}: {error.strerror or error}")


def free_bytes(path: Path) -> int:
    """Free bytes for an ordinary user on the disk that holds `path`, which need not exist yet."""
    for place in (path, *path.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free
    raise RunError(f"no part of {path} exists")


def is_leftover(name: str) -> bool:
    """Whether a file of this name is a temporary one that a killed `write_atomic` left behind."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder`; nobody else may be writing there."""
    for path in _files_of(folder):
        if is_leftover(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _files_of(folder: Path) -> Iterable[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _write_synced(path: Path, chunks: Iterable[Chunk]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems cannot and say EINVAL."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
