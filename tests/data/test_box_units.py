import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vpt.data.boxes.box_units import (
    COCO_UNITS,
    BoxUnits,
    as_xywh,
    find_foreign_units,
    xywh_pixels,
)

SCALES = {"share": 1, "percent": 100, "permille": 1000}
FOREIGN = [
    BoxUnits(layout=layout, scale=scale)
    for layout in ("xywh", "xyxy", "cxcywh", "yxyx", "yxhw")
    for scale in ("pixels", "share", "percent", "permille")
    if (layout, scale) != ("xywh", "pixels")
]


def written(boxes, sizes, units: BoxUnits):
    """(K, 4) COCO's boxes as another tool writes them."""
    x, y, w, h = boxes.T
    columns = {
        "xywh": (x, y, w, h),
        "xyxy": (x, y, x + w, y + h),
        "cxcywh": (x + w / 2, y + h / 2, w, h),
        "yxyx": (y, x, y + h, x + w),
        "yxhw": (y, x, h, w),
    }[units.layout]
    sides = np.tile(sizes[:, ::-1], 2)
    if units.layout in ("yxyx", "yxhw"):
        sides = sides[:, [1, 0, 3, 2]]
    boxes = np.stack(columns, axis=1)
    return boxes if units.scale == "pixels" else boxes / sides * SCALES[units.scale]


@st.composite
def true_boxes(draw, least=1, most=12, smallest=2.0):
    """COCO's boxes inside of images of many sizes, and the shares of them that objects fill."""
    count = draw(st.integers(least, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = random.integers(8, 2000, (count, 2)).astype(float)
    if draw(st.booleans()):
        sizes[:] = sizes[0]
    sides = sizes[:, ::-1]
    lengths = smallest + random.random((count, 2)) ** draw(st.integers(1, 4)) * (sides - smallest)
    corners = random.random((count, 2)) * (sides - lengths)
    boxes = np.concatenate([corners, lengths], axis=1)
    if draw(st.booleans()):
        boxes = np.maximum(np.floor(boxes), [0, 0, 2, 2])
    filled = random.uniform(0.01, 1, count) if draw(st.booleans()) else np.ones(count)
    return boxes, sizes, filled


@settings(max_examples=60)
@given(true_boxes(), st.booleans())
def test_boxes_of_coco__are_never_accused(case, with_areas):
    boxes, sizes, filled = case
    areas = boxes[:, 2:].prod(axis=1) * filled if with_areas else None
    found = find_foreign_units(boxes, sizes, areas)
    assert found is None or not found.certain


@settings(max_examples=60)
@given(true_boxes(smallest=3.0), st.sampled_from(FOREIGN))
def test_foreign_boxes_with_true_areas__are_named_where_the_areas_tell(case, units):
    boxes, sizes, _ = case
    areas = boxes[:, 2:].prod(axis=1)
    foreign = written(boxes, sizes, units)
    assert xywh_pixels(foreign, sizes, units) == pytest.approx(boxes)
    other = np.abs(foreign[:, 2:].prod(axis=1) / areas - 1) > 0.05
    assume(other.all())
    found = find_foreign_units(foreign, sizes, areas)
    assert found is not None
    assert found.certain
    assert units in found.units


@settings(max_examples=60)
@given(true_boxes(smallest=3.0), st.sampled_from(FOREIGN))
@example((np.array([[40.0, 30, 20, 20]]), np.array([[60.0, 80]]), np.ones(1)), FOREIGN[0])
def test_foreign_boxes_without_areas__are_named_where_they_cannot_be_coco(case, units):
    boxes, sizes, _ = case
    foreign = written(boxes, sizes, units)
    assume(units.scale == "share" or (foreign[:, :2] > sizes[:, ::-1] * 1.2).any(axis=1).all())
    found = find_foreign_units(foreign, sizes)
    assert found is not None
    assert found.certain
    if units.scale == "share":
        assert {each.scale for each in found.units} == {"share"}
    else:
        back = xywh_pixels(foreign, sizes, found.units[0])
        assert (back[:, 2:] > 0).all()
        assert (back[:, :2] + back[:, 2:] <= sizes[:, ::-1] * 1.06 + 2).all()


def spread(count: int, seed: int = 0, size=(480, 640), side=(20, 90)):
    random = np.random.default_rng(seed)
    sizes = np.tile(np.array(size, dtype=float), (count, 1))
    lengths = random.integers(*side, (count, 2)).astype(float)
    corners = np.floor(random.random((count, 2)) * (sizes[:, ::-1] - lengths))
    return np.concatenate([corners, lengths], axis=1), sizes


@pytest.mark.parametrize("areas", ["true", "none"])
@pytest.mark.parametrize("units", FOREIGN, ids=str)
def test_foreign_boxes__all_over_an_image__are_named(units, areas):
    boxes, sizes = spread(60, size=(480, 800), side=(60, 300))
    true = boxes[:, 2:].prod(axis=1) if areas == "true" else None
    found = find_foreign_units(written(boxes, sizes, units), sizes, true)
    assert found is not None
    assert units in found.units
    turned = {"yxyx": "xyxy", "yxhw": "xywh"}  # in shares the sides do not tell which comes first
    if units.layout not in turned or units.scale == "pixels":
        assert found.units[0] == units
    assert found.certain == (areas == "true" or units.scale != "percent")


@pytest.mark.parametrize("count", [4, 5, 30, 400])
@pytest.mark.parametrize("units", FOREIGN, ids=str)
def test_foreign_boxes__are_named_although_one_is_coco(units, count):
    boxes, sizes = spread(count, size=(480, 800), side=(60, 300))
    foreign = written(boxes, sizes, units)
    foreign[-1] = boxes[-1]
    found = find_foreign_units(foreign, sizes, boxes[:, 2:].prod(axis=1))
    assert found is not None
    assert units in found.units


@pytest.mark.parametrize("odd", [[700, 10, 50, 50], [-300, 5, 20, 20], [0.1, 0.2, 0.3, 0.4]])
def test_boxes_of_coco__are_not_accused_for_an_odd_one(odd):
    boxes, sizes = spread(30)
    boxes[7] = odd
    assert find_foreign_units(boxes, sizes) is None


def test_boxes_that_hastily_reach_over_the_edge__are_not_accused():
    boxes, sizes = spread(40)
    boxes[::4, 0] = 640 - boxes[::4, 2] / 2
    assert find_foreign_units(boxes, sizes) is None


def test_corners_in_the_upper_left__are_named_by_their_areas_alone():
    boxes, sizes = spread(3, size=(480, 640), side=(10, 11))
    boxes[:, :2] %= 100
    found = find_foreign_units(
        written(boxes, sizes, BoxUnits(layout="xyxy")), sizes, np.full(3, 100)
    )
    assert found.units[0] == BoxUnits(layout="xyxy")
    assert found.evidence == "3 of 3 areas are those of such boxes"
    assert str(found.units[0]) == "corners [x1, y1, x2, y2] in pixels"


def test_shares_with_their_own_areas__are_named():
    boxes, sizes = spread(6)
    units = BoxUnits(layout="cxcywh", scale="share")
    shares = written(boxes, sizes, units)
    found = find_foreign_units(shares, sizes, shares[:, 2:].prod(axis=1))
    assert found.units[0] == units
    assert "shares (0..1)" in found.names


def test_areas_larger_than_the_boxes__contradict_even_where_nothing_explains_them():
    boxes, sizes = spread(6)
    found = find_foreign_units(boxes, sizes, boxes[:, 2:].prod(axis=1) * 7.3 + 100)
    assert (found.units, found.certain) == ((), True)
    assert found.names == "a mixture of units, or one that is not known"
    assert found.evidence == "6 of 6 areas are larger than the boxes"


def test_corners_that_both_belong_to_the_box__are_named_by_their_areas():
    boxes, sizes = spread(30, side=(10, 60))
    boxes[:, :2] %= 100
    areas = boxes[:, 2:].prod(axis=1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], axis=1)
    assert find_foreign_units(corners, sizes, areas).units[0] == BoxUnits(layout="xyxy")


def test_areas_multiplied_out_of_corners__do_not_hide_them():
    boxes, sizes = spread(30)
    corners = written(boxes, sizes, BoxUnits(layout="xyxy"))
    found = find_foreign_units(corners, sizes, corners[:, 2:].prod(axis=1))
    assert (found.units[0], found.certain) == (BoxUnits(layout="xyxy"), True)


def test_shares_beside_pixels__are_a_mixture():
    boxes, sizes = spread(20)
    boxes[::2] = written(boxes[::2], sizes[::2], BoxUnits(scale="share"))
    found = find_foreign_units(boxes, sizes)
    assert (found.units, found.certain) == ((), True)
    assert found.evidence == "10 of 20 boxes lie within 0..1, the others do not"


def test_nothing_to_look_at__is_no_accusation():
    assert find_foreign_units(np.zeros((0, 4)), np.zeros((0, 2))) is None
    assert find_foreign_units(np.zeros((9, 4)), np.full((9, 2), 100.0)) is None
    assert find_foreign_units(np.full((9, 4), np.nan), np.full((9, 2), 100.0)) is None


def test_as_xywh__keeps_coco_boxes():
    boxes, sizes = spread(5)
    assert as_xywh(boxes, "xywh").tolist() == boxes.tolist()
    assert xywh_pixels(boxes, sizes, COCO_UNITS).tolist() == boxes.tolist()
