"""Rows of a list, whatever wrote it: from an image's name and its labels as written to samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vpt.data.descriptor import Descriptor
from vpt.data.near_paths import find_accepted
from vpt.data.readers.parts import Parts, check_files, is_file
from vpt.data.splits import Sample, SplitName
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
    rows: dict[SplitName, list[Row]],
    names: Sequence[str] = (),
) -> Parts:
    """Samples of rows; the classes are the descriptor's, those given, or else those that occur."""
    if descriptor.name_variants:
        keys = [row.key for part in rows.values() for row in part]
        accepted = find_accepted(keys, root, descriptor.name_variants)
        rows = {
            split: [replace(row, key=accepted.get(row.key, row.key)) for row in part]
            for split, part in rows.items()
        }
    names = descriptor.classes or names
    names = names or names_of_rows(row for part in rows.values() for row in part)
    numbers = {name: label for label, name in enumerate(names)}

    def sample(row: Row) -> Sample:
        labels = tuple(sorted({label_of(name, row.where, numbers) for name in row.labels}))
        label = labels if descriptor.multi_label else labels[0]
        return Sample(root / row.key, label, row.key)

    samples = {split: [sample(row) for row in part] for split, part in rows.items()}
    check_files((sample for part in samples.values() for sample in part), root)
    return Parts(tuple(names), samples)


def names_of_rows(rows: Iterable[Row]) -> list[str]:
    """The labels themselves as written, sorted; numbers by their value.

    Where all are whole numbers without leading zeros they have to be 0, 1, ...
    """
    first = {label: row.where for row in reversed(list(rows)) for label in row.labels}
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
