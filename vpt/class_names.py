"""The rules for class names, the same wherever a model or a file is given some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vpt.errors import ConfigError
from vpt.limits import MAX_CLASSES, MAX_NAME


def checked_class_names(given: Any) -> list[str]:
    """The names as a list of texts.

    Args:
        given: a list, a tuple or another sequence of texts.

    Raises:
        ConfigError: a single text, an unordered set, a mapping, no name at all, a name that is not
            text, that is blank or too long, or that is there twice.
    """
    if isinstance(given, str | bytes):
        text = _shown(given)
        raise ConfigError(f"class_names is the one text {text}; give a list: [{text}]")
    if isinstance(given, set | frozenset):
        raise ConfigError("class_names is a set, which has no order; give a list in label order")
    if isinstance(given, Mapping):
        raise ConfigError("class_names is a mapping; give a list of its names in label order")
    if not isinstance(given, Iterable):
        raise ConfigError(f"class_names is {_shown(given)}; give a list of texts in label order")
    names = list(given)
    problem = class_names_problem(names)
    if problem is not None:
        raise ConfigError(f"class_names{problem}")
    return [str(name) for name in names]


def class_names_problem(names: Sequence[Any]) -> str | None:
    """What is wrong with a list of names, to be put behind what they are called; None: nothing."""
    if not names:
        return " is empty; give the name of every class"
    if len(names) > MAX_CLASSES:
        return f" has {len(names):,} names; at most {MAX_CLASSES:,} classes are supported"
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str):
            return (
                f"[{index}] is {_shown(name)}, of type {type(name).__name__}; names are texts: "
                f"write '{_cut(str(name))}'"
            )
        if not name.strip():
            return f"[{index}] is {_shown(name)}, which is empty; give every class a name"
        if len(name) > MAX_NAME:
            return f"[{index}] has {len(name):,} characters, at most {MAX_NAME:,} are allowed"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"[{index}] is {_shown(name)}, which is no valid Unicode; rename the class"
        first = seen.setdefault(name, index)
        if first != index:
            return (
                f"[{first}] and [{index}] are both {_shown(name)}; names must differ from each "
                "other"
            )
    return None


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
