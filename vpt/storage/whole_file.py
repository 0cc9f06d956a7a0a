"""Files that are read whole: regular ones of a bounded size, never a device or a pipe."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_TEXT = 2 * 10**9
"""Most bytes of a list or a table as text."""

MAX_JSON = 8 * 10**9
"""Most bytes of annotations as JSON; those of the largest public data sets have 5 GB."""

_SMALL = 1 << 16  # files of /proc say that they have no bytes


def open_regular(path: Path) -> BinaryIO:
    """An open regular file; opening a pipe would wait for ever, and a device has no end.

    Raises:
        OSError: it is missing, forbidden, or no regular file.
        ValueError: the path holds a NUL character.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a folder, a device or a pipe, not a file", str(path))
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, *, most: int) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file, or a link to it.
        most: bytes that it may have.

    Raises:
        OSError: see `open_regular`; or it has more bytes.
        ValueError: the path holds a NUL character.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(max(size, min(most, _SMALL)) + 1)
        if size > most or len(data) > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
        return data


def read_whole_text(path: Path, *, most: int = MAX_TEXT) -> str:
    """A regular file as text in UTF-8, without a byte order mark; see `read_whole`.

    Raises:
        UnicodeDecodeError: it is no UTF-8; and see `read_whole`.
    """
    return read_whole(path, most=most).decode("utf-8-sig")
