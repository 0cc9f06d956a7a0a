"""Data sets with a label file for each image: which file is whose, and what they hold together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

from vpt.data.box_units import COCO_UNITS, BoxUnits
from vpt.data.descriptor import Cut, Descriptor, ImageFolders
from vpt.data.detection import Finding
from vpt.data.image_files import find_files
from vpt.data.images import SUFFIXES
from vpt.data.readers.coco import CocoBox, CocoFile, CocoImage
from vpt.data.readers.parts import UNPRINTABLE, hint
from vpt.data.readers.text_files import read_text
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError

NO_LABELS = frozenset({"classes.txt", "labels.txt", "names.txt", "notes.txt", "train.txt"}) | {
    f"readme{end}.txt" for end in ("", ".dataset", ".roboflow")
}
"""Text files that lie among labels and are none, in lower case."""


class LabelFileError(DataError):
    """A label file of no use.

    Attributes:
        path: of the file.
        reason: what is wrong with it, without the path.
        line: where, counted from 1, or None.
    """

    def __init__(self, path: Path, reason: str, line: int | None = None):
        super().__init__(f"{path if line is None else f'{path}:{line}'}: {reason}")
        self.path, self.reason, self.line = path, reason, line


def names_in_file(path: Path) -> list[str]:
    """The class names in a text file, one a line; of a blank line within 'class_<index>'.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    lines = read_text(path).splitlines()
    names = [" ".join(UNPRINTABLE.sub(" ", line).split()) for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path}: names no class")
    return [name or f"class_{index}" for index, name in enumerate(names)]


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
                if candidate.name in _names_in(candidate.parent):
                    found[image] = candidate
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
def _images_by_stem(folder: Path) -> dict[str, str]:
    names = (PurePath(name) for name in sorted(_names_in(folder), reverse=True))
    return {name.stem: name.name for name in names if name.suffix.lower() in SUFFIXES}


def _look_anew() -> None:
    """Forget what lay in folders: it may have changed since they were last read."""
    _names_in.cache_clear()
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
) -> None:
    """Remove a test split without any label file, as challenges publish theirs.

    Raises:
        DataError: another split has none: they are elsewhere; the line says where they were
            looked for.
    """
    for name in [*splits]:
        pairs = splits[name]
        if any(pair.label for pair in pairs.pairs):
            continue
        if name == "test" and len(splits) > 1:
            del splits[name]
            continue
        image = pairs.pairs[0].image
        looked = " and ".join(f"'{folder}'" for folder in sorted(pairs.folders)[:2])
        raise DataError(
            f"none of the {len(pairs.pairs)} images of split '{name}' of '{descriptor.name}' has a "
            f"label file: there is no '{image.stem}{suffix}' in {looked}; name their folder under "
            "'labels' in a descriptor"
        )


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


@dataclass
class LabelledSplit:
    """A split while its label files are read.

    Attributes:
        source: what names it.
        base: what the images' names are relative to.
        categories: id -> name.
        units: of its boxes.
    """

    source: Path
    base: Path
    categories: dict[int, str]
    units: BoxUnits = COCO_UNITS
    images: list[CocoImage] = field(default_factory=list)
    boxes: dict[int, list[CocoBox]] = field(default_factory=dict)
    label_files: dict[int, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _last_box: int = 0

    def add_image(self, image: Path, label: Path | None, size: tuple[int, int] | None) -> int:
        """Its id: images are numbered from 1."""
        number = len(self.images) + 1
        name = self.name_of(image)
        if UNPRINTABLE.search(name):
            text = "has a name that is no text in UTF-8, or holds a control character"
            self.findings.append(Finding("file_name_invalid", self.source, f"{name!a} {text}"))
            return 0
        self.images.append(CocoImage(number, name, size))
        self.boxes[number] = []
        if label is not None:
            self.label_files[number] = label
        return number

    def name_of(self, image: Path) -> str:
        """The name of an image in its data set."""
        return Path(os.path.relpath(image, self.base)).as_posix()

    def add_box(
        self,
        image: int,
        category: int,
        box: tuple[float, float, float, float],
        *,
        line: int | None = None,
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """A box xywh of an image that was added."""
        self._last_box += 1
        if image:
            found = CocoBox(self._last_box, line, category, box, area, crowd)
            self.boxes[image].append(found)

    def add_line(self, kind: str, message: str, line: int) -> None:
        """Something wrong with a line of the source itself."""
        self.findings.append(Finding(kind, self.source, message, line=line))

    def add_unreadable(self, image: Path, error: LabelFileError) -> None:
        """A label file of no use, whose image is left out."""
        self.add("label_unreadable", error.reason, image, error.path, error.line)

    def add(
        self, kind: str, message: str, image: Path, label: Path | None, line: int | None = None
    ) -> None:
        """Something wrong with an image's label file."""
        found = Finding(kind, label or self.source, message, self.name_of(image), line=line)
        self.findings.append(found)

    def count(self, kind: str, text: str) -> None:
        """A finding for what was counted, if there was any."""
        if count := self.counts[kind]:
            self.findings.append(Finding(kind, self.source, f"{count} {text}", count=count))

    def file(self, root: Path) -> CocoFile:
        """All that was added."""
        return CocoFile(
            self.source,
            self.categories,
            self.images,
            self.boxes,
            self.findings,
            self.units,
            folder=Path() if self.base == root else self.base,
            label_files=self.label_files,
        )
