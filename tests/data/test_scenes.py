"""Composed pictures: the boxes are the digits', the files read back, scans stay in their split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt.data import (
    SceneSettings,
    load_descriptor,
    read_detection,
    read_image,
    read_splits,
    write_scenes,
)
from vpt.data.scenes import compose

ROOT = Path(__file__).parents[2]
SCENES = SceneSettings(96, (2, 5), (20.0, 48.0), {"train": 30, "val": 2, "test": 3})


@pytest.fixture(scope="module")
def digits():
    return read_splits(load_descriptor(ROOT / "datasets/digits.yaml"))


def test_written_scenes__read_back_without_findings__the_same_each_time(digits, tmp_path):
    first = write_scenes(digits, SCENES, tmp_path / "first")
    again = write_scenes(digits, SCENES, tmp_path / "again")
    splits = read_detection(load_descriptor(first))
    assert [len(splits.require(name)) for name in ("train", "val", "test")] == [30, 2, 3]
    assert splits.class_names == tuple("0123456789")
    assert splits.findings == ()
    for one, other in zip(
        splits.require("train").samples,
        read_detection(load_descriptor(again)).require("train").samples,
        strict=True,
    ):
        assert one.source.read_bytes() == other.source.read_bytes()
        assert read_image(one.source).size == (96, 96)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        assert 1 <= len(one.boxes) <= 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_boxes__lie_inside__and_cover_little_of_each_other(digits, seed):
    pixels, boxes, labels = compose(digits.require("val"), SCENES, np.random.default_rng(seed))
    assert pixels.shape == (96, 96, 3)
    assert len(boxes) == len(labels) >= 1
    for row, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 96
        for other in boxes[:row]:
            width = min(right, other[2]) - max(left, other[0])
            height = min(bottom, other[3]) - max(top, other[1])
            smaller = min(
                (right - left) * (bottom - top), (other[2] - other[0]) * (other[3] - other[1])
            )
            assert max(0, width) * max(0, height) <= 0.3 * smaller


def test_a_box__holds_all_that_its_digit_changed(digits):
    one = SceneSettings(96, (1, 1), (40.0, 40.0), {"val": 1})
    for seed in range(5):
        drawn, boxes, _ = compose(digits.require("val"), one, np.random.default_rng(seed))
        ((left, top, right, bottom),) = boxes
        inside = drawn[top:bottom, left:right].astype(float).std()
        outside = drawn[:, : max(left, 1)].astype(float).std(axis=(0, 1)).mean()
        assert inside > outside
