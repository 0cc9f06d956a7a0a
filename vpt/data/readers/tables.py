"""CSV files: a row for each image, with one label or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vpt.data.descriptor import Columns, Cut, Descriptor
from vpt.data.images import SUFFIXES
from vpt.data.readers.csv_table import CsvTable, open_csv_table
from vpt.data.readers.label_sets import class_columns, classes_of, columns_needed
from vpt.data.readers.parts import UNPRINTABLE, Parts, shown, split_paths
from vpt.data.readers.rows import Row, Rows, key_of, label_rows
from vpt.data.splits import SPLIT_NAMES, USUAL_NAMES, SplitName
from vpt.errors import DataError


def read_csv(descriptor: Descriptor, root: Path) -> Parts:
    """The rows of one file with a column of splits, or of one file for each split."""
    columns = descriptor.columns
    if descriptor.file is None:
        paths = split_paths(descriptor, root, suffix=".csv")
        tables = {split: _labelled_rows(path, root, columns) for split, path in paths.items()}
        _check_same_classes(paths, {split: names for split, (names, _) in tables.items()})
        names = next((names for names, _ in tables.values()), [])
        rows = {split: Rows.of(row for row, _ in pairs) for split, (_, pairs) in tables.items()}
        return label_rows(descriptor, root, rows, names)
    names, pairs = _labelled_rows(root / descriptor.file, root, columns)
    if columns.split is None:
        return label_rows(descriptor, root, {"train": (row for row, _ in pairs)}, names)
    rows, splits = {}, dict[str, SplitName]()
    for row, value in pairs:
        if value not in splits:
            splits[value] = split_of_value(descriptor, value, row.where)
        rows.setdefault(splits[value], Rows()).append(row)
    return label_rows(descriptor, root, rows, names)


def _labelled_rows(
    path: Path, root: Path, columns: Columns
) -> tuple[list[str], Iterator[tuple[Row, str]]]:
    """The class names that the header says, if it does; and each row with its split's value."""
    needed = columns_needed(columns)
    table = open_csv_table(path, needed)
    for name in needed:
        _check_column(table, name, columns)
    names = class_columns(columns, table.header, str(path))
    rows = (
        _row(dict(zip(table.header, fields, strict=True)), columns, names, root, f"{path}:{line}")
        for line, fields in table.rows
    )
    return names, rows


_PATHS = ("path", "file_name", "filename", "file", "filepath", "image", "image_path", "img", "name")
_LABELS = ("label", "class", "class_name", "category", "target", "species", "y")
"""What columns are often called, in lower case."""


def _check_column(table: CsvTable, name: str, columns: Columns) -> None:
    """Refuse a table without a column; say what it is probably called there."""
    if name in table.header:
        return
    if any(Path(each).suffix.lower() in SUFFIXES for each in table.header):
        raise DataError(
            f"{table.path}: its first line ({', '.join(table.header)}) names no columns but is an "
            f"image's; put a line before it, such as {columns.path},{columns.label}"
        )
    known = {each.casefold(): each for each in reversed(table.header)}
    path = next((known[each] for each in _PATHS if each in known), None)
    label = next((known[each] for each in _LABELS if each in known), None)
    example = ""
    if path is not None and label is not None and not columns.multi_label:
        example = f", e.g. columns: {{path: {path}, label: {label}}}"
    try:
        table.column(name)
    except DataError as error:
        raise DataError(f"{error}; name it under 'columns' of a descriptor{example}") from error


def _row(
    values: dict[str, str], columns: Columns, names: Sequence[str], root: Path, where: str
) -> tuple[Row, str]:
    wanted = [columns.path, *([] if columns.split is None else [columns.split])]
    wanted += [] if columns.multi_label else [columns.label]
    for name in wanted:
        check_value(values[name].strip(), name, where)
    if columns.multi_label:
        labels = classes_of(values, columns, names, where)
        for label in labels:
            check_value(label, columns.labels or "", where)
    else:
        labels = (values[columns.label].strip(),)
    split = values[columns.split].strip() if columns.split else ""
    return Row(key_of(values[columns.path].strip(), root), labels, where), split


def check_value(value: str, column: str, where: str) -> None:
    """Refuse a path, a label or a split that is empty or holds a line break.

    Raises:
        DataError: naming the place.
    """
    if not value:
        raise DataError(f"{where}: no value for '{column}'")
    if UNPRINTABLE.search(value):
        raise DataError(
            f"{where}: {shown(value)} in column '{column}' holds a line break or a control "
            "character; is a quote before it not closed?"
        )


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


def split_of_value(descriptor: Descriptor, value: str, where: str) -> SplitName:
    """The split that a value of the column of splits means.

    Raises:
        DataError: none.
    """
    names: dict[str, SplitName] = {}
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if not isinstance(source, Cut):
            names |= dict.fromkeys(USUAL_NAMES[split] if source is None else [source], split)
    split_name = names.get(value) or names.get(value.casefold())
    if split_name is None:
        raise DataError(
            f"{where}: split '{value}' is none of {', '.join(names)}; name it under 'splits', e.g. "
            f"splits: {{val: {value}}}"
        )
    return split_name
