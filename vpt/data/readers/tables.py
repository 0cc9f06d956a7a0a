"""CSV files: a row for each image, with one label or several."""

from __future__ import annotations

import csv
from pathlib import Path

from vpt.data.descriptor import Columns, Cut, Descriptor
from vpt.data.readers.label_sets import class_columns, classes_of, columns_needed
from vpt.data.readers.parts import Parts, split_paths
from vpt.data.readers.rows import Row, key_of, label_rows
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError


def read_csv(descriptor: Descriptor, root: Path) -> Parts:
    """The rows of one file with a column of splits, or of one file for each split."""
    columns = descriptor.columns
    if descriptor.file is None:
        paths = split_paths(descriptor, root, suffix=".csv")
        tables = {split: _csv_table(path, columns) for split, path in paths.items()}
        _check_same_classes(paths, {split: names for split, (names, _) in tables.items()})
        names = next((names for names, _ in tables.values()), [])
        rows = {split: [row for row, _ in pairs] for split, (_, pairs) in tables.items()}
        return label_rows(descriptor, root, rows, names)
    names, pairs = _csv_table(root / descriptor.file, columns)
    if columns.split is None:
        return label_rows(descriptor, root, {"train": [row for row, _ in pairs]}, names)
    rows = {}
    for row, value in pairs:
        rows.setdefault(_split_of_value(descriptor, value, row.where), []).append(row)
    return label_rows(descriptor, root, rows, names)


def _csv_table(path: Path, columns: Columns) -> tuple[list[str], list[tuple[Row, str]]]:
    """The class names that the header says, if it does; and each line with its split's value."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
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
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error
    return names, rows


def _csv_row(
    values: dict[str, str], columns: Columns, names: list[str], where: str
) -> tuple[Row, str]:
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
    return Row(key_of(values[columns.path].strip()), labels, where), split


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
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if not isinstance(source, Cut):
            names[source or split] = split
    if value not in names:
        raise DataError(f"{where}: split '{value}' is none of {', '.join(names)}")
    return names[value]
