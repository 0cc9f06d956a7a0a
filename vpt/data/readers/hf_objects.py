"""Image folders of Hugging Face with boxes: a metadata.jsonl whose rows have `objects`.

A row is {"file_name": ..., "objects": {"bbox": [[x, y, width, height], ...], "categories": [...]}},
in pixels, or `objects` is a list of {"bbox": ..., "category": ...}
(https://huggingface.co/docs/datasets/image_dataset).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpt.data.boxes.box_units import COCO_UNITS, BoxUnits, edges_and_sides
from vpt.data.boxes.detection import Finding
from vpt.data.descriptor import AUTOMATIC_CUT, Cut, Descriptor, SplitSources
from vpt.data.readers.coco import CocoFile, as_integer, as_number
from vpt.data.readers.label_files import LabelFileError, LabelledSplit
from vpt.data.readers.parts import UNPRINTABLE, hint, shown
from vpt.data.recognising import recognised, split_of_name
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import DataError
from vpt.registry import nearest

_FILE = "metadata.jsonl"
_CLASS_KEYS = ("categories", "category", "labels", "label", "category_id", "class")
_LOOKED_AT = 20  # rows
_LONGEST = 20_000_000  # characters of a row


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder with metadata.jsonl files of which a row has objects."""
    found = {split: path for split, path in _files(folder).items() if _has_objects(path)}
    if not found:
        return None
    sources: dict[str, Any] = {
        split: path.relative_to(folder).as_posix() for split, path in _files(folder).items()
    }
    seen = f"boxes in image folders of Hugging Face ({', '.join(sources.values())})"
    if "train" in sources and "val" not in sources:
        sources["val"] = AUTOMATIC_CUT
        seen += f"; without validation images, {AUTOMATIC_CUT.fraction:.0%} of train are held out"
    return recognised(folder, seen, format="hf_objects", splits=SplitSources(**sources))


def _files(folder: Path) -> dict[SplitName, Path]:
    found = {
        split: path
        for path in sorted(folder.glob(f"*/{_FILE}"))
        if (split := split_of_name(path.parent.name))
    }
    if not found and (folder / _FILE).is_file():
        found = {"train": folder / _FILE}
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def _has_objects(path: Path) -> bool:
    try:
        rows = [row for _, row in zip(range(_LOOKED_AT), _rows(path), strict=False)]
    except LabelFileError:
        return False
    return any(isinstance(row, dict) and "objects" in row for _, row in rows)


def read_hf_objects(descriptor: Descriptor, root: Path) -> dict[SplitName, CocoFile]:
    """The metadata of each split: the files that the descriptor names, or the usual ones.

    Raises:
        DataError: a named file is missing, there is none, or no row has an object.
    """
    paths = _paths(descriptor, root)
    rows = {split: list(_rows(path)) for split, path in paths.items()}
    every = [row for part in rows.values() for _, row in part]
    names = _class_names(descriptor, every)
    units = descriptor.box_units or COCO_UNITS
    read = {
        split: _read_split(root, paths[split], part, names, units) for split, part in rows.items()
    }
    if all(str(number) == name for number, name in names.items()):
        first = next(iter(read.values()))
        text = f"no {_FILE} names the classes; write 'classes: [...]' in the descriptor to do so"
        first.findings.append(Finding("category_unnamed", first.source, text))
    return {split: each.file(root) for split, each in read.items()}


def _paths(descriptor: Descriptor, root: Path) -> dict[SplitName, Path]:
    named: dict[SplitName, Path] = {}
    for split in SPLIT_NAMES:
        source = getattr(descriptor.splits, split)
        if isinstance(source, str):
            path = root / source
            named[split] = path / _FILE if path.is_dir() else path
            if not named[split].is_file():
                raise DataError(
                    f"splits.{split} of '{descriptor.name}': no such file '{named[split]}'"
                    f"{hint(descriptor)}"
                )
    usual = {
        split: path
        for split, path in _files(root).items()
        if not isinstance(getattr(descriptor.splits, split), Cut)
    }
    if not named and not usual:
        raise DataError(f"'{root}' has no train/{_FILE}{hint(descriptor)}")
    return named or usual


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), ""), start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFileError(path, f"cannot be read as lines of JSON ({error})") from error


def _objects(row: Any) -> list[tuple[Any, Any, dict[str, Any]]]:
    """(bbox, class, all else) of each object of a row; None for what is missing."""
    objects = row.get("objects") if isinstance(row, dict) else None
    if isinstance(objects, list):
        rows = [each if isinstance(each, dict) else {} for each in objects]
        return [(each.get("bbox"), _class_of(each), each) for each in rows]
    if not isinstance(objects, dict):
        return []
    boxes, classes = objects.get("bbox"), _class_of(objects)
    boxes = boxes if isinstance(boxes, list) else []
    classes = classes if isinstance(classes, list) else []
    columns = {key: value for key, value in objects.items() if isinstance(value, list)}
    return [
        (
            boxes[k] if k < len(boxes) else None,
            classes[k] if k < len(classes) else None,
            {key: value[k] for key, value in columns.items() if k < len(value)},
        )
        for k in range(max(len(boxes), len(classes)))
    ]


def _class_of(values: dict[str, Any]) -> Any:
    return next((values[key] for key in _CLASS_KEYS if key in values), None)


def _class_names(descriptor: Descriptor, rows: list[Any]) -> dict[int, str]:
    """Category id -> name: of numbers the numbers, of names from 0 in their order."""
    found = [value for row in rows for _, value, _ in _objects(row)]
    if descriptor.classes is not None:
        return dict(enumerate(descriptor.classes))
    names = sorted({value for value in found if isinstance(value, str) and value.strip()})
    if names:
        return {k: " ".join(UNPRINTABLE.sub(" ", name).split()) for k, name in enumerate(names)}
    numbers = {number for value in found if (number := as_integer(value)) is not None}
    numbers = {number for number in numbers if 0 <= number < 2**31}
    if not numbers:
        raise DataError(f"no object in any {_FILE} of '{descriptor.name}'")
    return {number: str(number) for number in sorted(numbers)}


def _read_split(
    root: Path, path: Path, rows: list[tuple[int, Any]], names: dict[int, str], units: BoxUnits
) -> LabelledSplit:
    split = LabelledSplit(path, root, names, units)
    seen: set[Path] = set()
    for line, row in rows:
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name.strip() or UNPRINTABLE.search(name):
            split.add_line("malformed", f"{shown(row)} has no file_name", line)
            continue
        image = path.parent / name.replace("\\", "/")
        if image in seen:
            split.counts["image_listed_twice"] += 1
            continue
        seen.add(image)
        number = split.add_image(image, path, None)
        for bbox, value, rest in _objects(row):
            box = _box(bbox, units)
            category = _category(value, names)
            if box is None:
                text = f"bbox {shown(bbox)} is not [x, y, width, height]"
                split.add("box_malformed", text, image, path, line)
            elif category is None:
                text = f"category {shown(value)} is none of the classes"
                text += nearest(value, names.values()) if isinstance(value, str) else ""
                split.add("unknown_category", text, image, path, line)
            else:
                area = as_number(rest.get("area"))
                area = area if area is not None and 0 < area < math.inf else None
                crowd = as_integer(rest.get("iscrowd")) == 1
                split.add_box(number, category, box, line=line, area=area, crowd=crowd)
    split.count("image_listed_twice", "rows of an image that came before; left out")
    return split


def _box(bbox: Any, units: BoxUnits) -> tuple[float, float, float, float] | None:
    values = [as_number(value) for value in bbox] if isinstance(bbox, list) else []
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if len(values) != 4 or len(numbers) != 4:
        return None
    box = edges_and_sides(units.layout, *numbers)
    return box if min(box[2:]) >= 0 else None


def _category(value: Any, names: dict[int, str]) -> int | None:
    """The id of a class that is written as its number or its name."""
    if isinstance(value, str):
        text = " ".join(UNPRINTABLE.sub(" ", value).split())
        return next((number for number, name in names.items() if name == text), None)
    number = as_integer(value)
    return number if number in names else None
