"""Many strings as one stretch of bytes: a million names without a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

_CODEC = ("utf-8", "surrogateescape")  # file names may be no UTF-8
_CHUNK = 1 << 16  # strings whose bytes are gathered in one go


class Texts(Sequence[str]):
    """Strings, made when they are looked at.

    Args:
        blob: the strings in UTF-8, one after the other.
        ends: (N + 1,) int64, where each begins, and at the end where the last one ends.
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]):
        self._blob, self._ends = blob, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """These strings."""
        builder = TextsBuilder()
        for text in texts:
            builder.append(text)
        return builder.build()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Texts: ...

    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.encoded(range(len(self))[index]).decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        return (self.encoded(place).decode(*_CODEC) for place in range(len(self)))

    def encoded(self, place: int) -> bytes:
        """A string in UTF-8."""
        return self._blob[self._ends[place] : self._ends[place + 1]].tobytes()

    def take(self, places: Places) -> Texts:
        """The strings at some places, in that order."""
        lengths = np.diff(self._ends)[places]
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        blob = np.empty(int(ends[-1]), dtype=np.uint8)
        for start in range(0, len(places), _CHUNK):
            part = places[start : start + _CHUNK]
            begin, end = ends[start], ends[start + len(part)]
            blob[begin:end] = self._blob[rows_of(self._ends, part)]
        return Texts(blob, ends)

    @staticmethod
    def joined(parts: Sequence[Texts]) -> Texts:
        """The strings of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *(np.diff(p._ends) for p in parts)])
        blobs = [part._blob[part._ends[0] : part._ends[-1]] for part in parts]
        return Texts(np.concatenate([np.zeros(0, dtype=np.uint8), *blobs]), np.cumsum(lengths))

    def first_repeated(self) -> tuple[int, int] | None:
        """(before, again): the first string that was there before, and where; None: no such one.

        Only hashes are sorted. Strings of equal hashes are compared.
        """
        hashes = np.fromiter(
            (hash(self.encoded(place)) for place in range(len(self))), np.int64, len(self)
        )
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        found: list[tuple[int, int]] = []
        for place in alike.tolist():
            before, again = int(order[place]), int(order[place + 1])
            # Of three with one hash the last may equal the first: all before it are compared.
            while True:
                if self.encoded(before) == self.encoded(again):
                    found.append((again, before))
                    break
                place -= 1
                if place < 0 or hashes[order[place]] != hashes[again]:
                    break
                before = int(order[place])
        if not found:
            return None
        again, _ = min(found)
        text = self.encoded(again)
        before = next(place for place in range(again) if self.encoded(place) == text)
        return before, again


class TextsBuilder:
    """Strings in the making."""

    def __init__(self) -> None:
        self._blob, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        """Add a string."""
        self._blob += text.encode(*_CODEC)
        self._ends.append(len(self._blob))

    def build(self) -> Texts:
        """All of them; nothing is added afterwards."""
        return Texts(np.frombuffer(self._blob, np.uint8), np.frombuffer(self._ends, np.int64))


def rows_of(ends: NDArray[np.int64], places: Places) -> Places:
    """The rows of the groups at some places, where group k has the rows ends[k] to ends[k + 1]."""
    starts, lengths = ends[places], (ends[1:] - ends[:-1])[places]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
