"""From a descriptor to splits: the reader of its format, then cuts and checks of any format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from vpt.data.cuts import Held, cut_line, cut_out, cuts_of
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
from vpt.data.readers.hf_images import read_hf_images
from vpt.data.readers.lists import read_image_list, read_path_list
from vpt.data.readers.parquet import read_parquet
from vpt.data.readers.parts import Parts, check_classes, check_counts, find_root, hint
from vpt.data.readers.tables import read_csv
from vpt.data.recognising import with_written
from vpt.data.samples import Samples
from vpt.data.sampling import holdout
from vpt.data.splits import SPLIT_NAMES, ContentCut, Split, SplitName, Splits
from vpt.data.text_names import text_names
from vpt.data.texts import Texts
from vpt.errors import DataError


def read_splits(
    descriptor: Descriptor, root: Path | None = None, *, cut: ContentCut | None = None
) -> Splits:
    """The splits of a data set: files and labels, no image is opened.

    Where val or test are cut out of train by content, the bytes of those images are read. The order
    of images is sorted or that of the lists, never that of the file system.

    Args:
        descriptor: the data set.
        root: its folder; the descriptor's own if None.
        cut: of an earlier reading, to be made again in place of any other cut by content.

    Raises:
        DataError: the folder is missing, or its content contradicts itself or the descriptor.
    """
    if descriptor.holds_boxes:
        raise DataError(
            f"'{descriptor.name}' holds boxes (format {descriptor.format}), not a class for each "
            "image; train with a config of task detection, e.g. configs/vpt_deep_custom_coco.yaml"
        )
    try:
        parts = _READERS[descriptor.format](descriptor, _find_root(descriptor, root))
    except DataError as error:
        raise with_written(error, descriptor) from error
    if not any(parts.samples.values()):
        raise DataError(f"no images in '{descriptor.name}'{hint(descriptor)}")
    if not parts.class_names:
        raise DataError(f"no image of '{descriptor.name}' has a label")
    _check_duplicates(parts)
    splits = _cut(descriptor, parts, cut)
    check_classes(descriptor, splits)
    _check_not_one(descriptor, splits)
    check_counts(descriptor, {name: len(splits.get(name) or ()) for name in SPLIT_NAMES})
    return replace(
        splits,
        text_names=text_names(descriptor, parts.class_names, parts.words),
        notes=(*parts.notes, *splits.notes, *_absent_classes(splits), *_twin_classes(splits)),
    )


def _check_not_one(descriptor: Descriptor, splits: Splits) -> None:
    """One class per image, and one class in all: nothing could be learned."""
    if splits.train is None or splits.multi_label or len(splits.class_names) > 1:
        return
    raise DataError(
        f"'{descriptor.name}' has one class, '{splits.class_names[0]}': a classifier needs two to "
        "tell apart; add images of something else as a second class"
    )


def _absent_classes(splits: Splits) -> list[str]:
    """A line for each of val and test that has no image of some classes."""
    lines = []
    for split in (splits.val, splits.test):
        counts = [] if split is None else split.class_counts()
        absent = [splits.class_names[label] for label, count in enumerate(counts) if not count]
        if split is not None and absent:
            listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            lines.append(
                f"'{split.name}' has no image of {len(absent)} of {len(splits.class_names)} "
                f"classes ({listed}); its metrics leave them out"
            )
    return lines


def _twin_classes(splits: Splits) -> list[str]:
    """A line for classes whose names differ in upper and lower case alone."""
    twins: dict[str, list[str]] = {}
    for name in splits.class_names:
        twins.setdefault(name.casefold(), []).append(name)
    groups = [" and ".join(f"'{name}'" for name in names) for names in twins.values() if names[1:]]
    if not groups:
        return []
    more = f" (and {len(groups) - 1} more)" if groups[1:] else ""
    return [
        f"warning: classes {groups[0]}{more} differ in upper and lower case alone; are they one?"
    ]


def _find_root(descriptor: Descriptor, root: Path | None) -> Path:
    return Path() if descriptor.format == "sklearn_digits" else find_root(descriptor, root)


_READERS: dict[str, Callable[[Descriptor, Path], Parts]] = {
    "folder": read_folder,
    "csv": read_csv,
    "hf_images": read_hf_images,
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


def _cut(descriptor: Descriptor, parts: Parts, again: ContentCut | None) -> Splits:
    """Splits from parts: what the descriptor, or an earlier reading, says is cut out of train."""
    found: dict[SplitName, Split] = {}
    for name, samples in parts.samples.items():
        if not samples:
            raise DataError(
                f"no images in split '{name}' of '{descriptor.name}'; add some, or remove the split"
            )
        found[name] = Split(name, samples, parts.class_names, parts.array)
    cuts = cuts_of(descriptor, found, again)
    found, record = cut_out(descriptor.name, found, cuts, by_name=holdout)
    return Splits(
        found.get("train"),
        found.get("val"),
        found.get("test"),
        parts.class_names,
        notes=() if record is None else (cut_line(record), *_without_test(cuts, record)),
        cut=record,
    )


def _without_test(cuts: Mapping[Held, Cut], record: ContentCut) -> list[str]:
    return ["too few images for a test split as well"] * ("test" in cuts and record.test is None)


def _check_duplicates(parts: Parts) -> None:
    ends = np.cumsum([len(samples) for samples in parts.samples.values()])
    keys = Texts.joined([Samples.of(samples).keys for samples in parts.samples.values()])
    if (found := keys.first_repeated()) is None:
        return
    names = list(parts.samples)
    before, split = (names[int(np.searchsorted(ends, place, side="right"))] for place in found)
    place = f"twice in '{split}'" if before == split else f"in '{before}' and '{split}'"
    raise DataError(f"image '{keys[found[1]]}' is listed {place}; keep one of them")
