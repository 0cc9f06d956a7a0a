"""Boxes as YOLO has them: a text file for each image, an object in each line.

An image with an empty file, or without one, has no objects.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpt.data.boxes.box_units import BoxUnits, find_other_layout
from vpt.data.boxes.detection import Finding
from vpt.data.descriptor import AUTOMATIC_CUT, Cut, Descriptor, SplitSources
from vpt.data.readers.coco import CocoFile
from vpt.data.readers.label_files import LabelFileError, LabelledSplit, names_in_file
from vpt.data.readers.label_folders import (
    LabelLayout,
    recognise_labels,
    with_usual_places,
)
from vpt.data.readers.label_pairs import (
    Pairs,
    Place,
    base_of,
    find_pairs,
    leave_out_unlabelled,
    named_places,
    without_image,
)
from vpt.data.readers.parts import hint
from vpt.data.readers.yolo_lines import YOLO_UNITS, LineError, numbers_of, read_numbers
from vpt.data.readers.yolo_yaml import (
    DataYaml,
    find_data_yamls,
    read_data_yaml,
    split_keys,
)
from vpt.data.recognising import question, recognised
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError
from vpt.storage.whole_file import read_whole

_LARGEST = 20_000_000  # bytes of a label file
_LOOKED_AT = 10_000  # characters of a file that may be one
_NAME_FILES = (
    "classes.txt",
    "obj.names",
    "labels/classes.txt",
    "train/classes.txt",
    "train/_darknet.labels",
    "*.names",
)

# What a folder is


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder with a data.yaml, or with images and label files without one.

    Raises:
        DataError: it has several of them; with a descriptor for each.
    """
    files = find_data_yamls(folder)
    choices = [each for path in files if (each := recognise_yaml(path)) is not None]
    if len(choices) > 1:
        raise question(folder, f"has {len(choices)} files such as data.yaml", choices)
    if choices:
        return choices[0]
    names = next((path for place in _NAME_FILES for path in sorted(folder.glob(place))), None)
    fields = {} if names is None else {"file": names.relative_to(folder).as_posix()}
    return recognise_labels(folder, _LAYOUT, **fields)


def recognise_yaml(path: Path) -> Descriptor | None:
    """A descriptor of the data of a data.yaml; None: there are none where they usually lie."""
    folder, splits = path.parent, split_keys(path)
    if not splits:
        return recognise_labels(folder, _LAYOUT, file=path.name)
    seen = f"boxes in YOLO's format ({path.name}: {', '.join(splits)})"
    sources = SplitSources()
    content = read_data_yaml(path)
    share = f"{AUTOMATIC_CUT.fraction:.0%} of train are held out"
    if "train" in splits and content.same:
        sources = SplitSources(val=AUTOMATIC_CUT)
        seen += f"; val is the training images, so {share} instead"
    elif "train" in splits and "val" not in splits:
        sources = SplitSources(val=AUTOMATIC_CUT)
        seen += f"; without validation images, {share}"
    return recognised(folder, seen, format="yolo", file=path.name, splits=sources)


def _is_yolo(path: Path) -> bool:
    """Whether a text file begins with a line of numbers, or holds nothing."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = next((line for line in file.read(_LOOKED_AT).splitlines() if line.strip()), "")
    except OSError:
        return False
    try:
        return not line.strip() or len(numbers_of(line)[0]) >= 5
    except LineError:
        return False


_LAYOUT = LabelLayout(
    format="yolo",
    called="boxes in YOLO's format",
    suffix=".txt",
    labels=("labels", "label", "annotations", "labels_txt", "txt"),
    fits=_is_yolo,
)


# Reading


def read_yolo(descriptor: Descriptor, root: Path) -> dict[SplitName, CocoFile]:
    """The label files of each split.

    Raises:
        DataError: a folder, list or data.yaml is missing or cannot be used, or no image of a split
            has a label file.
    """
    content = _data_yaml(descriptor, root)
    pairs = _pairs(descriptor, root, content)
    left_out = leave_out_unlabelled(descriptor, pairs, ".txt")
    if content is not None and content.no_test is not None:
        left_out.append(Finding("test_without_truth", content.path, content.no_test))
    lost = without_image(pairs.values(), ".txt")
    categories = _categories(descriptor, root, content)
    elsewhere = content.base if content is not None else None
    read = {
        name: _read_split(
            descriptor,
            base_of(descriptor, root, each, elsewhere=elsewhere),
            each,
            categories,
            content,
        )
        for name, each in pairs.items()
    }
    first = next(iter(read.values()))
    first.findings += left_out
    if lost:
        text = f"{len(lost)} label files without an image, such as {lost[0].name}; left out"
        found = Finding("label_without_image", lost[0].parent, text, count=len(lost))
        first.findings.append(found)
    if categories is None:
        seen = {
            box.category_id for each in read.values() for row in each.boxes.values() for box in row
        }
        _name_by_index(read, seen, descriptor)
    return {name: split.file(root) for name, split in read.items()}


def _data_yaml(descriptor: Descriptor, root: Path) -> DataYaml | None:
    if descriptor.file is not None:
        path = root / descriptor.file
        if not path.is_file():
            raise DataError(f"file of '{descriptor.name}': no such file '{path}'{hint(descriptor)}")
        return read_data_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else None
    if any(isinstance(getattr(descriptor.splits, split), str) for split in SPLIT_NAMES):
        return None
    files = find_data_yamls(root)
    return read_data_yaml(files[0]) if len(files) == 1 else None


def _pairs(descriptor: Descriptor, root: Path, content: DataYaml | None) -> dict[SplitName, Pairs]:
    """The images of each split: as the descriptor names them, the data.yaml, or the folders."""
    named = [isinstance(getattr(descriptor.splits, split), str) for split in SPLIT_NAMES]
    if content is not None and content.sources and not any(named):
        if content.same and not isinstance(descriptor.splits.val, Cut):
            raise DataError(
                f"{content.path}: val is the training images, by which nothing can be chosen; hold "
                "some out with 'val: {fraction: 0.2}' under 'splits' in the descriptor"
            )
        return {
            split: find_pairs([Place(source, content.base) for source in sources], ".txt")
            for split, sources in content.sources.items()
            if not isinstance(getattr(descriptor.splits, split), Cut)
        }
    descriptor = with_usual_places(
        descriptor, root, lambda folder: recognise_labels(folder, _LAYOUT)
    )
    places = named_places(descriptor, root)
    return {split: find_pairs([place], ".txt") for split, place in places.items()}


def _categories(
    descriptor: Descriptor, root: Path, content: DataYaml | None
) -> dict[int, str] | None:
    """Class index -> name; None: nothing names them."""
    if descriptor.classes is not None:
        names = dict(enumerate(descriptor.classes))
        if content is not None and content.names is not None and len(content.names) == len(names):
            return content.names  # joined with the descriptor's, which may be another order
        return names
    if content is not None:
        return content.names
    if descriptor.file is None:
        return None
    return dict(enumerate(names_in_file(root / descriptor.file)))


def _name_by_index(
    read: dict[SplitName, LabelledSplit], seen: set[int], descriptor: Descriptor
) -> None:
    """Call classes after their indices where nothing names them."""
    if not seen:
        faults = (str(each) for split in read.values() for each in split.findings)
        fault = next((f": {each}" for each in faults), "")
        raise DataError(f"no object in any label file of '{descriptor.name}'{fault}")
    first = next(iter(read.values()))
    text = "no data.yaml or classes.txt names the classes; they are called by their indices"
    first.findings.append(Finding("category_unnamed", first.source, text))
    for split in read.values():
        split.categories = {index: str(index) for index in sorted(seen)}


def _read_split(
    descriptor: Descriptor,
    base: Path,
    pairs: Pairs,
    categories: dict[int, str] | None,
    content: DataYaml | None,
) -> LabelledSplit:
    units = descriptor.box_units or YOLO_UNITS
    split = LabelledSplit(pairs.source, base, categories or {}, BoxUnits(scale=units.scale))
    plain: list[float] = []
    split.counts["image_listed_twice"] = pairs.twice
    point_values = content.point_values if content is not None else None
    for pair in pairs.pairs:
        try:
            lines = _lines(pair.label) if pair.label is not None else []
        except LabelFileError as error:
            split.add_unreadable(pair.image, error)
            continue
        image = split.add_image(pair.image, pair.label, None)
        split.counts["label_missing"] += pair.label is None
        for number, line in lines:
            try:
                numbers, commas = numbers_of(line)
                split.counts["commas_in_labels"] += commas
                label, box = read_numbers(numbers, units=units, point_values=point_values)
                _check_class(label, categories)
            except LineError as fault:
                split.add(fault.kind, fault.reason, pair.image, pair.label, number)
                continue
            split.add_box(image, label, box, line=number)
            plain += numbers[1:] if len(numbers) == 5 else []
    missing = split.counts["label_missing"]
    kind = "label_missing" if 2 * missing <= len(pairs.pairs) else "labels_mostly_missing"
    split.counts[kind] = missing
    split.count(kind, f"of {len(pairs.pairs)} images without a label file; kept as negatives")
    split.count("image_listed_twice", "lines that name an image again; left out")
    split.count("commas_in_labels", "lines with commas between their numbers, or in them")
    if descriptor.box_units is None:
        _accuse_layout(split, np.array(plain).reshape(-1, 4))
    return split


def _accuse_layout(split: LabelledSplit, boxes: NDArray[np.float64]) -> None:
    """An error where boxes look like corners, which their format does not have."""
    found = find_other_layout(boxes, YOLO_UNITS)
    if found is None:
        return
    units, count = found
    text = (
        f"they look like {units}: {count:,} of {len(boxes):,} boxes reach out of their images as "
        f"{YOLO_UNITS}; write 'box_units: {units.written}' in the descriptor to have them "
        f"converted, or 'box_units: {YOLO_UNITS.written}' if they are right as they are"
    )
    split.findings.append(Finding("box_units", split.source, text))


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of each line that is not blank."""
    try:
        data = read_whole(path, most=_LARGEST)
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise LabelFileError(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelFileError(path, "is no text in UTF-8", line) from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _check_class(label: int, categories: dict[int, str] | None) -> None:
    if categories is None or label in categories:
        return
    text = f"class {label} has no name: there are {len(categories)}, numbered from 0"
    if label == len(categories):
        text += "; do these labels count from 1?"
    raise LineError("unknown_category", text)
