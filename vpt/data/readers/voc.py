"""Boxes as PASCAL VOC has them: an XML file for each image (Everingham et al. 2010).

Corners are of pixels that belong to the object, counted from 1: a box from (1, 1) to (10, 20) is
xyxy (0, 0, 10, 20). Data in which more corners are at 0 than at 1 count from 0, as some tools do;
their corners are taken as xyxy.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vpt.data.boxes.detection import Finding
from vpt.data.descriptor import Descriptor
from vpt.data.readers.coco import CocoFile
from vpt.data.readers.label_files import LabelFileError, LabelledSplit, names_in_file
from vpt.data.readers.label_folders import (
    LabelLayout,
    recognise_labels,
    recognise_official,
    with_usual_places,
)
from vpt.data.readers.label_pairs import (
    Pair,
    Pairs,
    base_of,
    find_pairs,
    leave_out_unlabelled,
    named_places,
    without_image,
)
from vpt.data.readers.parts import UNPRINTABLE
from vpt.data.readers.xml_text import Element, read_xml
from vpt.data.splits import SplitName
from vpt.errors import DataError
from vpt.registry import nearest

_NAMES = "classes.txt"

_LAYOUT = LabelLayout(
    format="voc",
    called="boxes in PASCAL VOC's format",
    suffix=".xml",
    labels=("annotations", "xmls", "xml", "annots", "labels", "ann"),
    fits=lambda path: True,  # what is wrong with an XML file is for the reader to say
)


@dataclass(frozen=True)
class VocObject:
    """An object as annotated: its corners as written, and the line that it begins on."""

    name: str
    line: int
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """An XML file: the size (H, W), the name of the image, the objects, what is wrong with some."""

    size: tuple[int, int] | None
    file_name: str | None
    objects: list[VocObject]
    faults: list[tuple[str, str, int]]


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder with XML files beside its images, or in folders of their own."""
    fields = {"file": _NAMES} if (folder / _NAMES).is_file() else {}
    return recognise_official(folder, **fields) or recognise_labels(folder, _LAYOUT, **fields)


def read_voc(descriptor: Descriptor, root: Path) -> dict[SplitName, CocoFile]:
    """The XML files of each split.

    Raises:
        DataError: a named folder or list is missing, no image of a split has an XML file, or no
            file names a class.
    """
    descriptor = with_usual_places(descriptor, root, recognise)
    places = named_places(descriptor, root)
    pairs = {split: find_pairs([place], ".xml") for split, place in places.items()}
    left_out = leave_out_unlabelled(descriptor, pairs, ".xml")
    lost = _settle_lost(pairs, without_image(pairs.values(), ".xml"))
    read = {
        split: _read_files(base_of(descriptor, root, each), each) for split, each in pairs.items()
    }
    for split, path in lost:
        text = "there is no image of its name, nor of the <filename> in it"
        read[split][0].findings.append(Finding("image_missing", path, text, path.stem))
    every = [file for _, files in read.values() for _, file in files]
    first, _ = next(iter(read.values()))
    first.findings += left_out
    if not every and first.findings:
        raise DataError(f"no XML file of '{descriptor.name}' can be used: {first.findings[0]}")
    shift, names = _shift(every), _class_names(descriptor, root, every)
    _tell_alike(first, names)
    return {
        name: _joined(descriptor, split, files, names, shift).file(root)
        for name, (split, files) in read.items()
    }


def _settle_lost(pairs: dict[SplitName, Pairs], lost: list[Path]) -> list[tuple[SplitName, Path]]:
    """Pair XML files that have no image of their name with the one they name; what is left."""
    places = {
        pair.image.name: (each, place)
        for each in pairs.values()
        for place, pair in enumerate(each.pairs)
        if pair.label is None
    }
    left = []
    for path in lost:
        try:
            name = read_xml(path).value("filename")
        except LabelFileError:
            name = None
        found = places.pop(_file_name(name), None) if name else None
        if found is None:
            left += [(split, path) for split in pairs if path.parent in pairs[split].folders][:1]
            continue
        each, place = found
        each.pairs[place] = Pair(each.pairs[place].image, path)
    return left


Files = list[tuple[Pair, VocFile]]


def _read_files(base: Path, pairs: Pairs) -> tuple[LabelledSplit, Files]:
    split = LabelledSplit(pairs.source, base, {})
    split.counts["image_listed_twice"] = pairs.twice
    files: Files = []
    for pair in pairs.pairs:
        if pair.label is None:
            split.counts["image_without_label"] += 1
            continue
        try:
            files.append((pair, _read_file(pair.label)))
        except LabelFileError as error:
            split.add_unreadable(pair.image, error)
    return split, files


def _read_file(path: Path) -> VocFile:
    root = read_xml(path)
    if root.name != "annotation":
        raise LabelFileError(path, f"is <{root.name[:40]}>, not VOC's <annotation>", root.line)
    objects, faults = [], []
    for element in root.all("object"):
        try:
            objects.append(_object(element))
        except DataError as error:
            faults.append(("box_malformed", str(error), element.line))
    return VocFile(_size(root), root.value("filename"), objects, faults)


def _size(root: Element) -> tuple[int, int] | None:
    """(H, W); None where it is not written, or 0 as some tools write what they do not know."""
    size = root.first("size")
    values = [_number(size.value(name)) if size else None for name in ("height", "width")]
    if any(value is None or not 1 <= value < 2**31 for value in values):
        return None
    height, width = (int(value or 0) for value in values)
    return height, width


def _object(element: Element) -> VocObject:
    name = UNPRINTABLE.sub(" ", element.value("name") or "").strip()
    if not name:
        raise DataError("an object has no name")
    difficult = (element.value("difficult") or "").lower() in ("1", "true", "yes")
    return VocObject(name, element.line, _corners(element), difficult)


def _corners(element: Element) -> tuple[float, float, float, float]:
    """As written; of an outline without a box, its extent."""
    box = element.first("bndbox")
    outline = element.first("polygon") or element.first("segmentation")
    if box is not None:
        written = [box.value(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    elif outline is not None:
        xs, ys = (_values(outline, axis) for axis in "xy")
        if not xs or len(xs) != len(ys):
            raise DataError("a polygon has no points")
        return min(xs), min(ys), max(xs), max(ys)
    else:
        raise DataError("an object has no bndbox")
    values = [_number(value) for value in written]
    numbers = [value for value in values if value is not None]
    if len(numbers) < 4:
        raise DataError(f"bndbox {written} is not four numbers xmin, ymin, xmax, ymax")
    left, top, right, bottom = numbers
    return left, top, right, bottom


def _values(outline: Element, axis: str) -> list[float]:
    """The coordinates of a polygon: x1, y1, x2, ... or pt elements with x and y."""
    points = [child for child in outline.children if child.name in ("pt", "point")] or [outline]
    found = (
        _number(child.text)
        for point in points
        for child in point.children
        if re.fullmatch(rf"{axis}[0-9]*", child.name)
    )
    return [value for value in found if value is not None and math.isfinite(value)]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _shift(files: Iterable[VocFile]) -> float:
    """What to take off the left and upper corners: 1, or 0 of data that count from 0."""
    counts: Counter[float] = Counter()
    for file in files:
        for each in file.objects:
            counts.update(value for value in each.corners[:2] if value in (0, 1))
    return 0.0 if counts[0] > counts[1] else 1.0


def _class_names(descriptor: Descriptor, root: Path, files: Iterable[VocFile]) -> list[str]:
    """The descriptor's; or those of a file, then what else occurs, sorted."""
    if descriptor.classes is not None:
        return descriptor.classes
    names = [] if descriptor.file is None else names_in_file(root / descriptor.file)
    names += sorted({each.name for file in files for each in file.objects} - {*names})
    if not names:
        raise DataError(f"no object in any XML file of '{descriptor.name}'")
    return names


def _tell_alike(split: LabelledSplit, names: list[str]) -> None:
    """A finding for names that differ in capitals or blanks alone: typing errors, most likely."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"[\s_-]", "", name.casefold()), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            text = f"classes {', '.join(map(repr, group))} differ in writing alone"
            split.findings.append(Finding("category_names_alike", split.source, text))


def _joined(
    descriptor: Descriptor, split: LabelledSplit, files: Files, names: list[str], shift: float
) -> LabelledSplit:
    """The split with the images and boxes of its files; classes are numbered from 1."""
    split.categories = dict(enumerate(names, start=1))
    numbers = {name: number for number, name in split.categories.items()}
    for pair, file in files:
        image = split.add_image(pair.image, pair.label, file.size)
        split.counts["size_missing"] += file.size is None
        split.counts["file_name_differs"] += file.file_name is not None and not _same_name(
            file.file_name, pair.image
        )
        for kind, text, line in file.faults:
            split.add(kind, text, pair.image, pair.label, line)
        for each in file.objects:
            if each.name not in numbers:
                text = f"class '{each.name}' is none of the descriptor's"
                text += nearest(each.name, names)
                split.add("unknown_category", text, pair.image, pair.label, each.line)
                continue
            if each.difficult and descriptor.difficult == "leave_out":
                split.counts["difficult_left_out"] += 1
                continue
            left, top, right, bottom = each.corners
            box = (left - shift, top - shift, right - left + shift, bottom - top + shift)
            if not all(map(math.isfinite, box)):
                split.add(
                    "box_not_finite", f"bndbox {each.corners}", pair.image, pair.label, each.line
                )
            elif min(box[2:]) < 0:
                text = f"bndbox {each.corners} ends before it begins"
                split.add("box_negative", text, pair.image, pair.label, each.line)
            else:
                crowd = each.difficult and descriptor.difficult == "crowd"
                split.add_box(image, numbers[each.name], box, line=each.line, crowd=crowd)
    split.count("size_missing", "XML files without width and height; those of the images are taken")
    split.count("file_name_differs", "XML files that name another image than the one beside them")
    split.count("image_without_label", "images without an XML file; left out")
    split.count("image_listed_twice", "lines that name an image again; left out")
    split.count("difficult_left_out", "objects marked as difficult; left out")
    if shift == 0:
        text = "more corners are at 0 than at 1: they count from 0, and are taken as xyxy"
        split.findings.append(Finding("corners_from_zero", split.source, text))
    return split


def _same_name(written: str, image: Path) -> bool:
    """Whether <filename> is an image's; many tools leave the suffix out."""
    return _file_name(written) in (image.name, image.stem)


def _file_name(written: str) -> str:
    return PurePosixPath(written.replace("\\", "/")).name
