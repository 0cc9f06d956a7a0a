"""JSON files with long lists, whose entries are parsed one at a time and never held together."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any, overload

from vpt.errors import DataError
from vpt.storage.whole_file import MAX_JSON, read_whole_text

_SPACE = re.compile(r"[ \t\n\r]*")
_parse = json.JSONDecoder().raw_decode


class Entries(Sequence[Any]):
    """The entries of a list in a JSON text, which are parsed each time that they are looked at.

    Args:
        text: of the file.
        starts: of each entry in it.
    """

    def __init__(self, text: str, starts: array[int]):
        self._text, self._starts = text, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> Entries: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Entries(self._text, self._starts[index])
        return _parse(self._text, self._starts[index])[0]

    def __iter__(self) -> Iterator[Any]:
        for start in self._starts:
            yield _parse(self._text, start)[0]


def read_json_lists(path: Path, names: Collection[str]) -> Any:
    """What a JSON file holds; of an object the lists with these names are `Entries`.

    Raises:
        DataError: it cannot be read, or is no JSON in UTF-8.
    """
    try:
        text = read_whole_text(path, most=MAX_JSON)
        start = _after_space(text, 0)
        return _object(text, start, names) if text[start : start + 1] == "{" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON in UTF-8 ({error})") from error


def _object(text: str, start: int, names: Collection[str]) -> dict[str, Any]:
    """The whole of a text that is one object."""
    found: dict[str, Any] = {}
    place = _after_space(text, start + 1)
    more = text[place : place + 1] != "}"
    while more:
        if text[place : place + 1] != '"':
            reason = "Expecting property name enclosed in double quotes"
            raise JSONDecodeError(reason, text, place)
        name, place = _parse(text, place)
        place = _after_space(text, place)
        if text[place : place + 1] != ":":
            raise JSONDecodeError("Expecting ':' delimiter", text, place)
        place = _after_space(text, place + 1)
        listed = name in names and text[place : place + 1] == "["
        found[name], place = _list(text, place) if listed else _parse(text, place)
        more, place = _more(text, place, "}")
    end = _after_space(text, place + (0 if found else 1))
    if end != len(text):
        raise JSONDecodeError("Extra data", text, end)
    return found


def _list(text: str, start: int) -> tuple[Entries, int]:
    """The entries of the list that starts there, each parsed once, and where it ends."""
    starts = array("q")
    place = _after_space(text, start + 1)
    if text[place : place + 1] == "]":
        return Entries(text, starts), place + 1
    more = True
    while more:
        starts.append(place)
        _, place = _parse(text, place)
        more, place = _more(text, place, "]")
    return Entries(text, starts), place


def _more(text: str, place: int, close: str) -> tuple[bool, int]:
    """Whether an item follows, and where; or else where the thing that `close` closes ends."""
    place = _after_space(text, place)
    after = text[place : place + 1]
    if after == close:
        return False, place + 1
    if after != ",":
        raise JSONDecodeError("Expecting ',' delimiter", text, place)
    return True, _after_space(text, place + 1)


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()
