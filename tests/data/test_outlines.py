import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as masks

from vpt.data.boxes.outlines import outline_box


@pytest.mark.parametrize(
    "polygons",
    [
        [[10, 20, 40, 25, 30, 60.5]],
        [10, 20, 40, 25, 30, 60.5],
        [[[10, 20], [40, 25], [30, 60.5]]],
        [[10, 20], [40, 25], [30, 60.5]],
        [[10, 20, 12, 20, 12, 25], [40, 25, 30, 60.5, 35, 35]],
        [[10, 20, 40, 25, 30, 60.5], [1, 2], None, [1, 2, 3, "x", 5, 6]],
    ],
)
def test_outline_box__of_polygons__holds_all_their_points(polygons):
    assert outline_box(polygons) == (10, 20, 30, 40.5)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "",
        [],
        [[]],
        {},
        [[1, 2, 3, 4]],
        [[5, 5, 5, 9, 5, 7]],
        [[1, 2, float("nan"), 4, 5, 6]],
        [[1, 2, 10**400, 4, 5, 6]],
        [[True, 2, 3, 4, 5, 6]],
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 5], "counts": [0, 21]},
        {"size": [4, 5], "counts": [3, -1, 4]},
        {"size": [4, 5], "counts": [1.5, 2]},
        {"size": [0, 5], "counts": [0, 1]},
        {"size": [2**30, 2**30], "counts": [0, 2**59]},
        {"size": [4], "counts": [3, 2]},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5], "counts": "a"},
        {"size": [4, 5], "counts": "é~"},
        {"size": [4, 5], "counts": "o" * 1000},
    ],
)
def test_outline_box__of_nothing_or_damage__is_none(segmentation):
    assert outline_box(segmentation) is None


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))
)
def test_outline_box__of_runs__is_pycocotools_box(mask):
    encoded = masks.encode(np.asfortranarray(mask))
    compressed = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    plain = {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}
    expected = tuple(masks.toBbox(encoded).tolist()) if mask.any() else None
    assert outline_box(compressed) == expected
    assert outline_box(plain) == expected


def test_outline_box__of_long_runs__is_pycocotools_box():
    mask = np.zeros((700, 900), np.uint8)
    mask[100:600, 33:850] = 1
    mask[0:3, 890:] = 1
    encoded = masks.encode(np.asfortranarray(mask))
    compressed = {"size": [700, 900], "counts": encoded["counts"].decode()}
    assert outline_box(compressed) == tuple(masks.toBbox(encoded).tolist())


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_outline_box__of_any_values__does_not_fail(value):
    outline_box(value)
    outline_box({"size": [6, 6], "counts": value})
