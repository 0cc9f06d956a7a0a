"""Readers of the layouts in which image data sets come; none guesses, skips or substitutes."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.array_formats import read_cifar100, read_svhn
from vpt.data.coop_formats import read_imagenet, read_split_zhou
from vpt.data.descriptor import Columns, Cut, Descriptor
from vpt.data.fine_grained import (
    read_cub,
    read_fgvc_aircraft,
    read_flowers102,
    read_nabirds,
    read_oxford_pets,
    read_stanford_cars,
    read_stanford_dogs,
)
from vpt.data.label_sets import class_columns, classes_of, columns_needed
from vpt.data.parquet import common_names, forget_files, parquet_files, read_labels
from vpt.data.parts import (
    Parts,
    check_class_folders,
    check_classes,
    check_counts,
    check_files,
    class_folders,
    find_root,
    hint,
    images_below,
    text_rows,
)
from vpt.data.sampling import holdout
from vpt.data.splits import PackedImage, Sample, Split, SplitName, Splits
from vpt.data.text_names import text_names
from vpt.errors import DataError
from vpt.registry import nearest
from vpt.storage.whole_file import open_regular

_SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class _Row:
    """One line of a list: an image, its labels as written, and where that was.

    There is exactly one label unless the data are multi-label.
    """

    key: str
    labels: tuple[str, ...]
    where: str


def read_splits(descriptor: Descriptor, root: Path | None = None) -> Splits:
    """The splits of a data set: files and labels, no image is opened.

    The order of images is sorted or that of the lists, never that of the file system.

    Args:
        descriptor: the data set.
        root: its folder; the descriptor's own if None.

    Raises:
        DataError: the folder is missing, or its content contradicts itself or the descriptor.
    """
    if descriptor.format == "coco":
        raise DataError(f"'{descriptor.name}' holds boxes, not one class per image (format coco)")
    parts = _READERS[descriptor.format](descriptor, _find_root(descriptor, root))
    if not any(parts.samples.values()):
        raise DataError(f"no images in '{descriptor.name}'{hint(descriptor)}")
    if not parts.class_names:
        raise DataError(f"no image of '{descriptor.name}' has a label")
    _check_duplicates(parts)
    splits = _cut(descriptor, parts)
    check_classes(descriptor, splits)
    check_counts(descriptor, {name: len(splits.get(name) or ()) for name in _SPLIT_NAMES})
    return replace(splits, text_names=text_names(descriptor, parts.class_names, parts.words))


def _find_root(descriptor: Descriptor, root: Path | None) -> Path:
    return Path() if descriptor.format == "sklearn_digits" else find_root(descriptor, root)


# Image folders


def _read_folder(descriptor: Descriptor, root: Path) -> Parts:
    folders = _split_paths(descriptor, root, suffix="")
    if not folders:
        raise DataError(
            f"'{root}' has none of the folders train, val, test; put one folder of images per "
            "class into each, or name the folders in a descriptor"
        )
    names = descriptor.classes or class_folders(next(iter(folders.values())))
    samples = {}
    for split, folder in folders.items():
        check_class_folders(folder, names)
        samples[split] = [
            Sample(path, label, path.relative_to(root).as_posix())
            for label, name in enumerate(names)
            for path in images_below(folder / name)
        ]
    return Parts(tuple(names), samples)


def _split_paths(descriptor: Descriptor, root: Path, suffix: str) -> dict[SplitName, Path]:
    """Folder or file of each split: as named, or the usual one where that exists."""
    paths: dict[SplitName, Path] = {}
    for split in _SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if isinstance(source, Cut):
            continue
        path = root / (source or f"{split}{suffix}")
        exists = path.is_file() if suffix else path.is_dir()
        if exists:
            paths[split] = path
        elif source is not None:
            raise DataError(
                f"splits.{split} of '{descriptor.name}': no such path '{path}'{hint(descriptor)}"
            )
    return paths


# Lists: CSV and 'path label' lines


def _read_csv(descriptor: Descriptor, root: Path) -> Parts:
    columns = descriptor.columns
    if descriptor.file is None:
        paths = _split_paths(descriptor, root, suffix=".csv")
        tables = {split: _csv_table(path, columns) for split, path in paths.items()}
        _check_same_classes(paths, {split: names for split, (names, _) in tables.items()})
        names = next((names for names, _ in tables.values()), [])
        rows = {split: [row for row, _ in pairs] for split, (_, pairs) in tables.items()}
        return _label_rows(descriptor, root, rows, names)
    names, pairs = _csv_table(root / descriptor.file, columns)
    if columns.split is None:
        return _label_rows(descriptor, root, {"train": [row for row, _ in pairs]}, names)
    rows = {}
    for row, value in pairs:
        rows.setdefault(_split_of_value(descriptor, value, row.where), []).append(row)
    return _label_rows(descriptor, root, rows, names)


def _csv_table(path: Path, columns: Columns) -> tuple[list[str], list[tuple[_Row, str]]]:
    """The class names that the header says, if it does; and each line with its split's value."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            for name in columns_needed(columns):
                if name not in header:
                    raise DataError(
                        f"{path}: no column '{name}' in the header "
                        f"({', '.join(header)}); name it under 'columns'"
                    )
            names = class_columns(columns, header, str(path))
            rows = [
                _csv_row(values, columns, names, f"{path}:{reader.line_num}") for values in reader
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error
    return names, rows


def _csv_row(
    values: dict[str, str], columns: Columns, names: list[str], where: str
) -> tuple[_Row, str]:
    wanted = [columns.path, *([] if columns.split is None else [columns.split])]
    wanted += [] if columns.multi_label else [columns.label]
    for name in wanted:
        if not (values[name] or "").strip():
            raise DataError(f"{where}: no value for '{name}'")
    if columns.multi_label:
        labels = classes_of(values, columns, names, where)
    else:
        labels = (values[columns.label].strip(),)
    split = values[columns.split].strip() if columns.split else ""
    return _Row(_key(values[columns.path].strip()), labels, where), split


def _check_same_classes(paths: dict[SplitName, Path], names: dict[SplitName, list[str]]) -> None:
    """Each file has to have the same columns of classes, in the same order."""
    first = next(iter(names), None)
    for split in names:
        if first is not None and names[split] != names[first]:
            differing = sorted(set(names[split]) ^ set(names[first])) or ["their order"]
            raise DataError(
                f"{paths[split]} has other columns of classes than {paths[first]} (differing: "
                f"{', '.join(differing[:5])}); list the classes under columns.classes"
            )


def _split_of_value(descriptor: Descriptor, value: str, where: str) -> SplitName:
    names: dict[str, SplitName] = {}
    for split in _SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if not isinstance(source, Cut):
            names[source or split] = split
    if value not in names:
        raise DataError(f"{where}: split '{value}' is none of {', '.join(names)}")
    return names[value]


def _read_image_list(descriptor: Descriptor, root: Path) -> Parts:
    rows = {
        split: [
            _Row(_key(path), (label,), where)
            for where, (path, label) in text_rows(file, fields=2, what="path label", last=True)
        ]
        for split, file in _split_paths(descriptor, root, suffix=".txt").items()
    }
    return _label_rows(descriptor, root, rows)


def _read_path_list(descriptor: Descriptor, root: Path) -> Parts:
    """'class/image' in each line: the folder of an image is its class."""
    lists = _split_paths(descriptor, root, suffix=".txt")
    if not lists:
        raise DataError(f"'{root}' has no list of images{hint(descriptor)}")
    folder = Path(str(descriptor.images or ""))
    rows: dict[SplitName, list[_Row]] = {}
    for split, file in lists.items():
        rows[split] = []
        for where, (path,) in text_rows(file, fields=1, what="class/image"):
            name, slash, rest = path.partition("/")
            if not (name and slash and rest) or ".." in path.split("/"):
                raise DataError(f"{where}: '{path[:80]}' is not 'class/image'")
            key = (folder / f"{path}{descriptor.suffix}").as_posix()
            rows[split].append(_Row(key, (name,), where))
    found = {label for part in rows.values() for row in part for label in row.labels}
    names = descriptor.classes or sorted(found)
    return _label_rows(descriptor.model_copy(update={"classes": names}), root, rows)


def _key(path: str) -> str:
    return Path(path).as_posix()


def _label_rows(
    descriptor: Descriptor,
    root: Path,
    rows: dict[SplitName, list[_Row]],
    names: Sequence[str] = (),
) -> Parts:
    """Samples of rows; the classes are the descriptor's, those given, or else those that occur."""
    names = descriptor.classes or names
    names = names or _class_names(row for part in rows.values() for row in part)
    numbers = {name: label for label, name in enumerate(names)}

    def sample(row: _Row) -> Sample:
        labels = tuple(sorted({_label(name, row.where, numbers) for name in row.labels}))
        label = labels if descriptor.multi_label else labels[0]
        return Sample(root / row.key, label, row.key)

    samples = {split: [sample(row) for row in part] for split, part in rows.items()}
    check_files(sample for part in samples.values() for sample in part)
    return Parts(tuple(names), samples)


def _class_names(rows: Iterable[_Row]) -> list[str]:
    """The labels themselves, sorted; '0', '1', ... where all of them are whole numbers."""
    first = {label: row.where for row in reversed(list(rows)) for label in row.labels}
    if not all(_is_integer(label) for label in first):
        return sorted(first)
    numbers = {int(label): where for label, where in first.items()}
    if set(numbers) != set(range(len(numbers))):
        outside = min(number for number in numbers if not 0 <= number < len(numbers))
        raise DataError(
            f"{numbers[outside]}: label {outside} is out of range: {len(numbers)} classes are "
            f"numbered 0..{len(numbers) - 1}; renumber them or list 'classes' in the descriptor"
        )
    return [str(number) for number in sorted(numbers)]


def _label(label: str, where: str, numbers: dict[str, int]) -> int:
    """The class of a label written as a name or, where it is no name, as a number."""
    if label in numbers:
        return numbers[label]
    if not _is_integer(label):
        raise DataError(f"{where}: unknown class '{label}'{nearest(label, numbers)}")
    if not 0 <= int(label) < len(numbers):
        raise DataError(
            f"{where}: label {label} is out of range: {len(numbers)} classes are numbered "
            f"0..{len(numbers) - 1}"
        )
    return int(label)


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,9}", text) is not None


# Parquet files


def _read_parquet(descriptor: Descriptor, root: Path) -> Parts:
    columns = descriptor.columns
    forget_files()
    read = {
        split: [(file, read_labels(file, columns)) for file in files]
        for split, files in parquet_files(descriptor, root).items()
    }
    every = [pair for pairs in read.values() for pair in pairs]
    names = descriptor.classes or common_names(every)
    names = names or _class_names(
        _Row("", tuple(map(str, values)), f"{file}: row {row}")
        for file, labels in every
        for row, values in enumerate(labels.values)
    )
    numbers = {name: label for label, name in enumerate(names)}
    samples = {
        split: [
            Sample(
                PackedImage(file, row, columns.image),
                _packed_label(values, f"{file}: row {row}", numbers, columns),
                f"{name}:{row}",
            )
            for file, labels in pairs
            for name in [_key(os.path.relpath(file, root))]
            for row, values in enumerate(labels.values)
        ]
        for split, pairs in read.items()
    }
    return Parts(tuple(names), samples)


def _packed_label(
    values: tuple[int | str, ...], where: str, numbers: dict[str, int], columns: Columns
) -> int | tuple[int, ...]:
    """The label of a row: numbers stand for themselves, whatever the classes are called."""
    for value in values:
        if isinstance(value, int) and not 0 <= value < len(numbers):
            raise DataError(
                f"{where}: label {value} is out of range: {len(numbers)} classes are numbered "
                f"0..{len(numbers) - 1}"
            )
    labels = {
        value if isinstance(value, int) else _label(value, where, numbers) for value in values
    }
    return tuple(sorted(labels)) if columns.multi_label else labels.pop()


# The digits of scikit-learn


def _read_sklearn_digits(descriptor: Descriptor, root: Path) -> Parts:
    # Imported here: it takes a second that no other data set needs.
    from sklearn.datasets import load_digits

    digits = load_digits()
    array = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = [int(label) for label in digits.target]
    _check_digits(descriptor, array, labels)
    samples = [Sample(index, label, f"{index:04d}") for index, label in enumerate(labels)]
    names = descriptor.classes or [str(digit) for digit in range(10)]
    return Parts(tuple(names), {"train": samples}, array)


def _check_digits(descriptor: Descriptor, array: NDArray[np.uint8], labels: list[int]) -> None:
    found = "sha256:" + hashlib.sha256(array.tobytes() + bytes(labels)).hexdigest()
    if descriptor.checksum not in (None, found):
        raise DataError(
            f"the digits of the installed scikit-learn have checksum {found}, "
            f"'{descriptor.name}' expects {descriptor.checksum}"
        )


_READERS: dict[str, Callable[[Descriptor, Path], Parts]] = {
    "folder": _read_folder,
    "csv": _read_csv,
    "image_list": _read_image_list,
    "parquet": _read_parquet,
    "path_list": _read_path_list,
    "cub": read_cub,
    "nabirds": read_nabirds,
    "flowers102": read_flowers102,
    "stanford_dogs": read_stanford_dogs,
    "stanford_cars": read_stanford_cars,
    "fgvc_aircraft": read_fgvc_aircraft,
    "oxford_pets": read_oxford_pets,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "sklearn_digits": _read_sklearn_digits,
    "split_zhou": read_split_zhou,
    "imagenet": read_imagenet,
}


# Cuts and checks that all formats share


def _cut(descriptor: Descriptor, parts: Parts) -> Splits:
    """Splits from parts: test is cut out of train where the descriptor says so, then val."""
    found: dict[str, Split | None] = dict.fromkeys(_SPLIT_NAMES)
    for name, samples in parts.samples.items():
        if not samples:
            raise DataError(f"no images in split '{name}' of '{descriptor.name}'")
        found[name] = Split(name, tuple(samples), parts.class_names, parts.array)
    for name in ("test", "val"):
        cut: Any = getattr(descriptor.splits, name)
        if isinstance(cut, Cut):
            train = found["train"]
            if train is None:
                raise DataError(
                    f"splits.{name} is to be cut out of train, but '{descriptor.name}' has no "
                    "train split"
                )
            if found[name] is not None:
                raise DataError(
                    f"'{descriptor.name}' has a {name} split of its own; remove splits.{name}"
                )
            found["train"], held = holdout(train, cut.fraction, cut.seed)
            found[name] = held.with_samples(held.samples, name)
    return Splits(found["train"], found["val"], found["test"], parts.class_names)


def _check_duplicates(parts: Parts) -> None:
    seen: dict[str, str] = {}
    for split, samples in parts.samples.items():
        for sample in samples:
            if sample.key in seen:
                before = seen[sample.key]
                place = f"twice in '{split}'" if before == split else f"in '{before}' and '{split}'"
                raise DataError(f"image '{sample.key}' is listed {place}; keep one of them")
            seen[sample.key] = split
