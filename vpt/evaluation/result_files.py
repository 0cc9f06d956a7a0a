"""Results of a detector as COCO's files hold them, or as other tools write them under that name."""

from __future__ import annotations

import json
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.boxes.box_units import (
    COCO_UNITS,
    FOREIGN_UNITS,
    BoxUnits,
    find_foreign_units,
    xywh_pixels,
)
from vpt.data.boxes.outlines import outline_box
from vpt.data.readers.coco import as_integer, as_number
from vpt.data.readers.parts import read_json, shown
from vpt.errors import DataError

_LISTS = ("annotations", "predictions", "results", "detections")
"""Where other tools put the list inside of an object."""

_NAME_FIELDS = ("image_id", "file_name", "image", "image_name")
_ROUNDING = 1e-6  # of float32 scores
_LOOKED_AT = 50_000  # results, evenly spread
_COMPARED_IMAGES = 300
_HIT_IOU, _HIT, _CHANCE = 0.5, 0.5, 0.2


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records of a results file: a JSON list, JSON lines, or an object with such a list.

    Raises:
        DataError: it is none of these, or ground truth.
    """
    try:
        values = read_json(path)
    except DataError:
        values = _json_lines(path)
        if values is None:
            raise
    if isinstance(values, dict) and set(_LISTS).isdisjoint(values) and "bbox" in values:
        values = [values]  # of one line
    if isinstance(values, dict):
        name = next((name for name in _LISTS if isinstance(values.get(name), list)), None)
        records = values[name] if name is not None else None
        if records and not any(isinstance(each, dict) and "score" in each for each in records):
            raise DataError(
                f"{path}: holds annotations without scores, as ground truth does; results are a "
                "list of {image_id, category_id, bbox, score}"
            )
        values = records
    if not isinstance(values, list) or not all(isinstance(each, dict) for each in values):
        raise DataError(f"{path}: must hold a list of results {{image_id, category_id, ...}}")
    return values


def _json_lines(path: Path) -> list[dict[str, Any]] | None:
    """One object a line; None where the file is anything else."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError):
        return None
    return records if records and all(isinstance(each, dict) for each in records) else None


def check_records(
    records: Iterable[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Results {image_id, category_id, bbox, score} with whole numbers as ids and floats in boxes.

    Categories may be named instead of numbered, images too, by the file name or the stem of that.
    Without a bbox the segmentation's box is taken.

    Args:
        records: xywh in pixels, scores in 0..1.
        images: of the ground truth.
        annotations: likewise.
        names: of the categories that are known, by id.

    Raises:
        DataError: a record lacks a field or does not fit the ground truth, or all boxes look like
            other units.
    """
    listed = list(records)
    ids = _ImageIds(images)
    by_name = {name: number for number, name in names.items()}
    taken = []
    for place, record in enumerate(listed):
        where = f"result {place}: "
        if "category_id" not in record and isinstance(record.get("boxes"), list):
            raise DataError(
                f"{where}holds all boxes of an image; results have one entry for each box, "
                "{image_id, category_id, bbox, score}"
            )
        category_id = as_integer(record.get("category_id"))
        if category_id is None:
            category_id = by_name.get(str(record.get("category_id")))
        if category_id not in names:
            raise DataError(f"{where}{_unknown_category(record, listed, names)}")
        taken.append(
            {
                **record,
                "image_id": ids.of(record, where),
                "category_id": category_id,
                **_box_and_score(record, where),
            }
        )
    _check_units(taken, images, annotations)
    return taken


def _unknown_category(
    record: Mapping[str, Any], records: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> str:
    used = {as_integer(each.get("category_id")) for each in records}
    why = ""
    if 0 in used and used <= set(range(len(names))):
        why = f"; they look like labels 0..{len(names) - 1}, results have the ids of the categories"
    given = shown(record.get("category_id"))
    return f"category id {given} is not in the ground truth; known are {some(names)}{why}"


def _box_and_score(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    box, score = record.get("bbox"), record.get("score")
    if box is None:
        box = outline_box(record.get("segmentation"))
        if box is None:
            raise DataError(
                f"{where}needs bbox [x, y, width, height] (it has none, and no segmentation that "
                "outlines anything)"
            )
    given = [as_number(each) for each in box] if isinstance(box, list | tuple) else []
    sides = [each for each in given if each is not None and math.isfinite(each)]
    if len(given) != 4 or len(sides) != 4 or min(sides[2:]) < 0:
        raise DataError(
            f"{where}needs bbox [x, y, width, height], all finite and no side below 0, not "
            f"{shown(box)}"
        )
    number = as_number(score)
    if number is None or not -_ROUNDING <= number <= 1 + _ROUNDING:
        advice = "; divide percents by 100" if number is not None and 1 < number <= 100 else ""
        raise DataError(f"{where}needs a number in 0..1 as score, not {shown(score)}{advice}")
    return {"bbox": sides, "score": number}


class _ImageIds:
    """The ids of a ground truth's images, by number or by name."""

    def __init__(self, images: Sequence[Mapping[str, Any]]):
        self._numbers = {image["id"] for image in images}
        self._images = images
        self._names: dict[str, int | None] | None = None

    def of(self, record: Mapping[str, Any], where: str) -> int:
        """The image of a result.

        Raises:
            DataError: it is not in the ground truth, or its name fits several images.
        """
        number = as_integer(record.get("image_id"))
        if number in self._numbers and number is not None:
            return number
        for name in _NAME_FIELDS:
            if isinstance(record.get(name), str):
                found = self._named(record[name], where)
                if found is not None:
                    return found
        given = next((record[name] for name in _NAME_FIELDS if record.get(name) is not None), None)
        if given is None:
            raise DataError(f"{where}names no image; image_id is the annotation file's, or a name")
        raise DataError(
            f"{where}image {shown(given)} is not in the ground truth; known are the ids "
            f"{some(self._numbers)} and the images' file names"
        )

    def _named(self, name: str, where: str) -> int | None:
        """By the longest end of the path that is known, with or without the suffix."""
        if self._names is None:
            self._names = self._all_names()
        parts = posixpath.normpath(name.strip().replace("\\", "/")).split("/")
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            if end in self._names:
                found = self._names[end]
                if found is None:
                    raise DataError(f"{where}several images are called {shown(end)}; use their ids")
                return found
        return None

    def _all_names(self) -> dict[str, int | None]:
        """Every end of each image's path, and its id where that is a name; None: of several."""
        names: dict[str, int | None] = {}
        for image in self._images:
            for name in set(_ends(image)):
                names[name] = image["id"] if name not in names else None
        for image in self._images:
            if "name" in image:  # an id tells images apart, whatever the files are called
                names[image["name"]] = image["id"]
        return names


def _ends(image: Mapping[str, Any]) -> Iterator[str]:
    parts = PurePosixPath(str(image.get("file_name", ""))).parts
    for start in range(len(parts)):
        end = PurePosixPath(*parts[start:])
        yield end.as_posix()
        yield end.with_suffix("").as_posix()


# Units


def _check_units(
    records: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
) -> None:
    """Refuse boxes in other units than COCO's, which would score nothing."""
    sizes = {
        image["id"]: (float(image["height"]), float(image["width"]))
        for image in images
        if image.get("height") and image.get("width")
    }
    records = [record for record in records if record["image_id"] in sizes]
    records = records[:: 1 + len(records) // _LOOKED_AT]
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    of_images = np.array([sizes[record["image_id"]] for record in records]).reshape(-1, 2)
    pairs = _best_and_truth(records, annotations, sizes)
    found = find_foreign_units(boxes, of_images)
    if found is not None and found.certain:
        names, evidence = found.names, found.evidence
        if pairs and found.units and found.units[0].scale in ("percent", "permille"):
            explained = max(_count_hits(pairs, units) for units in found.units)
            frame, hits = _frame_that_hits(pairs)
            names = frame if hits > explained else names
    else:
        names, evidence = _units_that_hit(pairs)
    if names:
        raise DataError(
            f"the boxes look like {names}: {evidence}; results have [x, y, width, height] in the "
            "pixels of the image files"
        )


_Floats = NDArray[np.float64]
_Pairs = list[tuple[_Floats, _Floats, _Floats]]
"""Of some images the best detections, the true boxes, and the size for each of the former."""


def _best_and_truth(
    records: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    sizes: Mapping[int, tuple[float, float]],
) -> _Pairs:
    """As many detections of an image as it has true boxes: the others need not hit anything."""
    true: dict[int, list[Any]] = defaultdict(list)
    for annotation in annotations:
        if annotation["image_id"] in sizes:
            true[annotation["image_id"]].append(annotation["bbox"])
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record["image_id"] in true:
            found[record["image_id"]].append(record)
    pairs: _Pairs = []
    for image_id in list(found)[:: 1 + len(found) // _COMPARED_IMAGES]:
        best = sorted(found[image_id], key=lambda record: -record["score"])[: len(true[image_id])]
        boxes = np.array([record["bbox"] for record in best], dtype=np.float64)
        truth = np.array(true[image_id], dtype=np.float64)
        pairs.append((boxes, truth, np.tile(sizes[image_id], (len(best), 1))))
    return pairs


def _units_that_hit(pairs: _Pairs) -> tuple[str, str]:
    """Units in which the best detections hit the truth that they miss as written; or nothing."""
    count = sum(len(boxes) for boxes, _, _ in pairs)
    as_written = _count_hits(pairs, COCO_UNITS)
    if count == 0 or as_written > _CHANCE * count:
        return "", ""
    hits = {str(units): _count_hits(pairs, units) for units in FOREIGN_UNITS}
    names = max(hits, key=lambda each: hits[each])
    frame, of_frame = _frame_that_hits(pairs)
    if of_frame > hits[names]:
        names, hits[frame] = frame, of_frame
    if hits[names] < max(_HIT * count, min(count, 3)) or as_written > _CHANCE * hits[names]:
        return "", ""
    return names, f"{hits[names]} of the {count} best hit a true box then, {as_written} as written"


def _frame_that_hits(pairs: _Pairs) -> tuple[str, int]:
    """The square of a model in whose pixels most boxes hit the truth, and how many do."""
    names, hits, most = "", 0, 0.0
    for side in _SQUARES:
        for words, convert in _FRAMES.items():
            overlaps = np.concatenate(
                [_overlaps(convert(boxes, size, side), truth) for boxes, truth, size in pairs]
            )
            if overlaps.sum() > most:
                names, most = f"pixels of the image {words} {side} x {side}", overlaps.sum()
                hits = int((overlaps > _HIT_IOU).sum())
    return names, hits


def _from_stretched(boxes: _Floats, sizes: _Floats, side: int) -> _Floats:
    return boxes * np.tile(sizes[:, ::-1], 2) / side


def _from_corner(boxes: _Floats, sizes: _Floats, side: int) -> _Floats:
    return np.asarray(boxes * (sizes.max(axis=1, keepdims=True) / side))


def _from_middle(boxes: _Floats, sizes: _Floats, side: int) -> _Floats:
    scaled = _from_corner(boxes, sizes, side)
    scaled[:, :2] -= (sizes.max(axis=1, keepdims=True) - sizes[:, ::-1]) / 2
    return scaled


_SQUARES = (
    224,
    256,
    320,
    384,
    416,
    448,
    480,
    512,
    518,
    560,
    608,
    640,
    672,
    768,
    800,
    896,
    1024,
    1280,
)
_FRAMES = {
    "stretched to": _from_stretched,
    "padded at the right or below to": _from_corner,
    "padded on both sides to": _from_middle,
}


def _count_hits(pairs: _Pairs, units: BoxUnits) -> int:
    return sum(
        int((_overlaps(xywh_pixels(boxes, size, units), truth) > _HIT_IOU).sum())
        for boxes, truth, size in pairs
    )


def _overlaps(boxes: _Floats, truth: _Floats) -> _Floats:
    """(K,): the best IoU of each of (K, 4) xywh boxes with one of (N, 4) true ones."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (truth[:, :2] + truth[:, 2:])[None])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    areas = np.clip(boxes[:, 2:], 0, None).prod(axis=1)[:, None] + truth[:, 2:].prod(axis=1)[None]
    return np.asarray((inter / np.maximum(areas - inter, 1e-9)).max(axis=1, initial=0.0))


def some(values: Iterable[Any], limit: int = 8) -> str:
    """The first of some values, and how many there are."""
    listed = list(values)
    text = ", ".join(str(value) for value in listed[:limit])
    return f"{text}, ... ({len(listed)} in all)" if len(listed) > limit else text
