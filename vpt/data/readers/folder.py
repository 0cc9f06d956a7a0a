"""Folders of images: one folder for each split, and in it one for each class."""

from __future__ import annotations

from pathlib import Path

from vpt.data.descriptor import Descriptor
from vpt.data.readers.parts import (
    Parts,
    check_class_folders,
    class_folders,
    images_below,
    split_paths,
)
from vpt.data.recognising import recognised
from vpt.data.splits import SPLIT_NAMES, Sample
from vpt.errors import DataError

_IMAGES = frozenset({"images", "imgs", "img", "jpegimages"})
_NO_CLASSES = _IMAGES | {"annotations", "data", "labels"}
"""Folders, in lower case, that hold all images of a split or what is annotated in them."""


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder that holds a folder for a split; None: it has none of them."""
    splits = [split for split in SPLIT_NAMES if (folder / split).is_dir()]
    names = {name.lower() for split in splits for name in class_folders(folder / split)}
    if names <= _NO_CLASSES or names & _IMAGES:
        return None
    return recognised(folder, f"folders of images by class: {', '.join(splits)}", format="folder")


def read_folder(descriptor: Descriptor, root: Path) -> Parts:
    """Images by split and class; the classes are the descriptor's, or the first split's folders."""
    folders = split_paths(descriptor, root, suffix="")
    if not folders:
        raise DataError(
            f"'{root}' has none of the folders train, val, test; put one folder of images per "
            "class into each, or name the folders in a descriptor"
        )
    names = descriptor.classes or class_folders(next(iter(folders.values())))
    samples = {}
    for split, folder in folders.items():
        check_class_folders(folder, names)
        samples[split] = [
            Sample(path, label, path.relative_to(root).as_posix())
            for label, name in enumerate(names)
            for path in images_below(folder / name)
        ]
    return Parts(tuple(names), samples)
