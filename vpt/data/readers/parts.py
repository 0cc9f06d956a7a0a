"""What all readers of `vpt.data.readers` share: their result, folders of images and lists."""

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

from vpt.data.descriptor import Cut, Descriptor
from vpt.data.image_files import (
    check_names,
    find_files,
    is_skipped,
    is_utf8,
    left_out_line,
    printable,
)
from vpt.data.near_paths import explain_missing
from vpt.data.readers.missing_files import missing_files
from vpt.data.readers.text_files import read_text
from vpt.data.samples import Samples
from vpt.data.splits import SPLIT_NAMES, USUAL_NAMES, Sample, SplitName, Splits
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
        notes: what to say of how the data were read, a sentence each.
    """

    class_names: tuple[str, ...]
    samples: Mapping[SplitName, Sequence[Sample]]
    array: NDArray[np.uint8] | None = None
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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


def split_paths(descriptor: Descriptor, root: Path, suffix: str) -> dict[SplitName, Path]:
    """Folder or file of each split: as named, or the usual one where that exists.

    Args:
        descriptor: of the data set.
        root: its folder.
        suffix: of the files, e.g. '.csv'; '' for folders.

    Raises:
        DataError: a named path does not exist, two usual ones do, or one where a cut is asked for.
    """
    usual = usual_paths(root, suffix)
    paths: dict[SplitName, Path] = {}
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if isinstance(source, Cut):
            if source.by == "content" and any(map(_holds_something, usual[split])):
                raise DataError(
                    f"'{descriptor.name}' has a {split} split of its own, '{usual[split][0]}'; "
                    f"leave out data.{split}_fraction, or the cut in the descriptor"
                )
            continue
        if source is None:
            if len(found := usual[split]) > 1:
                named = " and ".join(f"'{path.name}'" for path in found)
                raise DataError(
                    f"'{root}' has {named}, and either may be meant by {split}; name one under "
                    f"'splits' of a descriptor, e.g. splits: {{{split}: {found[0].name}}}"
                )
            if found:
                paths[split] = found[0]
            continue
        path = root / source
        if not (path.is_file() if suffix else path.is_dir()):
            raise DataError(
                f"splits.{split} of '{descriptor.name}': no such path '{path}'{hint(descriptor)}"
            )
        paths[split] = path
    return paths


def _holds_something(path: Path) -> bool:
    return path.is_file() or any(not is_skipped(entry.name) for entry in path.iterdir())


def usual_paths(root: Path, suffix: str = "") -> dict[SplitName, list[Path]]:
    """The folders, or files with a suffix, in a folder that have a usual name of each split."""
    found: dict[SplitName, list[Path]] = {split: [] for split in SPLIT_NAMES}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        stem = path.name.casefold().removesuffix(suffix)
        if stem == path.name.casefold() and suffix:
            continue
        for split, names in USUAL_NAMES.items():
            if stem in names and (path.is_file() if suffix else path.is_dir()):
                found[split].append(path)
    return found


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden and system ones are left out.

    Raises:
        DataError: it cannot be read, or a name is not UTF-8.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error.strerror or error}") from error
    names = [name for name in names if not is_skipped(name)]
    wrong = next((name for name in names if not is_utf8(name)), None)
    if wrong is not None:
        raise DataError(
            f"the class folder '{printable(str(folder / wrong))}' has a name that is not UTF-8; "
            "rename it (e.g. with convmv), or unpack the archive again in its own encoding"
        )
    return names


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


def images_below(folder: Path) -> tuple[Path, ...]:
    """All images of a class, sorted; see `find_files`.

    Raises:
        DataError: there are none.
    """
    found = find_files(folder)
    if not found.images:
        others = left_out_line(found.left_out)
        raise DataError(
            f"class folder '{folder}' has no images" + (f" ({others})" if others else "")
        )
    check_names(found.images, folder)
    return found.images


def text_rows(
    path: Path, *, fields: int, what: str, last: bool = False
) -> list[tuple[str, list[str]]]:
    """('file:line', fields) of each line that is not blank.

    Args:
        path: a text file.
        fields: how many there are in a line, with blanks between them.
        what: a line of the file looks like, for errors.
        last: the first field may hold blanks; else the last one.

    Raises:
        DataError: a line has fewer fields, or the file is no text.
    """
    rows = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path)), start=1):
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


def check_files(samples: Iterable[Sample], root: Path | None = None) -> None:
    """Refuse a list with images that do not exist.

    Args:
        samples: of the list.
        root: the folder that their keys are relative to, where the files are looked for that were
            probably meant.
    """
    sources = Samples.of(samples).sources
    missing = missing_files(sources)
    if not missing:
        return
    first, keys = sources.keys[missing[0]], [sources.keys[place] for place in missing]
    reason = explain_missing(keys, root).get(first, "") if root else ""
    raise DataError(
        f"'{sources.source(missing[0])}' is listed but does not exist ({len(missing)} of "
        f"{len(sources)} listed images are missing)"
        + reason.removeprefix(f"'{first}' does not exist")
    )


def check_classes(descriptor: Descriptor, splits: Splits) -> None:
    """Every class has an image to learn from, unless the descriptor allows that one has none."""
    if splits.train is None or descriptor.missing_classes == "allow":
        return
    for name, count in zip(splits.class_names, splits.train.class_counts(), strict=True):
        if count == 0:
            others = [other for other in splits.class_names if other != name]
            raise DataError(
                f"class '{name}' has no image in 'train'{nearest(name, others)}; add some or "
                "remove the class"
            )
