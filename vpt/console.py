"""How text reaches a terminal: readable, and unable to command it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_COMMANDS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the order of what follows
    "\u2028\u2029"  # line breaks that look like none
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8, and what no encoding can write
    "]"
)


def escaped(text: str) -> str:
    r"""The text with every character that a terminal would obey as JSON writes it: \u001b.

    Names of classes, files, servers and configs are other people's text. Tabs and line feeds stay.
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeConsole(Console):
    """A rich console that escapes all text that it draws; colours and bars are its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See `Console.render`; every other way of drawing goes through it."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(escaped(segment.text), segment.style)


class SafeStream:
    """A text stream to a terminal that escapes what is written; a file would keep it as it is.

    Args:
        stream: that is written to.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, escaped where the stream is a terminal."""
        return self._stream.write(escaped(text))

    def flush(self) -> None:
        """Pass on what was written."""
        self._stream.flush()
