"""Many records of bytes in one file: written by several processes at once, read where they lie.

The records stand one after the other; then comes a JSON index with their sizes, their CRC-32 and a
header; then 48 bytes: the index's length, its SHA-256, and `MAGIC`. The name is given last of all,
so a file under it is whole unless it was damaged later, which `Records.open` finds out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.errors import VptError
from vpt.storage.atomic_file import sync_folder

MAGIC = b"vptrec01"
_TAIL_SIZE = 8 + 32 + len(MAGIC)


class RecordsError(VptError):
    """A file of records is damaged, or none; the message names it and says why."""


class Records:
    """An open file of records, for reading by this process and those that are made of it.

    Attributes:
        path: the file.
        header: JSON values that were kept with it.
        sizes: bytes of each record.
    """

    def __init__(self, path: Path, header: dict[str, Any], sizes: Sequence[int]):
        """Map a file of which it is known what is in it; see `open`."""
        self.path, self.header = path, header
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self._ends = np.cumsum(self.sizes)
        self._bytes: NDArray[np.uint8] | None = _mapped(path)

    @classmethod
    def open(cls, path: Path, *, threads: int = 1) -> Records:
        """The file, after every byte of it was checked.

        Args:
            path: of `RecordsWriter`.
            threads: that compute checksums.

        Raises:
            RecordsError: it is damaged, truncated, or of another kind.
            OSError: it cannot be read; FileNotFoundError: there is none.
        """
        index = _read_index(path)
        records = cls(path, index["header"], index["sizes"])
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(zlib.crc32, (records[each] for each in range(len(records))))
            for number, pair in enumerate(zip(found, index["checksums"], strict=True)):
                if pair[0] != pair[1]:
                    raise RecordsError(f"{path} is damaged: record {number} has another checksum")
        return records

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """A record, read-only, not copied."""
        if self._bytes is None:
            self._bytes = _mapped(self.path)
        end = int(self._ends[number])
        return self._bytes[end - int(self.sizes[number]) : end]

    def __getstate__(self) -> dict[str, Any]:
        """A process that is spawned maps the file itself."""
        return {**self.__dict__, "_bytes": None}


class RecordsWriter:
    """A file of records in the making, under a temporary name; its space is reserved.

    Args:
        path: the name it will have; the folder exists.
        sizes: bytes of each record.

    Raises:
        OSError: there is no space for it, or no permission.
    """

    def __init__(self, path: Path, sizes: Sequence[int]):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self.sizes = [int(size) for size in sizes]
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        self._descriptor: int | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self.temporary, flags, 0o666)
        try:
            if self._total and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, self._total)
        except OSError:
            self.discard()
            raise

    @property
    def _total(self) -> int:
        return int(self._ends[-1]) if self.sizes else 0

    def write(self, number: int, record: NDArray[np.uint8]) -> int:
        """Write a record, in any process; its checksum, for `finish`.

        Raises:
            ValueError: it has another size than was said.
            OSError: from the disk.
        """
        rest = np.ascontiguousarray(record).reshape(-1).data
        if len(rest) != self.sizes[number]:
            raise ValueError(f"record {number} has {len(rest)} bytes, not {self.sizes[number]}")
        checksum = zlib.crc32(rest)
        _write_at(self._open(), int(self._ends[number]) - len(rest), rest)
        return checksum

    def finish(self, header: dict[str, Any], checksums: Sequence[int]) -> None:
        """Give the file its name, once all of it is on the disk.

        Raises:
            OSError: from the disk.
        """
        values = {"header": header, "sizes": self.sizes, "checksums": list(checksums)}
        index = json.dumps(values, separators=(",", ":")).encode()
        tail = len(index).to_bytes(8, "little") + hashlib.sha256(index).digest() + MAGIC
        descriptor = self._open()
        _write_at(descriptor, self._total, memoryview(index + tail))
        os.fsync(descriptor)
        self.temporary.replace(self.path)
        sync_folder(self.path.parent)
        self.discard()

    def discard(self) -> None:
        """Close the file; without its name it is removed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CLOEXEC)
        return self._descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}


def _write_at(descriptor: int, offset: int, rest: memoryview) -> None:
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset, rest = offset + written, rest[written:]


def _read_index(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_SIZE))
        tail = file.read()
        length = int.from_bytes(tail[:8], "little")
        start = size - _TAIL_SIZE - length
        if len(tail) < _TAIL_SIZE or not tail.endswith(MAGIC) or start < 0:
            raise RecordsError(f"{path} is truncated, or no file of records")
        file.seek(start)
        raw = file.read(length)
    if hashlib.sha256(raw).digest() != tail[8:40]:
        raise RecordsError(f"{path} is damaged: its index has another SHA-256")
    index: dict[str, Any] = json.loads(raw)
    if sum(index["sizes"]) != start:
        raise RecordsError(f"{path} is damaged: {start} bytes of records, not as its index says")
    return index


def _mapped(path: Path) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
