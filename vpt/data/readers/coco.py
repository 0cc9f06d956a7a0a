"""Annotation files in COCO's JSON, entry by entry: what is odd is repaired or left out, and listed.

Only boxes are read. A segmentation serves where an annotation has no usable box of its own.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vpt.data.boxes.box_units import COCO_UNITS, BoxUnits, edges_and_sides
from vpt.data.boxes.detection import Finding
from vpt.data.boxes.outlines import outline_box
from vpt.data.descriptor import Cut, Descriptor, ImageFolders
from vpt.data.readers.json_lists import Entries, read_json_lists
from vpt.data.readers.parts import UNPRINTABLE, hint, shown
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError

_LISTS = ("images", "annotations")  # the long ones
_LARGEST_ID = 2**53  # the evaluation keeps ids in float64
_SMALLEST_SIDE = 0.01  # pixels: less is no box


@dataclass(frozen=True, slots=True)  # of which there are a million
class CocoImage:
    """An image as listed; `size` is (H, W) as written, None where it is not."""

    id: int
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CocoBox:
    """A box as annotated.

    Attributes:
        id: positive and unique in the file.
        written_id: the one in the file, None where it is no number.
        category_id: one that is listed.
        box: x, y, width, height; finite, not negative. In the scale of the file's units, unless
            it is `outlined`.
        area: None where the file has none.
        crowd: a group of objects, not one.
        outlined: the box is the segmentation's, in pixels, for want of one of its own.
    """

    id: int
    written_id: int | None
    category_id: int
    box: tuple[float, float, float, float]
    area: float | None
    crowd: bool
    outlined: bool = False


@dataclass(frozen=True)
class CocoFile:
    """What an annotation file holds, or the label files of a split.

    Attributes:
        path: of the file, or of what names the split's images.
        categories: id -> name, sorted by id; two may have the same.
        images: as listed, each id and file once.
        boxes: of each image by its id.
        findings: what was odd.
        units: of the boxes: the descriptor's, or those of the file's format.
        image_names: the ids as written, where they are names; an image's own id is its number then.
        unusable: annotations of listed images and categories whose box could not be read.
        folder: where the images' file names start, relative to the root or absolute.
        project: category 0 is what all others are of, as Roboflow writes a project's name.
        label_files: of each image by its id, where it has one of its own; then `written_id` of a
            box is its line there.
    """

    path: Path
    categories: dict[int, str]
    images: list[CocoImage]
    boxes: dict[int, list[CocoBox]]
    findings: list[Finding]
    units: BoxUnits = COCO_UNITS
    image_names: dict[int, str] = field(default_factory=dict)
    unusable: int = 0
    folder: Path = Path()
    label_files: dict[int, Path] = field(default_factory=dict)
    project: bool = False


def read_coco_files(descriptor: Descriptor, root: Path) -> dict[SplitName, CocoFile]:
    """The annotation file of each split: as the descriptor names it, or the usual one.

    A test file without annotations, as published for a leaderboard, is left out if the descriptor
    does not name it.

    Raises:
        DataError: a named file is missing, there is none at all, or one is no COCO ground truth.
    """
    files: dict[SplitName, CocoFile] = {}
    left_out: list[Finding] = []
    for split, path in _paths(descriptor, root).items():
        content = read_json_lists(path, _LISTS)
        if split == "test" and isinstance(content, dict) and not content.get("annotations"):
            if descriptor.splits.test is None and files:
                message = "it has no annotations to measure with; left out as a test split"
                left_out.append(Finding("test_without_truth", path, message))
                continue
            if "annotations" not in content:
                content = {**content, "annotations": []}
                message = (
                    "'annotations' is missing, so nothing can be measured with it; remove "
                    "splits.test from the descriptor, or name a file with annotations"
                )
                left_out.append(Finding("annotations_missing", path, message))
        file = _read(path, content, descriptor.box_units or COCO_UNITS)
        files[split] = replace(file, folder=_images_below(descriptor, split))
    next(iter(files.values())).findings.extend(left_out)
    return _without_project(files)


def _without_project(files: dict[SplitName, CocoFile]) -> dict[SplitName, CocoFile]:
    """Leave out the category 0 that Roboflow adds: the project's name, of which no box is."""
    if not all(file.project for file in files.values()):
        return files
    if any(
        box.category_id == 0
        for file in files.values()
        for each in file.boxes.values()
        for box in each
    ):
        return files
    return {split: _without_category(file, 0) for split, file in files.items()}


def _without_category(file: CocoFile, number: int) -> CocoFile:
    rest = {key: name for key, name in file.categories.items() if key != number}
    text = (
        f"category {number} '{file.categories[number]}' is the group of all others, without boxes"
    )
    found = Finding("category_is_group", file.path, text)
    return replace(file, categories=rest, findings=[*file.findings, found])


def _images_below(descriptor: Descriptor, split: SplitName) -> Path:
    images = descriptor.images
    return Path((getattr(images, split) if isinstance(images, ImageFolders) else images) or "")


def _paths(descriptor: Descriptor, root: Path) -> dict[SplitName, Path]:
    """The annotation file of each split: as named, or the usual one where that exists."""
    paths: dict[SplitName, Path] = {}
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if isinstance(source, Cut):
            continue
        path = root / (source or f"annotations/{split}.json")
        if path.is_file():
            paths[split] = path
        elif source is not None:
            raise DataError(
                f"splits.{split} of '{descriptor.name}': no such file '{path}'{hint(descriptor)}"
            )
    if not paths:
        raise DataError(
            f"'{root}' has no annotations/train.json; name the annotation files under 'splits' in "
            f"the descriptor{hint(descriptor)}"
        )
    return paths


def _read(path: Path, content: Any, units: BoxUnits) -> CocoFile:
    _check_outline(path, content)
    return _Reader(path, units).read(content)


def _check_outline(path: Path, content: Any) -> None:
    if isinstance(content, list):
        raise DataError(
            f"{path}: a list, as results are written; ground truth is an object with images, "
            "annotations and categories"
        )
    if not isinstance(content, dict):
        raise DataError(f"{path}: no object with images, annotations and categories")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list | Entries):
            what = "is no list" if name in content else "is missing"
            raise DataError(f"{path}: '{name}' {what}; this is no COCO ground truth")
    for name in ("images", "categories"):
        if not content[name]:
            raise DataError(f"{path}: '{name}' is empty")


def _has_project(categories: Sequence[Any]) -> bool:
    """Whether category 0 is of nothing, and all others are of it."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    groups = [entry for entry in entries if as_integer(entry.get("id")) == 0]
    if len(groups) != 1 or len(entries) < 2 or groups[0].get("supercategory") != "none":
        return False
    name = groups[0].get("name")
    return all(entry.get("supercategory") == name for entry in entries if entry is not groups[0])


def as_integer(value: Any) -> int | None:
    """The whole number that a value stands for: 3, 3.0 or '3'; None for any other."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,16}", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) > _LARGEST_ID:
        return None
    return value


def as_number(value: Any) -> float | None:
    """A float, NaN and infinities included; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _name(value: Any) -> str:
    """An id that is a name, as it is compared."""
    return str(value).strip()


def _numbered(entries: Sequence[Any], *, ordered: bool = False) -> dict[str, int]:
    """Numbers for ids that are names, if most are; in the order of the list or of the names."""
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    names = [value for value in ids if isinstance(value, str) and as_integer(value) is None]
    if 2 * len(names) < len(ids) or not names:
        return {}
    known = dict.fromkeys(_name(value) for value in ids if isinstance(value, str | int))
    listed = sorted(known) if ordered else list(known)
    return {name: number for number, name in enumerate(listed, start=1) if name}


def _file_names(images: list[CocoImage]) -> dict[str, int]:
    """Images by the names of their files, with and without folders and suffix, where unique."""
    names: dict[str, set[int]] = {}
    for image in images:
        path = PurePosixPath(image.file_name)
        for name in (image.file_name, path.name, path.stem, path.with_suffix("").as_posix()):
            names.setdefault(name, set()).add(image.id)
    return {name: next(iter(ids)) for name, ids in names.items() if len(ids) == 1}


_RULES = {
    "box_malformed": "is not [x, y, width, height]",
    "box_not_finite": "is not finite",
    "box_negative": "has a negative side",
}


@dataclass
class _Reader:
    path: Path
    units: BoxUnits
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: set[int] = field(default_factory=set)
    image_numbers: dict[str, int] = field(default_factory=dict)  # where the ids are names
    category_numbers: dict[str, int] = field(default_factory=dict)  # likewise
    by_category: dict[str, int] = field(default_factory=dict)
    by_file: dict[str, int] | None = None

    def read(self, content: dict[str, Sequence[Any]]) -> CocoFile:
        categories = self._categories(content["categories"])
        images = self._images(content["images"])
        boxes = self._boxes(content["annotations"], categories, images)
        self._add_counted()
        names = {number: name for name, number in self.image_numbers.items()}
        return CocoFile(
            self.path,
            categories,
            images,
            boxes,
            self.findings,
            self.units,
            names,
            self.counts["unusable"],
            project=_has_project(content["categories"]),
        )

    def _add(
        self, kind: str, message: str, image: str | None = None, annotation: int | None = None
    ) -> None:
        self.findings.append(Finding(kind, self.path, message, image, annotation))

    def _add_counted(self) -> None:
        """One finding for each thing that is the same all over the file."""
        texts = {
            "area_missing": "annotations without 'area'; width x height is taken",
            "crowd_missing": "annotations without 'iscrowd'; 0 is taken",
            "ignore_flag": "annotations with an 'ignore' flag, which is dropped",
            "ids_as_text": 'ids written as text, such as "3"; read as numbers',
            "box_from_outline": "annotations without a usable bbox; the segmentation's is taken",
            "ids_as_names": 'ids that are names, such as "img_1"; numbered in memory',
            "image_named": "annotations with the name of an image as image_id; taken as such",
            "category_named": "annotations with the name of a category as category_id",
            "size_missing": "images without width and height; those of the files are taken",
            "file_name_backslash": "file names with backslashes, read as slashes",
        }
        for kind, text in texts.items():
            if count := self.counts[kind]:
                self.findings.append(Finding(kind, self.path, f"{count} {text}", count=count))

    def _objects(self, name: str, entries: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for position, entry in enumerate(entries):
            where = f"{name}[{position}]"
            if isinstance(entry, dict):
                yield where, entry
            else:
                self._add("malformed", f"{where} is {shown(entry)}, not an object")

    def _id(self, value: Any) -> int | None:
        number = as_integer(value)
        self.counts["ids_as_text"] += number is not None and isinstance(value, str)
        return number

    # Categories

    def _categories(self, entries: Sequence[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        self.category_numbers = _numbered(entries, ordered=True)
        self.counts["ids_as_names"] += len(self.category_numbers)
        for where, entry in self._objects("categories", entries):
            number = self._category_id(entry.get("id"))
            if number is None:
                self._add("category_id_invalid", f"{where}: id {shown(entry.get('id'))}")
            elif number in names:
                self._add("category_id_twice", f"{where}: id {number} is '{names[number]}' before")
            else:
                names[number] = self._category_name(entry, number)
        if not names:
            raise DataError(f"{self.path}: no category has a usable id")
        found = Counter(names.values())
        self.by_category = {name: number for number, name in names.items() if found[name] == 1}
        return dict(sorted(names.items()))

    def _category_id(self, value: Any) -> int | None:
        if self.category_numbers:
            return self.category_numbers.get(_name(value))
        return self._id(value)

    def _category_of(self, value: Any) -> int | None:
        """An annotation's category, by its id or else by its name."""
        number = self._category_id(value)
        if number is None and isinstance(value, str):
            number = self.by_category.get(_name(value))
            self.counts["category_named"] += number is not None
        return number

    def _category_name(self, entry: dict[str, Any], number: int) -> str:
        name = entry.get("name")
        text = UNPRINTABLE.sub(" ", str(name)) if isinstance(name, str | int) else ""
        text = " ".join(text.split())
        if not text:
            self._add("category_unnamed", f"category {number} has no name; it is called so")
        return text or str(number)

    # Images

    def _image_id(self, value: Any) -> int | None:
        if self.image_numbers:
            return self.image_numbers.get(_name(value)) if isinstance(value, str | int) else None
        return self._id(value)

    def _image_of(self, value: Any, images: list[CocoImage]) -> int | None:
        """An annotation's image, by its id or else by the name of its file."""
        number = self._image_id(value)
        if number is None and isinstance(value, str):
            if self.by_file is None:
                self.by_file = _file_names(images)
            number = self.by_file.get(value.strip().replace("\\", "/"))
            self.counts["image_named"] += number is not None
        return number

    def _images(self, entries: Sequence[Any]) -> list[CocoImage]:
        self.image_numbers = _numbered(entries)
        self.counts["ids_as_names"] += len(self.image_numbers)
        images: dict[int, CocoImage] = {}
        files: dict[str, int] = {}
        for where, entry in self._objects("images", entries):
            name = self._file_name(where, entry)
            number = self._image_id(entry.get("id"))
            if number is None:
                self._add("image_id_invalid", f"{where}: id {shown(entry.get('id'))}", name)
                continue
            if number in images:
                before = images[number].file_name
                self._add("image_id_twice", f"{where}: id {number} is '{before}' before", name)
                continue
            if name is None:
                self.left_out.add(number)
                continue
            if name in files:  # which of the two has all boxes is unknown
                self.left_out |= {number, files[name]}
                images.pop(files[name], None)
                self._add("image_twice", f"listed as image {files[name]} and {number}", name)
                continue
            files[name] = number
            images[number] = CocoImage(number, name, self._size(entry))
        return list(images.values())

    def _file_name(self, where: str, entry: dict[str, Any]) -> str | None:
        """As a path with slashes; None, and a finding, where no file can have it."""
        name = entry.get("file_name")
        if not isinstance(name, str) or not name.strip() or UNPRINTABLE.search(name):
            self._add("file_name_invalid", f"{where}: file_name {shown(name)}")
            return None
        if "\\" in name:
            self.counts["file_name_backslash"] += 1
            name = name.replace("\\", "/")
        return PurePosixPath(posixpath.normpath(name)).as_posix()

    def _size(self, entry: dict[str, Any]) -> tuple[int, int] | None:
        height, width = as_integer(entry.get("height")), as_integer(entry.get("width"))
        if height is None or width is None or min(height, width) < 1:
            self.counts["size_missing"] += 1
            return None
        return height, width

    # Annotations

    def _boxes(
        self, entries: Sequence[Any], categories: dict[int, str], images: list[CocoImage]
    ) -> dict[int, list[CocoBox]]:
        names = {image.id: image.file_name for image in images}
        boxes: dict[int, list[CocoBox]] = {number: [] for number in names}
        # Entries are parsed anew for each loop: they would take a kilobyte each to hold.
        ids = [self._id(entry.get("id")) for _, entry in self._objects("annotations", entries)]
        objects = (pair for pair in enumerate(entries) if isinstance(pair[1], dict))
        renumber = not _all_usable(ids) and self._check_ids(ids, entries)
        for count, ((position, entry), written) in enumerate(
            zip(objects, ids, strict=True), start=1
        ):
            where = f"annotations[{position}]"
            image_id = self._image_of(entry.get("image_id"), images)
            category_id = self._category_of(entry.get("category_id"))
            if image_id in self.left_out and image_id not in boxes:
                continue
            place = where if written is None else ""
            if image_id is None or image_id not in boxes:
                message = f"{place} image_id {shown(entry.get('image_id'))} is not listed"
                self._add("unknown_image", message.strip(), None, written)
                continue
            image = names[image_id]
            if category_id is None or category_id not in categories:
                message = f"{place} category_id {shown(entry.get('category_id'))} is not listed"
                self._add("unknown_category", message.strip(), image, written)
                continue
            box = self._box(entry)
            outlined = False
            if isinstance(box, str) or min(box[2:]) < _SMALLEST_SIDE:
                segmentation = entry.get("segmentation")
                outline = outline_box(segmentation)
                if outline is not None:
                    self.counts["box_from_outline"] += 1
                    box = outline
                    # Polygons are in the scale of the file's boxes, masks always in pixels.
                    outlined = self.units.scale == "pixels" or isinstance(segmentation, dict)
            if isinstance(box, str):
                kind, rule = box, _RULES[box]
                self.counts["unusable"] += 1
                message = f"{place} bbox {shown(entry.get('bbox'))} {rule}"
                self._add(kind, message.strip(), image, written)
                continue
            number = count if renumber or written is None else written
            area = self._area(entry, image, written)
            crowd = self._crowd(entry, image, written)
            self.counts["ignore_flag"] += bool(entry.get("ignore"))
            boxes[image_id].append(
                CocoBox(number, written, category_id, box, area, crowd, outlined)
            )
        return boxes

    def _check_ids(self, ids: list[int | None], entries: Sequence[Any]) -> bool:
        """Whether the annotations have to be numbered anew."""
        first: dict[int, str] = {}
        bad = False
        places = (place for place, entry in enumerate(entries) if isinstance(entry, dict))
        for number, place in zip(ids, places, strict=True):
            where = f"annotations[{place}]"
            if number is None:
                self._add("annotation_id_invalid", f"{where} has no whole number as id")
            elif number == 0:
                self._add("annotation_id_zero", f"{where} has id 0", None, 0)
            elif number < 0:
                self._add("annotation_id_invalid", f"{where} has id {number}", None, number)
            elif number in first:
                self._add(
                    "annotation_id_twice",
                    f"{where} has the id of {first[number]}",
                    None,
                    number,
                )
            else:
                first[number] = where
                continue
            bad = True
        return bad

    def _box(self, entry: dict[str, Any]) -> tuple[float, float, float, float] | str:
        """x, y, width and height, or the kind of finding where they cannot be."""
        given = entry.get("bbox")
        values = [as_number(value) for value in given] if isinstance(given, list) else []
        numbers = [value for value in values if value is not None]
        if len(values) != 4 or len(numbers) != 4:
            return "box_malformed"
        if not all(map(math.isfinite, numbers)):
            return "box_not_finite"
        a, b, c, d = numbers
        if self.units.layout != "xywh":
            a, b, c, d = edges_and_sides(self.units.layout, a, b, c, d)
        if min(c, d) < 0:
            return "box_negative"
        return a, b, c, d

    def _area(self, entry: dict[str, Any], image: str, written: int | None) -> float | None:
        if entry.get("area") is None:
            self.counts["area_missing"] += 1
            return None
        area = as_number(entry["area"])
        if area is None or not 0 < area < math.inf:
            self._add("area_invalid", f"area {shown(entry['area'])}", image, written)
            return None
        return area

    def _crowd(self, entry: dict[str, Any], image: str, written: int | None) -> bool:
        if entry.get("iscrowd") is None:
            self.counts["crowd_missing"] += 1
            return False
        value = entry["iscrowd"]
        crowd = int(value) if isinstance(value, bool) else as_integer(value)
        if crowd not in (0, 1):
            self._add("crowd_invalid", f"iscrowd {shown(value)}", image, written)
            return False
        return crowd == 1


def _all_usable(ids: list[int | None]) -> bool:
    """Whether each id is there, above 0 and no other's."""
    numbers = [number for number in ids if number is not None and number > 0]
    return len(numbers) == len(ids) == len(np.unique(np.array(numbers, dtype=np.int64)))
