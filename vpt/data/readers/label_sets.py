"""Multi-label CSV files: all classes of an image in one cell, or a column of 0 and 1 per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpt.data.descriptor import Columns
from vpt.errors import DataError

_PRESENT = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def columns_needed(columns: Columns) -> list[str]:
    """The columns that a CSV file must have, without those that `remaining` stands for."""
    if isinstance(columns.classes, list):
        labels = list(columns.classes)
    elif columns.classes is not None:
        labels = []
    else:
        labels = [columns.labels or columns.label]
    return [columns.path, *labels, *([columns.split] if columns.split is not None else [])]


def class_columns(columns: Columns, header: Sequence[str], where: str) -> list[str]:
    """The columns of 0 and 1, in label order; none where the classes are in one cell.

    Args:
        columns: of the descriptor.
        header: of the file.
        where: the file, for messages.

    Raises:
        DataError: `remaining` leaves no column, or one without a name.
    """
    if columns.classes != "remaining":
        return list(columns.classes or ())
    names = [name for name in header if name not in (columns.path, columns.split)]
    if not names:
        raise DataError(f"{where}: no column but '{columns.path}' is left to be a class")
    if "" in names:
        raise DataError(
            f"{where}: a column has no name and would be a class; name it, or list the classes "
            "under columns.classes"
        )
    return names


def classes_of(
    values: Mapping[str, str], columns: Columns, names: Sequence[str], where: str
) -> tuple[str, ...]:
    """The classes of one image, as written; perhaps none.

    Args:
        values: of its line, by column.
        columns: of the descriptor.
        names: of `class_columns`.
        where: file and line, for messages.

    Raises:
        DataError: a value that is neither 0 nor 1, or a class that is listed twice.
    """
    if columns.labels is None:
        return tuple(name for name in names if _is_present(values[name] or "", name, where))
    pieces = (piece.strip() for piece in (values[columns.labels] or "").split(columns.separator))
    classes = tuple(piece for piece in pieces if piece)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"{where}: class '{twice}' is listed twice in '{columns.labels}'")
    return classes


def _is_present(value: str, name: str, where: str) -> bool:
    try:
        return _PRESENT[value.strip().lower()]
    except KeyError:
        raise DataError(
            f"{where}: '{value.strip()}' in column '{name}' is neither 0 nor 1; if '{name}' is no "
            "class, list those that are under columns.classes"
        ) from None
