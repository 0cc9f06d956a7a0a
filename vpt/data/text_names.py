"""What sentences call the classes of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpt.data.descriptor import Descriptor
from vpt.errors import DataError
from vpt.registry import nearest


def text_names(
    descriptor: Descriptor, class_names: Sequence[str], words: Sequence[str] = ()
) -> tuple[str, ...]:
    """A name in words for each class: the descriptor's, or the class with spaces for underscores.

    Args:
        descriptor: of the data set.
        class_names: in label order, each another one.
        words: the same as the data write them; class_names if empty.

    Raises:
        DataError: the descriptor's names do not fit the classes, are empty or alike.
    """
    given = descriptor.text.class_names
    plain = tuple(name.replace("_", " ") for name in words or class_names)
    if given is None:
        return plain
    if isinstance(given, dict):
        _check_keys(descriptor, given, class_names)
        names = tuple(given.get(key, name) for key, name in zip(class_names, plain, strict=True))
    else:
        names = tuple(given)
        if len(names) != len(class_names):
            raise DataError(
                f"text.class_names of '{descriptor.name}' has {len(names)} names, the data have "
                f"{len(class_names)} classes; give one for each, in label order"
            )
    _check_names(descriptor, names, class_names)
    return names


def _check_keys(
    descriptor: Descriptor, given: Mapping[str, str], class_names: Sequence[str]
) -> None:
    for name, text in given.items():
        # Some released lists name the classes by their texts already.
        if name not in class_names and text not in class_names:
            raise DataError(
                f"text.class_names of '{descriptor.name}': '{name}' is no class"
                f"{nearest(name, class_names)}"
            )


def _check_names(descriptor: Descriptor, names: Sequence[str], class_names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name, text in zip(class_names, names, strict=True):
        key = " ".join(text.split())
        if not key:
            raise DataError(f"text.class_names of '{descriptor.name}': class '{name}' has no name")
        if key in seen:
            raise DataError(
                f"text.class_names of '{descriptor.name}': classes '{seen[key]}' and '{name}' are "
                f"both called '{key}'; rename one"
            )
        seen[key] = name
