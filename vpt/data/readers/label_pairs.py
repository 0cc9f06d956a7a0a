"""Which label file is whose: the images of a split, each with the file of its objects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from vpt.data.boxes.detection import Finding
from vpt.data.descriptor import Cut, Descriptor, ImageFolders
from vpt.data.image_files import find_files
from vpt.data.images import SUFFIXES
from vpt.data.readers.parts import hint
from vpt.data.readers.text_files import read_text
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError

NO_LABELS = frozenset({"classes.txt", "labels.txt", "names.txt", "notes.txt", "train.txt"}) | {
    f"readme{end}.txt" for end in ("", ".dataset", ".roboflow")
}
"""Text files that lie among labels and are none, in lower case."""


@dataclass(frozen=True)
class Place:
    """Where the images and label files of a split are.

    Attributes:
        source: a folder of images, or a text file that lists them.
        images: the folder in which listed names are.
        labels: the folder of the label files; None: 'labels' in the place of the last 'images' of
            an image's path, or beside the image.
    """

    source: Path
    images: Path
    labels: Path | None = None


@dataclass(frozen=True)
class Pair:
    """An image of a split, and its label file; None: it has none."""

    image: Path
    label: Path | None


@dataclass
class Pairs:
    """The images of a split.

    Attributes:
        source: what names them.
        pairs: in a fixed order, each image once.
        folders: of label files, where they were looked for.
        twice: how many images were listed again.
    """

    source: Path
    pairs: list[Pair]
    folders: frozenset[Path]
    twice: int = 0


def named_places(descriptor: Descriptor, root: Path) -> dict[SplitName, Place]:
    """The folder or list of each split that a descriptor names.

    Raises:
        DataError: one is not there.
    """
    places: dict[SplitName, Place] = {}
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if source is None or isinstance(source, Cut):
            continue
        path = root / source
        if not path.exists():
            raise DataError(
                f"splits.{split} of '{descriptor.name}': no such path '{path}'{hint(descriptor)}"
            )
        labels = descriptor.labels
        below = getattr(labels, split) if isinstance(labels, ImageFolders) else labels
        if below is not None and not (root / below).is_dir():
            raise DataError(
                f"labels of '{descriptor.name}': no folder '{root / below}'{hint(descriptor)}"
            )
        images = root / str(descriptor.images or "")
        places[split] = Place(path, images, None if below is None else root / below)
    return places


def find_pairs(sources: Sequence[Place], suffix: str) -> Pairs:
    """The images of a split and their label files.

    Args:
        sources: one, or several that are read as one.
        suffix: of label files, '.txt' or '.xml'.

    Raises:
        DataError: a list cannot be read, or a folder holds no image.
    """
    found: dict[Path, Path | None] = {}
    folders: set[Path] = set()
    twice = 0
    _look_anew()
    for place in sources:
        listed = place.source.is_file()
        images = listed_images(place) if listed else find_files(place.source).images
        if not images:
            raise DataError(f"no images in '{place.source}'")
        for image in images:
            if image in found:
                twice += 1
                continue
            found[image] = None
            for candidate in _label_paths(image, place, suffix):
                folders.add(candidate.parent)
                if name := _by_lower_suffix(candidate.parent).get(candidate.name):
                    found[image] = candidate.with_name(name)
                    break
    pairs = [Pair(image, label) for image, label in found.items()]
    return Pairs(sources[0].source, pairs, frozenset(folders), twice)


def listed_images(place: Place) -> list[Path]:
    """The images that a text file lists, one a line: as paths, or as names without a suffix."""
    lines = read_text(place.source).splitlines()
    return [_listed_image(line.strip().replace("\\", "/"), place) for line in lines if line.strip()]


def _listed_image(line: str, place: Place) -> Path:
    """The image of a line; where there is none, the path at which it was looked for first."""
    path = PurePath(line)
    if path.suffix.lower() not in SUFFIXES:  # as PASCAL VOC lists them, perhaps with -1, 0 or 1
        words = line.rsplit(maxsplit=1)
        names = [line, words[0]] if len(words) == 2 and words[1] in ("-1", "0", "1") else [line]
        for name in names:
            folder = (place.images / name).parent
            if image := _images_by_stem(folder).get(PurePath(name).name):
                return folder / image
        return place.images / f"{names[-1]}.jpg"
    for folder in (place.source.parent, place.images):
        if found := below(folder, path):
            return found
    return place.images / line


def below(folder: Path, path: PurePath) -> Path | None:
    """The file or folder that a path written elsewhere means in a folder; None: there is none.

    Leading parts that only its writer had, such as '..', '/content' or 'data', are left out.
    """
    for start in range(len(path.parts)):
        candidate = Path(os.path.normpath(folder.joinpath(*path.parts[start:])))
        if candidate.exists():
            return candidate
    return None


def _label_paths(image: Path, place: Place, suffix: str) -> Iterator[Path]:
    """Where the label file of an image may be, the likeliest first."""
    names = (image.stem + suffix, image.name + suffix)
    if place.labels is not None:
        start = place.images if place.source.is_file() else place.source
        inside = image.relative_to(start).parent if image.is_relative_to(start) else Path()
        folders = [place.labels / inside, place.labels]
    else:
        parts = image.parent.parts
        folders = [image.parent]
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            folders.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    for folder in dict.fromkeys(folders):
        yield from (folder / name for name in names)


@cache
def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return frozenset()


@cache
def _by_lower_suffix(folder: Path) -> dict[str, str]:
    """The names in a folder by the same with suffixes in lower case: 'a.txt' -> 'a.TXT'."""
    names = (PurePath(name) for name in sorted(_names_in(folder)))
    return {name.stem + name.suffix.lower(): name.name for name in names}


@cache
def _images_by_stem(folder: Path) -> dict[str, str]:
    names = (PurePath(name) for name in sorted(_names_in(folder), reverse=True))
    return {name.stem: name.name for name in names if name.suffix.lower() in SUFFIXES}


def _look_anew() -> None:
    """Forget what lay in folders: it may have changed since they were last read."""
    _names_in.cache_clear()
    _by_lower_suffix.cache_clear()
    _images_by_stem.cache_clear()


def without_image(splits: Iterable[Pairs], suffix: str) -> list[Path]:
    """The label files that are no image's, sorted; where images are listed, others may be meant."""
    splits = list(splits)
    _look_anew()
    if any(pairs.source.is_file() for pairs in splits):
        return []
    used = {pair.label for pairs in splits for pair in pairs.pairs}
    folders = frozenset().union(*(pairs.folders for pairs in splits))
    found = (
        folder / entry
        for folder in folders
        for entry in _names_in(folder)
        if entry.lower().endswith(suffix) and entry[0] != "." and entry.lower() not in NO_LABELS
    )
    return sorted(path for path in found if path not in used)


def leave_out_unlabelled(
    descriptor: Descriptor, splits: dict[SplitName, Pairs], suffix: str
) -> list[Finding]:
    """Remove a test split without any label file, as challenges publish theirs, and say so.

    Raises:
        DataError: another split has none, or a written descriptor names that test split: they are
            elsewhere; the line says where they were looked for.
    """
    left_out = []
    for name in [*splits]:
        pairs = splits[name]
        if any(pair.label for pair in pairs.pairs):
            continue
        written = descriptor.seen is None and isinstance(descriptor.splits.test, str)
        if name == "test" and len(splits) > 1 and not written:
            del splits[name]
            text = f"no label file for any of its images ({len(pairs.pairs)}); left out"
            left_out.append(Finding("test_without_truth", pairs.source, text))
            continue
        image = pairs.pairs[0].image
        looked = " and ".join(f"'{folder}'" for folder in sorted(pairs.folders)[:2])
        raise DataError(
            f"no label file for any image of split '{name}' of '{descriptor.name}' "
            f"({len(pairs.pairs)}): there is no '{image.stem}{suffix}' in {looked}; name their "
            "folder under 'labels' in a descriptor"
        )
    return left_out


def base_of(
    descriptor: Descriptor, root: Path, pairs: Pairs, *, elsewhere: Path | None = None
) -> Path:
    """What the names of images are relative to, so that they are the same on every machine.

    Args:
        descriptor: of the data set.
        root: its folder.
        pairs: the images of a split.
        elsewhere: where they may be instead, next to the descriptor's 'images'.

    Returns:
        The first of root, 'images' and `elsewhere` that holds all of them; else root.
    """
    for base in (root, root / str(descriptor.images or ""), elsewhere):
        if base and all(pair.image.is_relative_to(base) for pair in pairs.pairs):
            return base
    return root
