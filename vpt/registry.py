"""Registries: a name in a configuration leads to its schema and its builder."""

from __future__ import annotations

import difflib
import importlib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from vpt.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' for the nearest known names, or '' where none is near."""
    names = sorted(known)
    alike = [each for each in names if _folded(each) == _folded(name)]
    matches = alike[:3] or difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def _folded(name: str) -> str:
    """Without upper case, blanks at the ends, and the two ways to write an accent."""
    return unicodedata.normalize("NFC", name.strip().casefold())


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered kind: the schema of its options and the function that builds it from them.

    Attributes:
        name: in configs and prompt files.
        schema: of its options.
        builder: 'module:function', or the function; what is named is imported when it is first
            built, so that checking a config imports no torch.
    """

    name: str
    schema: type[BaseModel]
    builder: str | Callable[..., T]

    def build(self, *arguments: Any, **options: Any) -> T:
        """What the builder makes."""
        if callable(self.builder):
            return self.builder(*arguments, **options)
        module, _, function = self.builder.partition(":")
        made: T = getattr(importlib.import_module(module), function)(*arguments, **options)
        return made


class Registry(Generic[T]):
    """Names to entries of one kind.

    Args:
        kind: what they are called in messages, e.g. 'prompt'.
        home: the module that registers the project's own, imported when they are first asked for;
            None: there are none.
    """

    def __init__(self, kind: str, home: str | None = None):
        self.kind = kind
        self._home = home
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, schema: type[BaseModel], builder: str | Callable[..., T]) -> None:
        """Add a kind under its name; a name is taken once."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = Entry(name, schema, builder)

    def __getitem__(self, name: str) -> Entry[T]:
        self._fill()
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise ConfigError(
                f"unknown {self.kind} '{name}'{nearest(name, self._entries)} (known: {known})"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """The registered names, sorted."""
        self._fill()
        return sorted(self._entries)

    def _fill(self) -> None:
        if self._home is not None:
            importlib.import_module(self._home)


PROMPTS: Registry[Any] = Registry("prompt", home="vpt.prompts.options")
HEADS: Registry[Any] = Registry("head", home="vpt.heads.options")
DETECTION_HEADS: Registry[Any] = Registry("detection head", home="vpt.heads.options")
