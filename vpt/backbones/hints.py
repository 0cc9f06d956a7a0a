"""What may have been meant by a backbone's name or a weight file, where it is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

_BY_SIZE = {
    "timm/vit_tiny_patch16_224": 6e6,
    "timm/vit_small_patch16_224": 22e6,
    "timm/vit_base_patch16_224": 86e6,
    "timm/vit_large_patch16_224": 304e6,
}
"""Well-known vision transformers and their numbers of parameters."""


def transformer_of_size(parameters: int) -> str:
    """The name of the well-known vision transformer that is nearest in size to another network."""
    return min(_BY_SIZE, key=lambda name: abs(_BY_SIZE[name] - parameters))


def similar_names(name: str, known: Sequence[str]) -> str:
    """What follows 'unknown backbone ...': names that may have been meant, or how to find them.

    A name without its family, or with another library's, leads to the same name where it is known.
    """
    by_plain: dict[str, str] = {}
    for each in known:
        by_plain.setdefault(_plain(each), each)
        by_plain.setdefault(_plain(each.partition(":")[0]), each)
    plain = _plain(name)
    near = [plain] if plain in by_plain else difflib.get_close_matches(plain, by_plain, cutoff=0.75)
    if near:
        return f", did you mean {' or '.join(repr(by_plain[each]) for each in near)}?"
    for word in sorted(re.findall(r"[a-z]{3,}\d*", name.lower()), key=len, reverse=True):
        if any(word in each for each in by_plain):
            return f"; vpt list backbones '*{word}*' shows names with '{word}'"
    return (
        "; names are timm/<model>, open_clip/<architecture>:<tag> or bundled/<model>, of vision "
        "transformers, e.g. timm/vit_base_patch16_224; vpt list backbones shows all"
    )


def _plain(name: str) -> str:
    """A name without its family, and without what libraries write in different ways."""
    return name.rpartition("/")[2].lower().replace("-", "_")


def key_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """In which names or shapes the tensors of a weight file differ from a model's, in one line."""
    missing = [name for name in expected if name not in found]
    if missing:
        there = len(expected) - len(missing)
        others = [name for name in found if name not in expected]
        rest = f", but others such as {_examples(others)}" if others else ""
        return (
            f"of the {len(expected)} tensors expected it has {there}; missing are such as "
            f"{_examples(missing)}{rest}"
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return (
                f"its tensor '{name}' has the shape {tuple(found[name].shape)}, expected is "
                f"{tuple(tensor.shape)}"
            )
    return f"it has {len(found) - len(expected)} tensors more than the {len(expected)} expected"


def _examples(names: Iterable[str]) -> str:
    """The first and the last of some names."""
    listed = list(names)
    return " and ".join(f"'{name}'" for name in dict.fromkeys((listed[0], listed[-1])))
