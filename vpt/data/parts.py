"""What all readers of `vpt.data.formats` share: their result, folders of images and lists."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.descriptor import Descriptor
from vpt.data.images import SUFFIXES
from vpt.data.splits import Sample, SplitName, Splits
from vpt.errors import DataError
from vpt.registry import nearest
from vpt.storage.whole_file import MAX_JSON, read_whole_text

# What would break a message of one line, or cannot be in the name of a file.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Parts:
    """What a reader found, before any cut.

    Attributes:
        class_names: in label order, each another one.
        samples: of each split.
        array: see `Split`.
        words: the names as the data write them, where class_names had to tell equal ones apart.
    """

    class_names: tuple[str, ...]
    samples: dict[SplitName, list[Sample]]
    array: NDArray[np.uint8] | None = None
    words: tuple[str, ...] = ()


def hint(descriptor: Descriptor) -> str:
    """'; to get them: ...', the end of a message about data that are not there."""
    return f"; to get them: {descriptor.how_to_get}" if descriptor.how_to_get else ""


def find_root(descriptor: Descriptor, root: Path | None) -> Path:
    """The folder of a data set: the one given, or the descriptor's own.

    Raises:
        DataError: none is named, or it does not exist.
    """
    root = root or descriptor.root
    if root is None:
        raise DataError(
            f"no folder given for '{descriptor.name}'; set data.root or the descriptor's 'root'"
        )
    if not root.is_dir():
        raise DataError(
            f"the data of '{descriptor.name}' are not in '{root}'{hint(descriptor)}"
            + ("" if descriptor.how_to_get else "; set data.root to the folder that holds them")
        )
    return root


def class_names(descriptor: Descriptor, source: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The descriptor's names of classes, or those found in `source`.

    Raises:
        DataError: there are not as many, or two are alike.
    """
    if descriptor.classes is not None and len(descriptor.classes) != len(names):
        raise DataError(
            f"{source} has {len(names)} classes, the descriptor {len(descriptor.classes)}"
        )
    chosen = tuple(descriptor.classes or names)
    check_unlike(source, chosen)
    return chosen


def check_unlike(source: Path, names: Sequence[str]) -> None:
    """Refuse a list in which two classes have one name."""
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"{source}: class '{twice[:80]}' is listed twice")


def check_counts(descriptor: Descriptor, images: Mapping[str, int]) -> None:
    """Refuse data that do not hold as many images as the descriptor says.

    Args:
        descriptor: with the counts that are expected.
        images: found in train, val and test.

    Raises:
        DataError: they differ.
    """
    found = {**images, "train_and_val": images["train"] + images["val"]}
    for name, count in found.items():
        expected = getattr(descriptor.counts, name)
        if expected is not None and count != expected:
            raise DataError(
                f"'{descriptor.name}' has {count} images in {name}, {expected} are expected; "
                f"are the data complete?{hint(descriptor)}"
            )


def shown(value: Any) -> str:
    """A value of a damaged file, short and on one line."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deep"
    except TypeError:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are left out."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def check_class_folders(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that has not exactly these folders."""
    found, wanted = set(class_folders(folder)), set(names)
    if missing := sorted(wanted - found):
        raise DataError(f"'{folder}' has no folder for class '{missing[0]}'")
    if unknown := sorted(found - wanted):
        raise DataError(
            f"'{folder}' has a folder '{unknown[0]}' that is no class of this data set"
            f"{nearest(unknown[0], wanted)}"
        )


def images_below(folder: Path) -> list[Path]:
    """All images of a class, sorted; hidden files (such as '._a.jpg') are left out."""
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise DataError(f"class folder '{folder}' has no images; add some or remove the folder")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def text_rows(
    path: Path, *, fields: int, what: str, last: bool = False
) -> list[tuple[str, list[str]]]:
    """('file:line', fields) of each line that is not blank; the first or last field is a word."""
    try:
        lines = read_whole_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        split = line.strip().rsplit if last else line.strip().split
        values = split(maxsplit=fields - 1)
        if len(values) != fields:
            raise DataError(f"{path}:{number}: '{line.strip()[:80]}' is not '{what}'")
        rows.append((f"{path}:{number}", values))
    return rows


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it cannot be read, or is no JSON in UTF-8.
    """
    try:
        return json.loads(read_whole_text(path, most=MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON in UTF-8 ({error})") from error


def check_files(samples: Iterable[Sample]) -> None:
    """Refuse a list with images that do not exist."""
    listed = [sample.source for sample in samples]
    missing = [path for path in listed if isinstance(path, Path) and not _is_file(path)]
    if missing:
        raise DataError(
            f"'{missing[0]}' is listed but does not exist "
            f"({len(missing)} of {len(listed)} listed images are missing)"
        )


def check_classes(descriptor: Descriptor, splits: Splits) -> None:
    """Every class has an image to learn from, unless the descriptor allows that one has none."""
    if splits.train is None or descriptor.missing_classes == "allow":
        return
    for name, count in zip(splits.class_names, splits.train.class_counts(), strict=True):
        if count == 0:
            raise DataError(f"class '{name}' has no image in 'train'; add some or remove the class")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False
