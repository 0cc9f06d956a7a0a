"""Variables of MATLAB files (level 5, as versions 5 to 7 write them), every length checked.

After "MAT-File Format" (The MathWorks, 2023). Ours, since scipy's reader can crash the process on a
damaged file. Numbers, texts, cells and structs are read; objects, functions and sparse arrays are
not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.readers.parts import UNPRINTABLE, shown
from vpt.errors import DataError
from vpt.storage.archive import Limits
from vpt.storage.whole_file import MAX_TEXT, read_whole

# Of an element: the numbers it is stored as.
_STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
# Of a numeric array: what its values are, however small they were stored.
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_HEAD = 128
_DEEPEST = 16


class _Damaged(Exception):  # noqa: N818 - becomes a DataError that names the file
    """What is wrong, without the file's name."""


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """The variables of those names.

    Numbers are arrays of MATLAB's shape (two dimensions or more), a text is a str, a cell array is
    a list, a struct array is a list of dicts; both lists in MATLAB's order, down the columns.

    Raises:
        DataError: the file cannot be read, or has no such variable.
    """
    try:
        found = dict(_variables(read_whole(path, most=MAX_TEXT), names))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (_Damaged, zlib.error, ValueError, MemoryError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a MATLAB file ({detail[:120]})") from error
    for name in names:
        if name not in found:
            raise DataError(f"{path}: has no variable '{name}'")
    return found


def _variables(data: bytes, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    if data[:19] == b"MATLAB 7.3 MAT-file":
        raise _Damaged("it is of version 7.3; save it with '-v7'")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEAD])
    if order is None:
        raise _Damaged("its head is another one")
    most = Limits().bytes_of(len(data))
    for kind, content in _elements(data[_HEAD:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(content, most)
            if not unpacker.eof:
                raise _Damaged("a variable is cut, or unpacks to too much")
            kind, content = next(_elements(unpacked, order), (0, content))
        if kind == _MATRIX:
            matrix = _Matrix(content, order)
            if matrix.name in names:
                yield matrix.name, matrix.value(depth=0)


def _elements(data: bytes | memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(kind, content) of each element; those of up to four bytes have a short head."""
    rest = memoryview(data)
    while rest:
        if len(rest) < 8:
            raise _Damaged("it ends within an element")
        first, size = (int(word) for word in np.frombuffer(rest[:8], f"{order}u4"))
        if first >> 16:
            kind, size, start, step = first & 0xFFFF, first >> 16, 4, 8
            if size > 4:
                raise _Damaged("a short element is too long")
        else:
            kind, start = first, 8
            step = 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(rest):
            raise _Damaged("it ends within an element")
        yield kind, rest[start : start + size]
        rest = rest[step:]


class _Matrix:
    """One array: its head is read at once, its value when it is wanted."""

    def __init__(self, content: memoryview, order: str):
        self._order = order
        self._parts = _elements(content, order)
        flags, dimensions = self._numbers(), self._numbers()
        if len(flags) != 2 or len(dimensions) < 2 or min(dimensions) < 0:
            raise _Damaged("an array has no proper head")
        self._class = int(flags[0]) & 0xFF
        self._is_complex = bool(int(flags[0]) & 0x800)
        self._shape = tuple(int(size) for size in dimensions)
        self._count = math.prod(self._shape)
        self.name = bytes(self._next()[1]).decode("latin-1")

    def value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise _Damaged("it is nested too deep")
        if self._class == _CELL:
            return [self._inner(depth) for _ in range(self._count)]
        if self._class == _STRUCT:
            return self._structs(depth)
        if self._class == _CHAR:
            return self._text()
        if self._class not in _CLASSES or self._is_complex:
            raise _Damaged(f"variables of kind {self._class} are not read")
        values = self._numbers()
        if len(values) != self._count:
            raise _Damaged(f"{len(values)} values for a shape of {self._count}")
        typed = values.astype(_CLASSES[self._class], copy=False)
        return typed.reshape(self._shape, order="F")

    def _next(self) -> tuple[int, memoryview]:
        try:
            return next(self._parts)
        except StopIteration:
            raise _Damaged("an array ends too early") from None

    def _numbers(self) -> NDArray[Any]:
        kind, content = self._next()
        if kind not in _STORED:
            raise _Damaged(f"numbers are expected, not an element of kind {kind}")
        return np.frombuffer(content, self._order + _STORED[kind])

    def _inner(self, depth: int) -> Any:
        kind, content = self._next()
        if kind != _MATRIX:
            raise _Damaged(f"an array is expected, not an element of kind {kind}")
        if not content:  # [], as it is written within a struct
            return np.empty((0, 0))
        return _Matrix(content, self._order).value(depth + 1)

    def _structs(self, depth: int) -> list[dict[str, Any]]:
        length = self._numbers()
        names = bytes(self._next()[1])
        if len(length) != 1 or not 0 < int(length[0]) <= 64 or len(names) % int(length[0]):
            raise _Damaged("a struct has no proper names of fields")
        step = int(length[0])
        fields = [
            names[start : start + step].split(b"\0")[0].decode("latin-1")
            for start in range(0, len(names), step)
        ]
        if not fields and self._count:
            raise _Damaged("a struct has no fields")
        return [{field: self._inner(depth) for field in fields} for _ in range(self._count)]

    def _text(self) -> str:
        kind, content = self._next()
        if kind not in _TEXTS:
            raise _Damaged(f"a text is expected, not an element of kind {kind}")
        coding = _TEXTS[kind]
        if coding in ("utf-16", "utf-32"):
            coding += "-le" if self._order == "<" else "-be"
        return bytes(content).decode(coding)


# What is in a variable


def integers(path: Path, name: str, values: Any) -> list[int]:
    """Whole numbers, of an array of any type or of a list of such arrays."""
    flat = values if isinstance(values, list) else _flat(path, name, values)
    return [_integer(path, name, value) for value in flat]


def texts(path: Path, name: str, values: Any) -> list[str]:
    """Texts of a list, each in a cell of its own or not."""
    if not isinstance(values, list):
        raise DataError(f"{path}: '{name}' is no list of texts")
    return [_text(path, name, value) for value in values]


def _flat(path: Path, name: str, values: Any) -> list[Any]:
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: '{name}' is no array of numbers")
    flat: list[Any] = values.ravel(order="F").tolist()
    return flat


def _integer(path: Path, name: str, value: Any) -> int:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise DataError(f"{path}: '{name}' holds {shown(str(value))}, a whole number is expected")
    return int(value)


def _text(path: Path, name: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip() or UNPRINTABLE.search(value):
        raise DataError(f"{path}: '{name}' holds {shown(str(value))}, a text is expected")
    return value
