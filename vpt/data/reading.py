"""From a descriptor to splits: the reader of its format, then cuts and checks of any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpt.data.descriptor import Cut, Descriptor
from vpt.data.readers.arrays import read_cifar100, read_svhn
from vpt.data.readers.coop import read_imagenet, read_split_zhou
from vpt.data.readers.digits import read_sklearn_digits
from vpt.data.readers.fine_grained import (
    read_cub,
    read_fgvc_aircraft,
    read_flowers102,
    read_nabirds,
    read_oxford_pets,
    read_stanford_cars,
    read_stanford_dogs,
)
from vpt.data.readers.folder import read_folder
from vpt.data.readers.lists import read_image_list, read_path_list
from vpt.data.readers.parquet import read_parquet
from vpt.data.readers.parts import Parts, check_classes, check_counts, find_root, hint
from vpt.data.readers.tables import read_csv
from vpt.data.sampling import holdout
from vpt.data.splits import SPLIT_NAMES, Split, Splits
from vpt.data.text_names import text_names
from vpt.errors import DataError


def read_splits(descriptor: Descriptor, root: Path | None = None) -> Splits:
    """The splits of a data set: files and labels, no image is opened.

    The order of images is sorted or that of the lists, never that of the file system.

    Args:
        descriptor: the data set.
        root: its folder; the descriptor's own if None.

    Raises:
        DataError: the folder is missing, or its content contradicts itself or the descriptor.
    """
    if descriptor.holds_boxes:
        raise DataError(
            f"'{descriptor.name}' holds boxes (format {descriptor.format}), not a class for each "
            "image; train with a config of task detection, e.g. configs/vpt_deep_custom_coco.yaml"
        )
    parts = _READERS[descriptor.format](descriptor, _find_root(descriptor, root))
    if not any(parts.samples.values()):
        raise DataError(f"no images in '{descriptor.name}'{hint(descriptor)}")
    if not parts.class_names:
        raise DataError(f"no image of '{descriptor.name}' has a label")
    _check_duplicates(parts)
    splits = _cut(descriptor, parts)
    check_classes(descriptor, splits)
    check_counts(descriptor, {name: len(splits.get(name) or ()) for name in SPLIT_NAMES})
    return replace(splits, text_names=text_names(descriptor, parts.class_names, parts.words))


def _find_root(descriptor: Descriptor, root: Path | None) -> Path:
    return Path() if descriptor.format == "sklearn_digits" else find_root(descriptor, root)


_READERS: dict[str, Callable[[Descriptor, Path], Parts]] = {
    "folder": read_folder,
    "csv": read_csv,
    "image_list": read_image_list,
    "parquet": read_parquet,
    "path_list": read_path_list,
    "cub": read_cub,
    "nabirds": read_nabirds,
    "flowers102": read_flowers102,
    "stanford_dogs": read_stanford_dogs,
    "stanford_cars": read_stanford_cars,
    "fgvc_aircraft": read_fgvc_aircraft,
    "oxford_pets": read_oxford_pets,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "sklearn_digits": read_sklearn_digits,
    "split_zhou": read_split_zhou,
    "imagenet": read_imagenet,
}


def _cut(descriptor: Descriptor, parts: Parts) -> Splits:
    """Splits from parts: test is cut out of train where the descriptor says so, then val."""
    found: dict[str, Split | None] = dict.fromkeys(SPLIT_NAMES)
    for name, samples in parts.samples.items():
        if not samples:
            raise DataError(f"no images in split '{name}' of '{descriptor.name}'")
        found[name] = Split(name, tuple(samples), parts.class_names, parts.array)
    for name in ("test", "val"):
        cut: Any = getattr(descriptor.splits, name)
        if isinstance(cut, Cut):
            train = found["train"]
            if train is None:
                raise DataError(
                    f"splits.{name} is to be cut out of train, but '{descriptor.name}' has no "
                    "train split"
                )
            if found[name] is not None:
                raise DataError(
                    f"'{descriptor.name}' has a {name} split of its own; remove splits.{name}"
                )
            found["train"], held = holdout(train, cut.fraction, cut.seed)
            found[name] = held.with_samples(held.samples, name)
    return Splits(found["train"], found["val"], found["test"], parts.class_names)


def _check_duplicates(parts: Parts) -> None:
    seen: dict[str, str] = {}
    for split, samples in parts.samples.items():
        for sample in samples:
            if sample.key in seen:
                before = seen[sample.key]
                place = f"twice in '{split}'" if before == split else f"in '{before}' and '{split}'"
                raise DataError(f"image '{sample.key}' is listed {place}; keep one of them")
            seen[sample.key] = split
