"""Replacing a file: a crash at any moment leaves all of the old bytes or all of the new ones."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vpt.errors import RunError

Chunk = bytes | memoryview

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEW = os.O_CREAT | os.O_EXCL
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_atomic(path: Path, chunks: Sequence[Chunk]) -> None:
    """Replace `path` with the chunks, one after the other; on any failure it keeps its old bytes.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and only then take
    the name. A pipe or a device is no file and is written to as it is.

    Raises:
        RunError: no space left, no permission, no such folder, or another failure of the disk.
    """
    size = sum(len(chunk) for chunk in chunks)
    with atomic_stream(path, size=size) as stream:
        for chunk in chunks:
            stream.write(chunk)


@contextmanager
def atomic_stream(path: Path, *, size: int = 0) -> Iterator[BinaryIO]:
    """A stream whose bytes replace `path` when the block has ended; if it fails, nothing does.

    Otherwise as `write_atomic`.

    Args:
        path: the file.
        size: bytes that will be written, if they are known; for the message.

    Raises:
        RunError: see `write_atomic`.
    """
    if _is_pipe_or_device(path):
        with _naming_errors(path, size), io.BufferedWriter(_Output(path, 0, path)) as stream:
            yield stream
        return
    temporary = _temporary_beside(path)
    try:
        with _naming_errors(path, size):
            output = _Output(temporary, _NEW, path, size)
        try:
            stream = io.BufferedWriter(output)
            yield stream
            stream.flush()
            with _naming_errors(path, size):
                os.fsync(output.fileno())
        finally:
            output.close()
        with _naming_errors(path, size):
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new(path: Path, content: bytes) -> None:
    """Create `path` with all of the content, or not at all; a file that exists is never replaced.

    Whether a crash of the machine leaves it is not waited for: of many files that takes too long.

    Raises:
        FileExistsError: there is something of that name.
        RunError: see `write_atomic`.
    """
    temporary = _temporary_beside(path)
    try:
        with _naming_errors(path, len(content)):
            with _Output(temporary, _NEW, path, len(content)) as output:
                stream = io.BufferedWriter(output)
                stream.write(content)
                stream.flush()
            _name_new(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _name_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # no hard links there
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from error
        temporary.replace(path)


class _Output(io.RawIOBase):
    """A file that is written; an error of the disk names the file that the user knows."""

    def __init__(self, file: Path, flags: int, path: Path, size: int = 0):
        self._descriptor = -1
        self._path, self._size = path, size
        self._descriptor = os.open(file, os.O_WRONLY | flags, 0o666)

    def write(self, data: Any, /) -> int:
        with _naming_errors(self._path, self._size or memoryview(data).nbytes):
            return os.write(self._descriptor, data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        super().close()


@contextmanager
def _naming_errors(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise write_error(path, error, size) from error


def _temporary_beside(path: Path) -> Path:
    """A new name in the same folder, short enough for any file system."""
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(4)}.tmp")


def _is_pipe_or_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


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
