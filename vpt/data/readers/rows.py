"""Rows of a list, whatever wrote it: from an image's name and its labels as written to samples."""

from __future__ import annotations

import copy
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpt.data.descriptor import Descriptor
from vpt.data.near_paths import find_accepted
from vpt.data.readers.missing_files import is_file
from vpt.data.readers.parts import Parts, check_files
from vpt.data.samples import Sample, Samples, SamplesBuilder
from vpt.data.sources import Sources
from vpt.data.splits import SplitName
from vpt.data.texts import Texts, TextsBuilder
from vpt.errors import DataError
from vpt.registry import nearest


@dataclass(frozen=True)
class Row:
    """One line of a list: an image, its labels as written, and where that was.

    There is exactly one label unless the data are multi-label.
    """

    key: str
    labels: tuple[str, ...]
    where: str


def key_of(path: str, root: Path | None = None) -> str:
    """The name of an image from its path as written: with slashes, without './'.

    Args:
        path: as written.
        root: its folder; backslashes are Windows' slashes where that names a file of it, and the
            path as written does not.
    """
    if root is not None and "\\" in path and not is_file(root / path):
        slashed = path.replace("\\", "/")
        path = slashed if is_file(root / slashed) else path
    return Path(path).as_posix()


def label_rows(
    descriptor: Descriptor,
    root: Path,
    rows: Mapping[SplitName, Iterable[Row] | Rows],
    names: Sequence[str] = (),
) -> Parts:
    """Samples of rows; the classes are the descriptor's, those given, or else those that occur.

    Args:
        descriptor: of the data set.
        root: its folder.
        rows: of each split.
        names: of the classes, where the list itself has them.

    Raises:
        DataError: a label is unknown, or an image is missing.
    """
    tables = {split: Rows.of(part) for split, part in rows.items()}
    if descriptor.name_variants:
        keys = [key for table in tables.values() for key in table.keys]
        accepted = find_accepted(keys, root, descriptor.name_variants)
        tables = {split: table.renamed(accepted) for split, table in tables.items()}
    names = descriptor.classes or names
    names = names or _names_of(_first_places(tables.values()))
    numbers = {name: label for label, name in enumerate(names)}
    samples = {split: table.labelled(root, descriptor, numbers) for split, table in tables.items()}
    check_files(Samples.joined(list(samples.values())) if samples else (), root)
    return Parts(tuple(names), samples)


class Rows:
    """Many rows in few objects: of a label only the first place where it is written is known."""

    def __init__(self) -> None:
        self._keys = TextsBuilder()
        self._numbers: dict[str, int] = {}
        self._where: list[str] = []
        self._labels, self._ends = array("i"), array("q", [0])

    @classmethod
    def of(cls, rows: Iterable[Row] | Rows) -> Rows:
        """These rows; those of an iterator are not kept as objects."""
        if isinstance(rows, Rows):
            return rows
        table = cls()
        for row in rows:
            table.append(row)
        return table

    def append(self, row: Row) -> None:
        """Add a row."""
        self._keys.append(row.key)
        for label in row.labels:
            number = self._numbers.setdefault(label, len(self._numbers))
            if number == len(self._where):
                self._where.append(row.where)
            self._labels.append(number)
        self._ends.append(len(self._labels))

    @property
    def keys(self) -> Texts:
        """The names of the images; no row is added afterwards."""
        return self._keys.build()

    @property
    def first_places(self) -> dict[str, str]:
        """Where each label is written first, in that order."""
        return dict(zip(self._numbers, self._where, strict=True))

    def renamed(self, others: Mapping[str, str]) -> Rows:
        """The same rows, some with other names of images."""
        same = copy.copy(self)
        same._keys = TextsBuilder()
        for key in self.keys:
            same._keys.append(others.get(key, key))
        return same

    def labelled(self, root: Path, descriptor: Descriptor, numbers: dict[str, int]) -> Samples:
        """The images, their files below a folder, by the labels that `numbers` gives.

        Raises:
            DataError: a label is none of them.
        """
        moved = np.array(
            [label_of(label, where, numbers) for label, where in self.first_places.items()],
            dtype=np.int32,
        )
        sources = Sources.below(root, self.keys)
        labels = np.array(self._labels, dtype=np.int32)
        if not descriptor.multi_label:
            return Samples(sources, moved[labels])
        builder = SamplesBuilder()
        for place, key in enumerate(sources.keys):
            own = moved[labels[self._ends[place] : self._ends[place + 1]]].tolist()
            builder.append(Sample(sources.source(place), tuple(sorted(set(own))), key))
        return builder.build()


def _first_places(tables: Iterable[Rows]) -> dict[str, str]:
    first: dict[str, str] = {}
    for table in tables:
        for label, where in table.first_places.items():
            first.setdefault(label, where)
    return first


def names_of_rows(rows: Iterable[Row]) -> list[str]:
    """The labels themselves as written, sorted; numbers by their value.

    Where all are whole numbers without leading zeros they have to be 0, 1, ...
    """
    return _names_of(Rows.of(rows).first_places)


def _names_of(first: Mapping[str, str]) -> list[str]:
    """See `names_of_rows`; `first` says where each label is written first."""
    if not all(_is_integer(label) for label in first):
        return sorted(first)
    names: dict[int, str] = {}
    for label, where in first.items():
        other = names.setdefault(int(label), label)
        if other != label:
            raise DataError(
                f"{where}: label '{label}' is written '{other}' elsewhere ({first[other]}); write "
                "one number in one way"
            )
    if any(label != str(number) for number, label in names.items()):
        return [names[number] for number in sorted(names)]
    if set(names) != set(range(len(names))):
        outside = min(number for number in names if not 0 <= number < len(names))
        raise DataError(
            f"{first[str(outside)]}: label {outside} is out of range: {len(names)} classes are "
            f"numbered 0..{len(names) - 1}; renumber them or list 'classes' in the descriptor"
        )
    return [str(number) for number in range(len(names))]


def label_of(label: str, where: str, numbers: dict[str, int]) -> int:
    """The class of a label written as a name or, where no class is called so, as a number."""
    if label in numbers:
        return numbers[label]
    if not _is_integer(label) or all(_is_integer(name) for name in numbers):
        raise DataError(f"{where}: unknown class '{label}'{nearest(label, numbers)}")
    if not 0 <= int(label) < len(numbers):
        raise DataError(
            f"{where}: label {label} is out of range: {len(numbers)} classes are numbered "
            f"0..{len(numbers) - 1}"
        )
    return int(label)


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,9}", text) is not None
