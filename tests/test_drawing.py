"""Pictures with boxes: what can be seen in a crowd."""

import numpy as np
import pytest
import torch
from PIL import Image

from vpt.runs.box_files import Pictures
from vpt.runs.detection import BoxPrediction, best_per_object
from vpt.runs.drawing import COLOURS, draw_boxes
from vpt.structures import Detections

GREY = Image.new("RGB", (400, 300), (90, 90, 90))


def filled(picture: Image.Image, box: tuple[int, int, int, int]) -> float:
    """The share of a region that is not the background."""
    left, top, right, bottom = box
    region = np.asarray(picture)[top:bottom, left:right]
    return float((region != 90).any(axis=2).mean())


def test_a_caption__stands_above_its_box():
    picture = draw_boxes(GREY, [(100, 100, 200, 180)], [0], ["thing 0.87"])
    assert filled(picture, (101, 90, 150, 99)) == 1
    assert filled(picture, (110, 110, 190, 170)) == 0


def test_captions__hide_no_other_box_and_no_other_caption():
    stack = [(100.0, 100.0 + 3 * k, 180.0, 120.0 + 3 * k) for k in range(30)]
    texts = [f"a long name {k}" for k in range(30)]
    bare = draw_boxes(GREY, stack, [0] * 30, texts, shown="none")
    some = draw_boxes(GREY, stack, [0] * 30, texts)
    every = draw_boxes(GREY, stack, [0] * 30, texts, shown="all")
    counts = [(np.asarray(each) != np.asarray(bare)).any(axis=2).sum() for each in (some, every)]
    assert 0 < counts[0] < counts[1]


def test_a_caption__does_not_lie_on_a_small_box():
    small = (100.0, 86.0, 130.0, 99.0)  # where the caption would stand
    picture = draw_boxes(GREY, [(100, 100, 200, 180), small], [0, 1], ["thing 0.87", ""])
    assert filled(picture, (104, 90, 126, 95)) == 0
    assert filled(picture, (150, 90, 199, 98)) == 1


def test_captions__of_many_boxes_are_thin():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 1, (60, 2)) * [360, 260]
    boxes = np.concatenate([corners, corners + random.uniform(15, 40, (60, 2))], axis=1)
    labels = random.integers(0, 5, 60).tolist()
    bare = np.asarray(draw_boxes(GREY, boxes, labels, [""] * 60))
    drawn = np.asarray(draw_boxes(GREY, boxes, labels, ["class 0.50"] * 60))
    assert (bare == COLOURS[0]).all(axis=2).any()
    assert 0.02 < (drawn != bare).any(axis=2).mean() < 0.3


@pytest.mark.parametrize("shown", ["fit", "all", "none"])
def test_boxes__at_and_over_the_edge__are_drawn(shown):
    boxes = [(-5.0, -5.0, 50.0, 40.0), (380.0, 280.0, 410.0, 310.0), (0.0, 0.0, 400.0, 300.0)]
    picture = draw_boxes(GREY, boxes, [0, 1, 2], ["a" * 200, "b", "c"], shown=shown)
    assert picture.size == GREY.size
    assert draw_boxes(GREY, [], [], [], shown=shown).tobytes() == GREY.tobytes()


def test_best_per_object__keeps_one_box_of_each_place_over_all_classes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 5, 5], [50, 50, 60, 60]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 1]))
    assert best_per_object(found).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert len(best_per_object(found[:0])) == 0


def test_pictures__show_the_best_box_of_each_object__unless_told_otherwise(tmp_path):
    GREY.save(tmp_path / "a.png")
    boxes = torch.tensor([[50.0, 50, 150, 150], [60, 55, 155, 150], [200, 50, 250, 90]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]))
    changed = []
    for drawn, captions in (("best", "none"), ("all", "none"), ("all", "fit")):
        folder = tmp_path / f"{drawn}-{captions}"
        paths = [tmp_path / "a.png"]
        pictures = Pictures(folder, paths, ["x", "y", "z"], drawn=drawn, captions=captions)
        pictures.draw(BoxPrediction(paths[0], found))
        with Image.open(folder / "a.jpg") as picture:
            away = np.abs(np.asarray(picture).astype(int) - 90).max(axis=2)
        changed.append(int((away > 60).sum()))
    assert 0 < changed[0] < changed[1] < changed[2]
