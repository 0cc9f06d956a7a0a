"""Boxes between a file and the square that the model sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt.structures import DetectionBatch, DetectionTargets, Letterbox


def test_fit__lets_the_long_side_fill_the_square():
    wide, tall = Letterbox.fit((50, 100), 64), Letterbox.fit((100, 50), 64)
    assert wide.content_size == (32, 64)
    assert tall.content_size == (64, 32)
    assert wide.scale == tall.scale == 0.64


def test_the_files_corners__are_the_copys_corners__although_it_has_whole_pixels():
    letterbox = Letterbox.fit((333, 500), 64)
    assert letterbox.content_size == (43, 64)  # 42.6 rounded
    box = letterbox.to_letterboxed(torch.tensor([[0.0, 0.0, 500.0, 333.0]]))
    assert torch.allclose(box, torch.tensor([[0.0, 0.0, 64.0, 43.0]]))


def test_boxes__are_scaled_from_the_top_left__and_clipped_to_the_file():
    letterbox = Letterbox.fit((50, 100), 200)
    boxes = torch.tensor([[-3.0, 10.0, 20.0, 70.0]])
    assert torch.equal(letterbox.to_letterboxed(boxes), torch.tensor([[0.0, 20.0, 40.0, 100.0]]))
    in_padding = torch.tensor([[40.0, 90.0, 210.0, 150.0]])
    assert torch.equal(letterbox.to_original(in_padding), torch.tensor([[20.0, 45.0, 100.0, 50.0]]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 1024))
def test_the_way_back__gives_the_same_boxes__for_any_size(height, width, size):
    letterbox = Letterbox.fit((height, width), size)
    boxes = torch.rand(5, 4) * torch.tensor([width, height, width, height])
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)
    back = letterbox.to_original(letterbox.to_letterboxed(boxes))
    assert torch.allclose(back, boxes, rtol=1e-5, atol=1e-3)
    assert max(letterbox.content_size) == size


def test_no_boxes__stay_no_boxes():
    letterbox = Letterbox.fit((50, 100), 64)
    assert letterbox.to_original(torch.zeros(0, 4)).shape == (0, 4)
    assert letterbox.to_letterboxed(torch.zeros(0, 4)).shape == (0, 4)


def test_a_batch__goes_to_a_device_with_its_targets():
    targets = DetectionTargets(torch.zeros(0, 4), torch.zeros(0).long())
    letterboxes = (Letterbox.fit((8, 8), 8),)
    batch = DetectionBatch(torch.zeros(1, 3, 8, 8), (targets,), torch.arange(1), letterboxes)
    moved = batch.to(torch.device("meta"))
    assert moved.images.is_meta
    assert moved.targets[0].boxes.is_meta
    assert moved.targets[0].labels.is_meta
    assert moved.letterboxes == letterboxes


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1)])
def test_a_thin_file__keeps_at_least_one_row(size):
    assert min(Letterbox.fit(size, 64).content_size) == 1
