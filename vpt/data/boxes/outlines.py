"""The box of a COCO segmentation: polygons, or runs of pixels (RLE), compressed or not.

Nothing is drawn: a file may claim any size of mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

_LARGEST_MASK = 2**40  # pixels; more is damage


def outline_box(segmentation: Any) -> Box | None:
    """The smallest box around a segmentation; None where it outlines nothing.

    Args:
        segmentation: as in an annotation: a list of polygons, each [x1, y1, x2, y2, ...] or
            [[x1, y1], ...], or one of them alone; or an object {size: [height, width], counts}.
    """
    if isinstance(segmentation, dict):
        return _runs_box(segmentation)
    if isinstance(segmentation, list):
        return _polygons_box(segmentation)
    return None


# Polygons


def _polygons_box(polygons: list[Any]) -> Box | None:
    """Of those with at least three points; damaged ones beside good ones are passed over."""
    nested = any(isinstance(each, list) for each in polygons)
    pairs = all(isinstance(each, list) and len(each) == 2 for each in polygons)
    alone = [polygons] if pairs or not nested else polygons
    found = [points for each in alone if (points := _points(each)) is not None]
    if not found:
        return None
    points = np.concatenate(found)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return _box(left, top, right, bottom)


def _points(polygon: Any) -> NDArray[np.float64] | None:
    """(N, 2) of a polygon with three points or more; None where it is damaged."""
    if not isinstance(polygon, list):
        return None
    flat = polygon
    if polygon and isinstance(polygon[0], list):
        if any(not isinstance(point, list) or len(point) != 2 for point in polygon):
            return None
        flat = [value for point in polygon for value in point]
    if len(flat) < 6 or len(flat) % 2 or not all(type(value) in (int, float) for value in flat):
        return None
    try:
        points = np.array(flat, dtype=np.float64).reshape(-1, 2)
    except OverflowError:
        return None
    return points if np.isfinite(points).all() else None


# Runs


def _runs_box(mask: dict[str, Any]) -> Box | None:
    """Runs of pixels go down the columns, outside and inside alternately, outside first."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
        return None
    height, width = size
    if min(height, width) < 1 or height * width > _LARGEST_MASK:
        return None
    runs = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(type(run) is not int or run < 0 for run in runs):
        return None
    if sum(runs) > height * width:
        return None
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    starts, ends = ends[:-1:2], ends[1::2]  # of the runs inside
    starts, ends = starts[ends > starts], ends[ends > starts]
    if len(starts) == 0:
        return None
    first, last = starts // height, (ends - 1) // height  # columns
    turns = first != last  # a run that goes on in another column touches both edges
    top = 0 if turns.any() else int((starts % height).min())
    bottom = height if turns.any() else int(((ends - 1) % height).max()) + 1
    return _box(int(first.min()), top, int(last.max()) + 1, bottom)


def _decoded(text: str) -> list[int] | None:
    """The runs of a compressed mask; None where it is damaged.

    COCO's encoding: five bits a character, counted from '0', the lowest first; the sixth says that
    more follow. The number is signed; from the third run on it is the difference to the run two
    places before. (The masks of pycocotools.)
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def _box(left: float, top: float, right: float, bottom: float) -> Box | None:
    sides: Sequence[float] = (right - left, bottom - top)
    if min(sides) <= 0 or not all(map(math.isfinite, sides)):
        return None
    return float(left), float(top), float(sides[0]), float(sides[1])
