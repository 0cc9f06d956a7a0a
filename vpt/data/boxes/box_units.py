"""What four numbers of a box mean: COCO's own [x, y, width, height] in pixels, or something else.

Tools write corners, centres, shares of the sides or thousandths under COCO's names. Such files read
without an error, and whatever is trained on them, or measured with them, is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from vpt.config import Schema

BoxLayout = Literal["xywh", "xyxy", "cxcywh", "yxyx", "yxhw"]
BoxScale = Literal["pixels", "share", "percent", "permille"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
N = TypeVar("N", float, Floats)


class BoxUnits(Schema):
    """What the numbers of `bbox` are.

    Attributes:
        layout: xywh, left and upper edge, width, height; xyxy, left, upper, right, lower edge;
            cxcywh, centre, width, height; yxyx and yxhw, the first two with y before x.
        scale: pixels; share, percent or permille: of the image's width and height.
    """

    layout: BoxLayout = "xywh"
    scale: BoxScale = "pixels"

    def __str__(self) -> str:
        return f"{_LAYOUTS[self.layout]} in {_SCALES[self.scale][1]}"

    @property
    def written(self) -> str:
        """As a descriptor has it."""
        scale = "" if self.scale == "pixels" else f", scale: {self.scale}"
        return f"{{layout: {self.layout}{scale}}}"

    def __hash__(self) -> int:
        return hash((self.layout, self.scale))


_LAYOUTS: dict[BoxLayout, str] = {
    "xywh": "[x, y, width, height]",
    "xyxy": "corners [x1, y1, x2, y2]",
    "cxcywh": "[centre x, centre y, width, height]",
    "yxyx": "corners with y first [y1, x1, y2, x2]",
    "yxhw": "[y, x, height, width] with y first",
}
_SCALES: dict[BoxScale, tuple[float, str]] = {
    "pixels": (np.nan, "pixels"),
    "share": (1.0, "shares (0..1) of the image's width and height"),
    "percent": (100.0, "percent (0..100) of the image's width and height"),
    "permille": (1000.0, "thousandths (0..1000) of the image's width and height"),
}
COCO_UNITS = BoxUnits()

_SHARE_ODD = 0.05  # so many boxes may be odd in any file
_OVER_PIXELS, _OVER_SIDE = 1.0, 0.05  # what may lie over the edge: rounding and haste
_OVER_SHARE, _FEWEST_SHARES = 0.01, 5
_AREA_OVER_BOX = 1.1  # an outline lies in its box, but for rounding
_SAME_AREA, _SAME_FEW_AREAS = 2e-3, 1e-6  # relative; of fewer than three boxes a coincidence counts
_ROUNDED_FROM = 10  # boxes, before areas count that are the boxes' but for a pixel
_DOUBT_FROM = 20  # boxes, before their mere position raises a doubt


@dataclass(frozen=True)
class ForeignUnits:
    """What a set of boxes looks like instead of COCO's units.

    Attributes:
        units: which explain the boxes equally well, the most usual first; none where the boxes
            contradict COCO's units and nothing else explains them.
        evidence: in words.
        certain: a contradiction, not just an odd picture that could be right.
    """

    units: tuple[BoxUnits, ...]
    evidence: str
    certain: bool = True

    @property
    def names(self) -> str:
        """The units in words, of one scale as all of them are."""
        if not self.units:
            return "a mixture of units, or one that is not known"
        layouts = " or ".join(_LAYOUTS[each.layout] for each in self.units)
        return f"{layouts} in {_SCALES[self.units[0].scale][1]}"


def xywh_pixels(boxes: Floats, sizes: Floats, units: BoxUnits) -> Floats:
    """Boxes of any units as COCO's.

    Args:
        boxes: (K, 4) as written.
        sizes: (K, 2) height and width of each box's image in pixels.
        units: of the boxes.
    """
    return _scaled(as_xywh(boxes, units.layout), sizes, units.scale)


def as_xywh(boxes: Floats, layout: BoxLayout) -> Floats:
    """(K, 4) left, upper edge, width and height, in the scale that the boxes have."""
    a, b, c, d = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    return np.stack(edges_and_sides(layout, a, b, c, d), axis=1)


def edges_and_sides(layout: BoxLayout, a: N, b: N, c: N, d: N) -> tuple[N, N, N, N]:
    """Left, upper edge, width and height of the four numbers of a box, or of four columns."""
    match layout:
        case "xywh":
            return a, b, c, d
        case "xyxy":
            return a, b, c - a, d - b
        case "cxcywh":
            return a - c / 2, b - d / 2, c, d
        case "yxyx":
            return b, a, d - b, c - a
        case "yxhw":
            return b, a, d, c


def _scaled(boxes: Floats, sizes: Floats, scale: BoxScale) -> Floats:
    if scale == "pixels":
        return boxes
    return boxes * np.tile(sizes[:, ::-1], 2) / _SCALES[scale][0]


def find_foreign_units(
    boxes: Floats, sizes: Floats, areas: Floats | None = None
) -> ForeignUnits | None:
    """What boxes look like where they do not look like COCO's; None: nothing speaks against those.

    Boxes that lie inside of their images, are larger than a pixel and have areas that fit into them
    are never accused: their place alone raises a doubt at most (`certain` is False).

    Args:
        boxes: (K, 4) as written; rows that are not finite or hold no box are passed over.
        sizes: (K, 2) height and width of each box's image in pixels.
        areas: (K,) as written, NaN where there is none; None: there are none at all.
    """
    areas = np.full(len(boxes), np.nan) if areas is None else areas
    usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    places = np.flatnonzero(usable)
    if len(places) == 0:
        return None
    seen = _Seen(boxes[places], sizes[places], areas[places])
    return seen.in_shares() or seen.by_area() or seen.by_edges() or seen.doubt()


def find_other_layout(boxes: Floats, units: BoxUnits) -> tuple[BoxUnits, int] | None:
    """What boxes in shares look like where many reach out of their images, and how many do.

    Args:
        boxes: (K, 4) as written, finite.
        units: that their format has, in shares.

    Returns:
        None: fewer than five boxes, or nothing speaks against these units, or for others.
    """
    if len(boxes) < _FEWEST_SHARES:
        return None
    wrong = int((~_fits_shares(boxes, units.layout)).sum())
    if not _many(wrong, len(boxes)):
        return None
    others: tuple[BoxLayout, ...] = ("xyxy", "xywh", "yxyx")
    counts = {layout: int(_fits_shares(boxes, layout).sum()) for layout in others}
    layout = max(counts, key=lambda each: counts[each])
    if not _most(counts[layout], len(boxes)):
        return None
    return BoxUnits(layout=layout, scale=units.scale), wrong


def _fits_shares(boxes: Floats, layout: BoxLayout) -> Bools:
    """(K,): boxes that have sides and lie in 0..1, or nearly do: people draw over the edge."""
    xywh = as_xywh(boxes, layout)
    sides = xywh[:, 2:]
    over = np.maximum(-xywh[:, :2], xywh[:, :2] + sides - 1)
    inside = (over <= _OVER_SHARE + _OVER_SIDE * np.abs(sides)).all(axis=1)
    return np.asarray(inside & (sides > 0).all(axis=1))


def _most(count: int, total: int) -> bool:
    """Whether all but a few are so: one of four or more, or 5 %."""
    return count >= total - max(int(total >= 4), int(_SHARE_ODD * total))


def _many(count: int, total: int) -> bool:
    """Whether more are so than can be odd in any file."""
    return count == total or (count >= 2 and count > _SHARE_ODD * total)


class _Seen:
    """Boxes, and how well each of the units explains them.

    Args:
        boxes: (K, 4) as written, finite, with the last two numbers above zero.
        sizes: (K, 2) height and width of the images.
        areas: (K,) NaN where there is none.
    """

    def __init__(self, boxes: Floats, sizes: Floats, areas: Floats):
        self.boxes, self.sizes, self.areas = boxes, sizes, areas
        self.has_area = np.isfinite(areas) & (areas > 0)

    def __len__(self) -> int:
        return len(self.boxes)

    def in_shares(self) -> ForeignUnits | None:
        """Boxes within the first pixel of their images are shares."""
        in_pixel = ((self.boxes >= -1e-3) & (self.boxes <= 1.001)).all(axis=1)
        in_pixel &= self.sizes.min(axis=1) > 2
        count = int(in_pixel.sum())
        if count == 0 or not _many(count, len(self)):
            return None
        if not _most(count, len(self)):
            evidence = f"{count:,} of {len(self):,} boxes lie within 0..1, the others do not"
            return ForeignUnits((), evidence)
        shares = _Seen(self.boxes[in_pixel], self.sizes[in_pixel], self.areas[in_pixel])
        fits = {units: int(shares.fits(units).sum()) for units in _of_scale("share")}
        return ForeignUnits(_best(fits), f"{count:,} of {len(self):,} boxes lie within 0..1")

    def by_area(self) -> ForeignUnits | None:
        """Areas that are not those of COCO's boxes, and exactly those of other units."""
        other = self.has_area & ~self._has_area_of(COCO_UNITS, 1e-2)
        count = int(other.sum())
        if count == 0 or 2 * count < self.has_area.sum():
            return None
        tolerance = _SAME_AREA if count >= 3 else _SAME_FEW_AREAS
        hits: dict[BoxUnits, int] = {}
        for units in FOREIGN_UNITS:
            same = int((other & self._has_area_of(units, tolerance)).sum())
            if units.scale == "pixels" and count >= _ROUNDED_FROM:
                same = max(same, int((other & self._has_rounded_area_of(units)).sum()))
            fitting = int(self.fits(units).sum())
            if same and _most(same, count) and _most(fitting, len(self)):
                hits[units] = same + fitting
        if hits:
            evidence = f"{count:,} of {int(self.has_area.sum()):,} areas are those of such boxes"
            return ForeignUnits(_best(hits), evidence)
        larger = int((self.has_area & ~self._holds_area(COCO_UNITS)).sum())
        if larger >= 2 and 2 * larger > self.has_area.sum():
            found = self.by_edges()
            likely = found.units if found is not None else ()
            return ForeignUnits(
                likely,
                f"{larger:,} of {int(self.has_area.sum()):,} areas are larger than the boxes",
            )
        return None

    def by_edges(self) -> ForeignUnits | None:
        """Boxes that reach out of their images, and do not in other units."""
        product = self.boxes[:, 2:].prod(axis=1)
        if (derived := np.abs(self.areas - product) <= _SAME_AREA * product).any():
            # Whoever multiplied the last two numbers need not have known that they are corners.
            return _Seen(self.boxes, self.sizes, np.where(derived, np.nan, self.areas)).by_edges()
        wrong = int((~self.fits(COCO_UNITS)).sum())
        # A hasty box reaches over the edge, but none begins beyond it; and thousandths are a scale
        # in which nearly any box has room.
        beyond = int((self.boxes[:, :2] >= self.sizes[:, ::-1]).any(axis=1).sum())
        fits: dict[BoxUnits, int] = {}
        for units in FOREIGN_UNITS:
            count = int(self.fits(units).sum())
            contradicting = wrong if units.scale == "pixels" else beyond
            if count and _most(count, len(self)) and _many(contradicting, len(self)):
                fits[units] = count
        if not fits:
            return None
        evidence = f"{wrong:,} of {len(self):,} boxes reach out of their images"
        return ForeignUnits(_best(fits), f"{evidence} as [x, y, width, height] in pixels")

    def doubt(self) -> ForeignUnits | None:
        """Boxes that could be COCO's, but lie as those of other units do."""
        wrong, centred = ~self.fits(COCO_UNITS), BoxUnits(layout="cxcywh")
        if wrong.sum() >= 3 and self.fits(centred).all():
            evidence = f"{int(wrong.sum()):,} of {len(self):,} boxes reach out of their images"
            return ForeignUnits((centred,), f"{evidence}, and none would", certain=False)
        if len(self) < _DOUBT_FROM:
            return None
        wide: dict[BoxScale, int] = {"percent": 200, "permille": 2000}
        for scale, least in wide.items():
            top = _SCALES[scale][0]
            far = 0.75 * top <= self.boxes.max() <= 1.001 * top
            if far and self.boxes.min() >= 0 and self.sizes.min() >= least:
                fits = {units: int(self.fits(units).sum()) for units in _of_scale(scale)}
                fits = {units: count for units, count in fits.items() if count == len(self)}
                if fits:
                    evidence = f"no number of {len(self):,} boxes is above {top:.0f}"
                    return ForeignUnits(_best(fits), evidence, certain=False)
        return None

    def fits(self, units: BoxUnits) -> Bools:
        """(K,): boxes that have sides, lie in their images and hold their areas."""
        boxes = xywh_pixels(self.boxes, self.sizes, units)
        sides = boxes[:, 2:]
        over = np.maximum(-boxes[:, :2], boxes[:, :2] + sides - self.sizes[:, ::-1])
        inside = (over <= _OVER_PIXELS + _OVER_SIDE * np.abs(sides)).all(axis=1)
        return inside & (sides > 0).all(axis=1) & (~self.has_area | self._holds_area(units))

    def _holds_area(self, units: BoxUnits) -> Bools:
        """(K,): an object's area is at most its box's."""
        areas = xywh_pixels(self.boxes, self.sizes, units)[:, 2:].prod(axis=1)
        within = self.areas <= _AREA_OVER_BOX * areas + 1
        if units.scale == "pixels":
            within |= self._has_rounded_area_of(units)
        return np.asarray(within | self._has_area_of(units, 1e-2))

    def _has_rounded_area_of(self, units: BoxUnits) -> Bools:
        """(K,): areas of the boxes before rounding, or of corners that both belong to the box."""
        sides = as_xywh(self.boxes, units.layout)[:, 2:]
        slack = np.abs(sides).sum(axis=1) + 1.5
        return np.asarray(np.abs(self.areas - sides.prod(axis=1)) <= slack)

    def _has_area_of(self, units: BoxUnits, tolerance: float) -> Bools:
        """(K,): areas that are the boxes', in pixels or in the units themselves."""
        written = as_xywh(self.boxes, units.layout)[:, 2:].prod(axis=1)
        pixels = xywh_pixels(self.boxes, self.sizes, units)[:, 2:].prod(axis=1)
        same = [np.abs(self.areas - area) <= tolerance * area for area in (written, pixels)]
        return np.asarray(same[0] | same[1])


def _of_scale(scale: BoxScale) -> tuple[BoxUnits, ...]:
    """All layouts; centres first where they are shares, as YOLO's are."""
    first = ("cxcywh", "xyxy") if scale == "share" else ("xywh", "xyxy")
    layouts = sorted(get_args(BoxLayout), key=lambda layout: layout not in first)
    if scale == "share":
        layouts.sort(key=lambda layout: layout != "cxcywh")
    return tuple(BoxUnits(layout=layout, scale=scale) for layout in layouts)


FOREIGN_UNITS = tuple(
    units
    for scale in _SCALES
    if scale != "share"
    for units in _of_scale(scale)
    if units != COCO_UNITS
)
"""Pixels first: what explains boxes without another scale is taken before what needs one."""


def _best(scores: dict[BoxUnits, int]) -> tuple[BoxUnits, ...]:
    """Those of the highest score among the first one's scale, which wins over all later ones.

    One odd box must not lead from pixels to thousandths, which nearly any box is within.
    """
    scale = next(iter(scores)).scale
    top = max(score for units, score in scores.items() if units.scale == scale)
    return tuple(units for units, score in scores.items() if (units.scale, score) == (scale, top))
