"""The rules for class names, which are the same for a classifier and for a learned context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vpt.errors import ConfigError
from vpt.text.tokenizer import quote
from vpt.text.tower import TextTower


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as they were given.

    Raises:
        ConfigError: no name, an empty one, or two that differ in nothing but spaces.
    """
    if isinstance(names, str) or not names:
        raise ConfigError(f"class names: a list of names is needed, not {quote(str(names))}")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"class {index} has no name: {quote(str(name))} is empty")
    check_distinct(names, ([name] for name in names))
    return tuple(names)


def check_known(tower: TextTower, names: Sequence[str]) -> None:
    """Refuse names that the tower cannot tell from each other, or has learned no word of.

    Raises:
        ConfigError: naming them.
    """
    seen: dict[tuple[int, ...], str] = {}
    for name in names:
        ids = tower.tokenizer.words(name)
        known = tuple(ids[tower.knows(ids).cpu()].tolist())
        called = tower.name or "the text tower"
        if len(ids) and not known:
            raise ConfigError(f"class {quote(name)}: {called} has learned no word of it")
        if known in seen:
            raise ConfigError(
                f"classes {quote(seen[known])} and {quote(name)} read the same to {called}"
                + ("" if len(known) == len(ids) else ", which has not learned every word of them")
            )
        seen[known] = name


def check_distinct(names: Sequence[str], texts: Iterable[Sequence[str]]) -> None:
    """Refuse classes whose texts are the same but for spaces: nothing could tell them apart.

    Raises:
        ConfigError: it names two such classes.
    """
    seen: dict[tuple[str, ...], int] = {}
    for index, own in enumerate(texts):
        first = seen.setdefault(tuple(" ".join(text.split()) for text in own), index)
        if first != index:
            raise ConfigError(
                f"classes {first} {quote(names[first])} and {index} {quote(names[index])} have the "
                "same text; rename one"
            )
