"""Where images and their label files lie: the folder orders that tools write, and VOC's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from vpt.data.descriptor import AUTOMATIC_CUT, Cut, Descriptor, ImageFolders, SplitSources
from vpt.data.image_files import is_skipped
from vpt.data.images import SUFFIXES
from vpt.data.readers.label_pairs import NO_LABELS
from vpt.data.recognising import question, recognised, split_of_name
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError

_IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img", "image")
_LOOKED_AT = 200  # label files; enough to see what a folder holds


@dataclass(frozen=True)
class LabelLayout:
    """What tells one kind of label files from others.

    Attributes:
        format: of the descriptor.
        called: the format in words.
        suffix: of the files.
        labels: names of their folders, in lower case, the usual one first.
        fits: whether a file is one.
    """

    format: str
    called: str
    suffix: str
    labels: tuple[str, ...]
    fits: Callable[[Path], bool]


@dataclass(frozen=True)
class Found:
    """Where the images and the label files of a split, or of all, are; may be one folder."""

    images: Path
    labels: Path


def recognise_labels(folder: Path, layout: LabelLayout, **fields: Any) -> Descriptor | None:
    """A descriptor of a folder of images with label files; None: it holds none.

    images/train and labels/train, train/images and train/labels, images and labels without
    splits, or label files beside the images, in split folders or not.

    Raises:
        DataError: two folders could be one split; with a descriptor.
    """
    for find in (_kind_first, _split_first, _without_splits):
        found = list(find(folder, layout))
        if found:
            return _descriptor(folder, layout, found, fields)
    return None


def _descriptor(
    folder: Path,
    layout: LabelLayout,
    found: list[tuple[SplitName | None, Found]],
    fields: dict[str, Any],
) -> Descriptor:
    places: dict[SplitName, Found] = {}
    twice: SplitName | None = None
    for name, place in found:
        if (name or "train") in places:
            twice = name
        places.setdefault(name or "train", place)
    texts = [
        f"{name}: {_below(folder, place.images)} with {_below(folder, place.labels)}"
        if place.images != place.labels
        else f"{name}: {_below(folder, place.images)}, labels beside the images"
        for name, place in places.items()
    ]
    sources: dict[str, Any] = {n: _below(folder, place.images) for n, place in places.items()}
    seen = f"{layout.called} ({'; '.join(texts)})"
    if "val" not in places and "train" in places:
        sources["val"] = AUTOMATIC_CUT
        seen += f"; without validation images, {AUTOMATIC_CUT.fraction:.0%} of train are held out"
    labels = {name: _below(folder, place.labels) for name, place in places.items()}
    descriptor = recognised(
        folder,
        seen,
        format=layout.format,
        splits=SplitSources(**sources),
        labels=ImageFolders(**labels),
        **fields,
    )
    if twice is not None:
        names = [_below(folder, place.images) for name, place in found if name == twice]
        why = f"has more than one folder for {twice} ({', '.join(names)})"
        raise question(folder, why, [descriptor])
    return descriptor


Finds = Iterator[tuple[SplitName | None, Found]]


def _kind_first(folder: Path, layout: LabelLayout) -> Finds:
    """images/train and labels/train, or images/train and all labels in one folder."""
    for images in _folders(folder, _IMAGE_FOLDERS):
        for labels in _folders(folder, layout.labels):
            in_one = any(_is_label(path.name, layout) for path in labels.iterdir())
            pairs = [
                (split, Found(each, labels if in_one else labels / each.name))
                for each in _subfolders(images)
                if (split := split_of_name(each.name))
            ]
            if any(_label_files(found.labels, layout) for _, found in pairs):
                yield from sorted(pairs, key=lambda pair: SPLIT_NAMES.index(pair[0]))
                return


def _split_first(folder: Path, layout: LabelLayout) -> Finds:
    """train/images and train/labels, or both in train."""
    pairs = [
        (split, found)
        for each in _subfolders(folder)
        if (split := split_of_name(each.name)) and (found := _in_one(each, layout))
    ]
    yield from sorted(pairs, key=lambda pair: SPLIT_NAMES.index(pair[0]))


def _without_splits(folder: Path, layout: LabelLayout) -> Finds:
    if found := _in_one(folder, layout):
        yield None, found


def _in_one(folder: Path, layout: LabelLayout) -> Found | None:
    """Images and label files in a folder: in two folders of their kinds, or side by side."""
    for images in _folders(folder, _IMAGE_FOLDERS):
        for labels in _folders(folder, layout.labels):
            if _label_files(labels, layout):
                return Found(images, labels)
    for images in (folder, *_folders(folder, _IMAGE_FOLDERS)):
        files = _label_files(images, layout)
        stems = {
            PurePath(entry.name).stem
            for entry in os.scandir(images)
            if PurePath(entry.name).suffix.lower() in SUFFIXES
        }
        if any(path.stem in stems for path in files):
            return Found(images, images)
    return None


def _label_files(folder: Path, layout: LabelLayout) -> list[Path]:
    """Some of the label files in a folder and the folders in it; empty: it holds none."""
    if not folder.is_dir():
        return []
    found: list[Path] = []
    for path in _files_below(folder):
        if _is_label(path.name, layout):
            found.append(path)
        if len(found) == _LOOKED_AT:
            break
    return found if any(map(layout.fits, found[:5])) else []


def _is_label(name: str, layout: LabelLayout) -> bool:
    name = name.lower()
    return name.endswith(layout.suffix) and name not in NO_LABELS and not is_skipped(name)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not is_skipped(name))
        yield from (Path(parent, name) for name in sorted(names))


def _folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders in a folder that are called so, in any case, in the order of the names."""
    found = [path for path in _subfolders(folder) if path.name.lower() in names]
    return sorted(found, key=lambda path: (names.index(path.name.lower()), path.name))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_skipped(path.name))


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def recognise_official(folder: Path, **fields: Any) -> Descriptor | None:
    """A descriptor of PASCAL VOC as published: ImageSets/Main, JPEGImages and Annotations.

    Raises:
        DataError: the folder holds several years; with a descriptor for each.
    """
    years = [
        place
        for place in (folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*")))
        if (place / "ImageSets" / "Main").is_dir() and (place / "Annotations").is_dir()
    ]
    choices = [each for year in years if (each := _official(folder, year, fields)) is not None]
    if len(choices) > 1:
        raise question(folder, f"holds {len(choices)} years of PASCAL VOC", choices)
    return choices[0] if choices else None


def _official(folder: Path, year: Path, fields: dict[str, Any]) -> Descriptor | None:
    lists = year / "ImageSets" / "Main"
    sources: dict[str, Any] = {
        split: _below(folder, lists / f"{split}.txt")
        for split in SPLIT_NAMES
        if (lists / f"{split}.txt").is_file()
    }
    both = lists / "trainval.txt"
    if "train" not in sources and both.is_file():
        sources["train"] = _below(folder, both)
    if not sources:
        return None
    seen = f"boxes in PASCAL VOC's format ({', '.join(sources.values())})"
    if "val" not in sources and "train" in sources:
        sources["val"] = AUTOMATIC_CUT
        seen += f"; without validation images, {AUTOMATIC_CUT.fraction:.0%} of train are held out"
    return recognised(
        folder,
        seen,
        format="voc",
        splits=SplitSources(**sources),
        images=_below(folder, year / "JPEGImages"),
        labels=_below(folder, year / "Annotations"),
        **fields,
    )


def with_usual_places(
    descriptor: Descriptor, root: Path, recognise: Callable[[Path], Descriptor | None]
) -> Descriptor:
    """The descriptor with the splits that a reader recognises, where it names none itself.

    Raises:
        DataError: the reader recognises none.
    """
    named = descriptor.splits
    if any(isinstance(getattr(named, split), str) for split in SPLIT_NAMES):
        return descriptor
    usual = recognise(root)
    if usual is None:
        raise DataError(
            f"'{root}' has no images with label files of format {descriptor.format} in the usual "
            f"places; name them under 'splits' and 'labels' in the descriptor of "
            f"'{descriptor.name}'"
        )
    sources: dict[str, Any] = {}
    for split in SPLIT_NAMES:
        given, there = getattr(named, split), getattr(usual.splits, split)
        sources[split] = given if given is not None or isinstance(there, Cut) else there
    return descriptor.model_copy(
        update={
            "splits": SplitSources(**sources),
            "labels": descriptor.labels or usual.labels,
            "images": descriptor.images or usual.images,
        }
    )
