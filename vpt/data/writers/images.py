"""The images of a data set that is written: what they are called there, and how they get there."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from vpt.data.images import SUFFIXES
from vpt.data.readers.parquet import packed_bytes
from vpt.data.splits import PackedImage, Sample, Split
from vpt.errors import DataError

Images = Literal["copy", "link", "none"]
"""Copies of the files, symbolic links to them, or annotations alone that name the files."""

_UNUSUAL = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_LONGEST = 200  # bytes; file systems allow 255
_SUFFIX_OF = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic"}


def new_names(keys: Sequence[str], suffix: str = "") -> list[str]:
    """A file name for each image: its own, or where several share it one with its folders.

    Folders that all images are in are left out. No two names have one stem, whatever the case:
    label files are named after it, and some disks know no case.

    Args:
        keys: names of images in their data set, each once.
        suffix: for names that end in none of an image.
    """
    if not keys:
        return []
    paths = [PurePosixPath(key.lstrip("/")) for key in keys]
    counts = Counter(path.stem.casefold() for path in paths)
    common = len(PurePosixPath(os.path.commonpath([path.parent for path in paths])).parts)
    taken: set[str] = set()
    names = []
    for path in paths:
        name = path.name if counts[path.stem.casefold()] == 1 else "_".join(path.parts[common:])
        name = _usual(name if len(name.encode()) <= _LONGEST else path.name, suffix)
        names.append(_untaken(name, taken))
        taken.add(PurePosixPath(names[-1]).stem.casefold())
    return names


def _usual(name: str, suffix: str) -> str:
    """A name that every disk takes, with the suffix of an image."""
    name = _UNUSUAL.sub("_", name)
    name = f"_{name}" if name.startswith(".") else name
    return name if PurePosixPath(name).suffix.lower() in SUFFIXES else name + suffix


def _untaken(name: str, taken: set[str]) -> str:
    path, number = PurePosixPath(name), 1
    stem = path.stem
    while stem.casefold() in taken:
        number += 1
        stem = f"{path.stem}_{number}"
    return stem + path.suffix


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each class: its own, where that can be one; no two alike."""
    taken: set[str] = set()
    folders = []
    for name in names:
        usual = _UNUSUAL.sub("_", name).strip() or "_"
        usual = f"_{usual}" if usual.startswith(".") else usual
        number, folder = 1, usual
        while folder.casefold() in taken:
            number += 1
            folder = f"{usual}_{number}"
        taken.add(folder.casefold())
        folders.append(folder)
    return folders


def place_file(source: Path, target: Path, images: Images) -> None:
    """Copy a file, or link to it.

    Raises:
        DataError: it cannot be done.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if images == "link":
            target.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise _cannot_write(source, error) from error


def place_sample(split: Split, sample: Sample, target: Path, images: Images) -> None:
    """The image of a sample: its file, the bytes in its parquet file, or its pixels as a PNG.

    Args:
        split: of the sample.
        sample: whose image it is.
        target: where it goes; folders are made.
        images: of a file, whether to copy it or to link to it.

    Raises:
        DataError: it cannot be done.
    """
    if isinstance(sample.source, Path):
        place_file(sample.source, target, images)
        return
    if isinstance(sample.source, PackedImage):
        data = packed_bytes(sample.source)
    else:
        assert split.array is not None  # what samples without a file count in
        stream = io.BytesIO()
        Image.fromarray(split.array[sample.source]).save(stream, "PNG")
        data = stream.getvalue()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise _cannot_write(target, error) from error


def suffix_of(split: Split, sample: Sample) -> str:
    """The suffix for an image that has no file."""
    if isinstance(sample.source, PackedImage):
        data = packed_bytes(sample.source)
        try:
            with Image.open(io.BytesIO(data)) as image:
                return _SUFFIX_OF.get(str(image.format), f".{image.format}".lower())
        except OSError as error:
            raise DataError(f"{sample.source}: not an image") from error
    return ".png"


def _cannot_write(path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"no space left to write '{path.name}'; free some, or use --link")
    return DataError(f"'{path}' cannot be copied: {error.strerror or error}")
