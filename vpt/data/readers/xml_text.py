"""XML files of annotations: elements with the lines they stand on, read without any entity.

Entities are what XML bombs and reads of foreign files are made of, and no annotation tool writes
them; a file that declares one is refused (https://docs.python.org/3/library/xml.html#xml-security).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from vpt.data.readers.label_files import LabelFileError
from vpt.storage.whole_file import read_whole

_LARGEST = 50_000_000  # bytes; an image with ten thousand objects has three million
_DEEPEST = 50


@dataclass
class Element:
    """An element, the text directly in it, and the line that it begins on."""

    name: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Element]:
        """The children of a name."""
        return (child for child in self.children if child.name == name)

    def first(self, name: str) -> Element | None:
        """The first child of a name, or None."""
        return next(self.all(name), None)

    def value(self, name: str) -> str | None:
        """The text of the first child of a name, on one line; None: it has none."""
        child = self.first(name)
        return None if child is None else " ".join(child.text.split()) or None


def read_xml(path: Path) -> Element:
    """The outermost element of a file.

    Raises:
        LabelFileError: it cannot be read, is no whole XML, or declares entities; one line.
    """
    try:
        data = read_whole(path, most=_LARGEST)
    except OSError as error:
        raise LabelFileError(path, f"cannot be read ({error.strerror})") from error
    if not data.strip():
        raise LabelFileError(path, "empty, no XML")
    return _Builder(path).build(data)


class _Builder:
    def __init__(self, path: Path):
        self.path = path
        self.open: list[Element] = []
        self.outermost: Element | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._refuse_entity
        self.parser.ExternalEntityRefHandler = self._refuse_entity

    def build(self, data: bytes) -> Element:
        try:
            self.parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            reason = f"no whole XML ({error})"
            raise LabelFileError(self.path, reason, self.parser.ErrorLineNumber) from error
        assert self.outermost is not None  # or expat finds "no element"
        return self.outermost

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = Element(name, self.parser.CurrentLineNumber)
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.outermost = element
        self.open.append(element)
        if len(self.open) > _DEEPEST:
            reason = f"nested deeper than {_DEEPEST} elements"
            raise LabelFileError(self.path, reason, element.line)

    def _end(self, name: str) -> None:
        self.open.pop()

    def _text(self, text: str) -> None:
        if self.open:
            self.open[-1].text += text

    def _refuse_entity(self, *declaration: Any) -> bool:
        reason = "declares an XML entity, which annotations have no use for; it is not read"
        raise LabelFileError(self.path, reason, self.parser.CurrentLineNumber)
