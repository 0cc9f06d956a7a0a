"""One CSV file: its header and its rows, each with as many fields as the header has."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpt.data.readers.text_files import read_text
from vpt.errors import DataError
from vpt.registry import nearest

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
"""What may stand between two fields; the header decides."""


@dataclass(frozen=True)
class CsvTable:
    """A CSV file.

    Attributes:
        path: the file.
        header: the names of the columns, each another one, without blanks around them.
        rows: the line where each begins, counted from 1, and its fields, as many as the header's.
    """

    path: Path
    header: tuple[str, ...]
    rows: Iterable[tuple[int, list[str]]]

    def column(self, name: str) -> int:
        """The position of a column.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self.header:
            listed = ", ".join(each or "(no name)" for each in self.header)
            raise DataError(
                f"{self.path}: no column '{name}' in the header ({listed})"
                f"{nearest(name, self.header)}"
            )
        return self.header.index(name)


def open_csv_table(path: Path, needed: Sequence[str] = ()) -> CsvTable:
    """The header of a CSV file, and its rows as an iterator; blank lines are left out.

    Fields are separated by comma, semicolon, tab or pipe, whichever the header is; a first line
    such as `sep=;`, as Excel writes it, says so itself.

    Args:
        path: the file, see `read_text`.
        needed: columns that the header is expected to have, by which the separator is recognised.

    Raises:
        DataError: no text, a column twice, or a quote in the header that is not closed. A row with
            more or fewer fields than the header, or a quote that is not closed there, raises it
            when the row is asked for.
    """
    text = read_text(path)
    first_line, separator, text = _separator_line(text)
    separator = separator or _separator(path, text, needed)
    records = _records(path, text, separator, first_line)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: is empty; its first line has to name the columns")
    header = tuple(name.strip() for name in first[1])
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:{first[0]}: the header names column '{twice}' twice; rename one")
    return CsvTable(path, header, _checked(path, header, records))


def _checked(
    path: Path, header: Sequence[str], records: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}:{line}: {_counted(len(fields), 'field')}, the header has {len(header)}; "
                + _advice(fields, header)
            )
        yield line, fields


def _advice(fields: Sequence[str], header: Sequence[str]) -> str:
    if len(fields) < len(header):
        return "add what is missing, or quote a line break that belongs to a field"
    return 'quote a field that holds the separator, as in "red, round"'


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _separator_line(text: str) -> tuple[int, str | None, str]:
    """(first line, separator or None, text) without a line `sep=;` at the top."""
    found = re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n)', text, flags=re.IGNORECASE)
    if found is None:
        return 1, None, text
    return 2, found[1], text[found.end() :]


def _separator(path: Path, text: str, needed: Sequence[str]) -> str:
    """The one that finds the most of the needed columns in the header, or else the most columns."""

    def rank(separator: str) -> tuple[int, int]:
        try:
            header = next((fields for _, fields in _records(path, text, separator, 1)), [])
        except DataError:
            return -1, 0
        names = {name.strip() for name in header}
        return sum(name in names for name in needed), len(header)

    return max(SEPARATORS, key=rank)


def _records(
    path: Path, text: str, separator: str, first_line: int
) -> Iterator[tuple[int, list[str]]]:
    """The line where each record begins, and its fields; records of blanks alone are left out."""
    lines = (found[0] for found in _LINE.finditer(text))
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        line = first_line + reader.line_num
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}:{line}: {_reason(str(error))}") from error
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield line, fields


def _reason(error: str) -> str:
    if "unexpected end" in error or "field larger" in error:
        return 'a quote that begins here is not closed; close it, or write two ("") for one'
    if "expected after" in error:
        return (
            'text follows a closing quote; put the whole field in quotes and write two ("") for '
            "one inside it"
        )
    return f"cannot be read as CSV ({error})"
