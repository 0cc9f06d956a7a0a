"""The lines of YOLO's label files: 'class cx cy w h', and what else tools write there.

The class is an index from 0, the rest are shares of the image's sides. Outlines ('class x1 y1 x2 y2
...', oriented boxes too) become the boxes around them; of poses the key points are passed over, of
predictions the score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from vpt.data.boxes.box_units import BoxUnits, edges_and_sides
from vpt.data.readers.parts import shown

YOLO_UNITS = BoxUnits(layout="cxcywh", scale="share")
_ROUNDING = 0.01  # of a side: how far a share may be outside of 0..1

Box = tuple[float, float, float, float]


class LineError(Exception):
    """A line that cannot be used: the kind of finding, and why."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def read_numbers(
    numbers: Sequence[float],
    *,
    units: BoxUnits = YOLO_UNITS,
    point_values: int | None = None,
) -> tuple[int, Box]:
    """(class, xywh) of the numbers in a line, in the scale that they have.

    Args:
        numbers: the class, and a box, an outline, a pose, or a box and its score.
        units: of a box.
        point_values: numbers for each key point of a pose, 2 or 3; None: no poses are expected.

    Raises:
        LineError: they are none of these.
    """
    label, values = numbers[0], numbers[1:]
    if not all(map(math.isfinite, numbers)):
        raise LineError("box_not_finite", f"{_written(numbers)} is not finite")
    if not label.is_integer() or not 0 <= label < 2**31:
        raise LineError("unknown_category", f"class {label:g} is no index of a class")
    if len(values) < 4:
        raise LineError("box_malformed", f"{_written(numbers)} is not 'class cx cy w h'")
    if _is_outline(values, point_values):
        if len(values) % 2:
            text = f"{len(values)} numbers are neither a box, pairs of an outline nor a pose"
            raise LineError("box_malformed", text)
        _check_scale(values, units)
        xs, ys = values[0::2], values[1::2]
        left, top = min(xs), min(ys)
        return int(label), (left, top, max(xs) - left, max(ys) - top)
    _check_scale(values[:4], units)
    box = edges_and_sides(units.layout, *values[:4])
    if min(box[2:]) < 0:
        raise LineError("box_negative", f"{_written(numbers)} has a negative side")
    return int(label), box


def _written(numbers: Sequence[float]) -> str:
    return "'" + " ".join(f"{number:g}" for number in numbers[:6]) + "'"


def _is_outline(values: Sequence[float], point_values: int | None) -> bool:
    """Whether numbers are the points of an outline, not a box and perhaps what follows it."""
    if len(values) <= 5:  # a box, or a box and its score
        return False
    rest = len(values) - 4
    if point_values is not None and rest % point_values == 0:
        return False
    # key points with their visibility, which is 0, 1 or 2
    return rest % 3 != 0 or any(value not in (0, 1, 2) for value in values[6::3])


def _check_scale(values: Sequence[float], units: BoxUnits) -> None:
    """Shares of the sides are in 0..1."""
    outside = [value for value in values if not -_ROUNDING <= value <= 1 + _ROUNDING]
    if outside and units.scale == "share":
        text = f"{outside[0]:g} is no share of the image's side, which is in 0..1"
        if max(values) > 2:  # not just a line that someone moved over the edge
            pixels = BoxUnits(layout=units.layout).written
            text += f"; if these are pixels, write 'box_units: {pixels}' in the descriptor"
        raise LineError("box_not_relative", text)


_NUMBER = re.compile(
    r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf)", re.I
)


def numbers_of(line: str) -> tuple[list[float], bool]:
    """The numbers of a line, and whether commas stood between them or in them.

    Raises:
        LineError: there is something else.
    """
    commas = "," in line
    words = line.split()
    if commas and len(words) >= 5 and all(re.fullmatch(r"[^,]+(,[^,]+)?", word) for word in words):
        words = [word.replace(",", ".") for word in words]  # 0,5 for 0.5
    elif commas:
        words = line.replace(",", " ").split()
    for word in words:
        if not _NUMBER.fullmatch(word):
            raise LineError("box_malformed", f"{shown(word)} is no number")
    if not words:
        raise LineError("box_malformed", "no numbers")
    return [float(word) for word in words], commas
