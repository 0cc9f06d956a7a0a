"""Selections: the images of a few-shot training by name, in a file that any machine can read.

A run writes one, its split.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from vpt.config import Schema, validate
from vpt.data.readers.parts import read_json
from vpt.data.samples import Samples
from vpt.data.splits import Split, Splits
from vpt.errors import DataError

_CHOSEN = ("train", "val")


class _Selection(Schema):
    """The content of a selection file; what a run's split.json says beyond it has no effect."""

    class_names: list[str] | None = None
    test: list[str] | None = None
    train: list[str] | None = Field(default=None, min_length=1)
    val: list[str] | None = Field(default=None, min_length=1)


def apply_selection(splits: Splits, path: Path) -> Splits:
    """The splits with the images of train and val that a JSON file names, in its order.

    Each name is looked up in train and val together, which a cut may have parted otherwise. A
    split that the file does not name keeps its images but those that the other one takes. Test
    stays as it is.

    Args:
        splits: with all images.
        path: of {"train": [key, ...], "val": [key, ...]}, such as a run's split.json.

    Raises:
        DataError: the file cannot be read, or names an image that there is not, or one twice.
        ConfigError: its content is something else.
    """
    selection = _read(path)
    chosen = {name: keys for name in _CHOSEN if (keys := getattr(selection, name)) is not None}
    _check_once(path, chosen)
    present = [split.table for split in (splits.train, splits.val) if split is not None]
    every = Samples.joined(present)
    known = {key: place for place, key in enumerate(every.keys)}
    taken = {key for keys in chosen.values() for key in keys}
    train, val = (
        _selected(splits, name, chosen.get(name), every, known, taken, path) for name in _CHOSEN
    )
    return replace(splits, train=train, val=val)


def _read(path: Path) -> _Selection:
    content = read_json(path)
    if not isinstance(content, dict) or not set(_CHOSEN) & set(content):
        raise DataError(f"{path}: no object with lists of images under 'train' or 'val'")
    return validate(_Selection, content, source=str(path))


def _check_once(path: Path, chosen: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for name, keys in chosen.items():
        for key in keys:
            if key in seen:
                before = seen[key]
                place = f"twice in '{name}'" if before == name else f"in '{before}' and '{name}'"
                raise DataError(f"{path}: image {key!r} is listed {place}; keep one of them")
            seen[key] = name


def _selected(
    splits: Splits,
    name: str,
    keys: Sequence[str] | None,
    every: Samples,
    known: Mapping[str, int],
    taken: set[str],
    path: Path,
) -> Split | None:
    split: Split | None = getattr(splits, name)
    if keys is None:
        if split is None:
            return None
        rest = [place for place, key in enumerate(split.table.keys) if key not in taken]
        if not rest:
            raise DataError(f"{path}: it leaves no image for '{name}'; list some there as well")
        return split.take(np.array(rest))
    if unknown := [key for key in keys if key not in known]:
        raise DataError(
            f"{path}: {len(unknown)} of the {len(keys)} images for '{name}' are not among the "
            f"images for training and validation of this data set, the first is {unknown[0]!r}"
        )
    like = split or splits.train or splits.val
    assert like is not None
    return like.with_samples(every.take(np.array([known[key] for key in keys])), name)
