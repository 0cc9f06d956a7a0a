"""The names of many images and where each of them is, in few objects."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpt.data.texts import Places, Texts, TextsBuilder


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image inside a parquet file.

    Attributes:
        file: the parquet file.
        row: counted from 0.
        column: of the images.
    """

    file: Path
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"


Source = Path | PackedImage | int
"""An image file, the row of a parquet file, or the position in an array."""

_Origin = str | Path | tuple[Path, str] | None
"""What goes before the name of an image in its path; the whole path; a parquet file and its column;
None: an array."""


class Sources:
    """The key and the source of each image.

    Args:
        keys: the names of the images.
        origins: what sources are made of.
        origin: (N,) int32, which of them an image has.
        rows: (N,) int64, of images in a parquet file or an array; None: there are none.

    Attributes:
        keys: as given.
    """

    def __init__(
        self,
        keys: Texts,
        origins: tuple[_Origin, ...],
        origin: NDArray[np.int32],
        rows: NDArray[np.int64] | None,
    ):
        self.keys, self._origins, self._origin, self._rows = keys, origins, origin, rows

    @classmethod
    def below(cls, folder: Path, keys: Texts) -> Sources:
        """Files in a folder, which their keys are relative to."""
        if any(key.startswith("/") for key in keys):  # somewhere else
            builder = SourcesBuilder()
            for key in keys:
                builder.append(key, folder / key)
            return builder.build()
        prefix = "" if folder == Path() else f"{folder}/".replace("//", "/")
        return cls(keys, (prefix,), np.zeros(len(keys), dtype=np.int32), None)

    def __len__(self) -> int:
        return len(self.keys)

    def path_text(self, place: int) -> str | None:
        """The path of an image's file; None: it has none of its own."""
        origin = self._origins[self._origin[place]]
        if isinstance(origin, str):
            return origin + self.keys[place]
        return os.fspath(origin) if isinstance(origin, Path) else None

    def source(self, place: int) -> Source:
        """Where an image is."""
        origin = self._origins[self._origin[place]]
        if isinstance(origin, str):
            return Path(origin + self.keys[place])
        if isinstance(origin, Path):
            return origin
        assert self._rows is not None
        row = int(self._rows[place])
        return row if origin is None else PackedImage(origin[0], row, origin[1])

    @property
    def in_arrays(self) -> bool:
        """Whether any image is a position in an array."""
        return any(self._origins[number] is None for number in np.unique(self._origin))

    def take(self, places: Places) -> Sources:
        """Those at some places, in that order."""
        rows = None if self._rows is None else self._rows[places]
        used, origin = np.unique(self._origin[places], return_inverse=True)
        origins = tuple(self._origins[number] for number in used.tolist())
        return Sources(self.keys.take(places), origins, origin.astype(np.int32), rows)

    @staticmethod
    def joined(parts: Sequence[Sources]) -> Sources:
        """Those of several, one after the other."""
        numbers: dict[_Origin, int] = {}
        origin = [np.zeros(0, dtype=np.int32)]
        for part in parts:
            own = [numbers.setdefault(each, len(numbers)) for each in part._origins]
            origin.append(np.array(own, dtype=np.int32)[part._origin])
        rows = [
            np.zeros(len(part), dtype=np.int64) if part._rows is None else part._rows
            for part in parts
        ]
        return Sources(
            Texts.joined([part.keys for part in parts]),
            tuple(numbers),
            np.concatenate(origin),
            np.concatenate(rows) if any(part._rows is not None for part in parts) else None,
        )


class SourcesBuilder:
    """Names and sources in the making."""

    def __init__(self) -> None:
        self._keys = TextsBuilder()
        self._numbers: dict[_Origin, int] = {}
        self._origin, self._rows = array("i"), array("q")
        self._rowed = False

    def append(self, key: str, source: Source) -> None:
        """Add an image."""
        origin: _Origin
        row = 0
        if isinstance(source, int):
            origin, row = None, source
        elif isinstance(source, PackedImage):
            origin, row = (source.file, source.column), source.row
        else:
            path = os.fspath(source)
            origin = path.removesuffix(key) if path.endswith(key) else source
        self._rowed |= not isinstance(origin, str | Path)
        self._keys.append(key)
        self._origin.append(self._numbers.setdefault(origin, len(self._numbers)))
        self._rows.append(row)

    def build(self) -> Sources:
        """All of them; nothing is added afterwards."""
        return Sources(
            self._keys.build(),
            tuple(self._numbers),
            np.frombuffer(self._origin, np.int32),
            np.frombuffer(self._rows, np.int64) if self._rowed else None,
        )
