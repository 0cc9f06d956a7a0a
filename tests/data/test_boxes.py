import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.coco_files import coco_descriptor, draw_objects, make_coco
from tests.fixtures import make_image
from vpt.config import BoxTransformConfig, validate
from vpt.data.boxes.detection import DetectionSplit
from vpt.data.loading.detection_loader import (
    DetectionDataset,
    collate_detection,
    make_detection_loader,
)
from vpt.data.reading_boxes import read_detection
from vpt.data.sampling import EpochBatches
from vpt.data.transforms.boxes import (
    LetterboxedImage,
    box_evaluation_transform,
    box_training_transform,
)
from vpt.errors import ConfigError, DataError
from vpt.structures import DetectionBatch, Letterbox, Preprocess

SIDE = 128
UNIT = Preprocess((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GEOMETRY = BoxTransformConfig(color_jitter=0.0, min_visibility=0.0, min_side=0.0)


def rectangle(box: tuple[int, int, int, int], size=(200, 300)) -> tuple[Image.Image, np.ndarray]:
    """An image with a red object, and the object's box as (1, 4)."""
    image = draw_objects(size, [box], [0], np.random.default_rng(0))
    return image, np.array([box], dtype=np.float64)


def extent(image: torch.Tensor) -> list[float] | None:
    """xyxy of what is red in (3, S, S), in pixels; None where nothing is."""
    rows, columns = ((image[0] > 0.6) & (image[1] < 0.4)).nonzero().T
    if len(rows) == 0:
        return None
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    return [float(value) for value in (*low, *high)]


def assert_around(seen: LetterboxedImage) -> None:
    """The only box is where the red object is, to a pixel."""
    found = extent(seen.image)
    assert found is not None
    assert np.allclose(seen.boxes[0].tolist(), found, atol=1.01)


# Letterbox


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (128, 128), (31, 7), (1, 400)])
def test_evaluation__any_aspect__fills_the_longer_side_from_the_top_left(size):
    image = Image.new("RGB", (size[1], size[0]), (255, 255, 255))
    preprocess = Preprocess((SIDE, SIDE), (0.5, 0.25, 0.0), (1.0, 1.0, 1.0))
    seen = box_evaluation_transform(preprocess)(image)
    height, width = seen.letterbox.content_size
    assert seen.image.shape == (3, SIDE, SIDE)
    assert max(height, width) == SIDE
    assert torch.equal(
        seen.image[:, :height, :width],
        torch.tensor([0.5, 0.75, 1.0])[:, None, None].expand(3, height, width),
    )
    padding = torch.cat([seen.image[:, height:].flatten(1), seen.image[:, :, width:].flatten(1)], 1)
    assert (padding.abs() < 1 / 255).all()  # the mean colour, once normalised
    assert seen.letterbox.original_size == size
    assert seen.boxes.shape == (0, 4)


def test_evaluation__box__is_on_its_object():
    seen = box_evaluation_transform(UNIT)(*rectangle((100, 50, 180, 90)))
    assert_around(seen)
    assert seen.boxes.dtype == torch.float32
    assert seen.rows.tolist() == [0]
    assert seen.rows.dtype == torch.int64


def test_evaluation__shrinking__is_antialiased():
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert box_evaluation_transform(UNIT)(Image.fromarray(stripes)).image[..., 2:-2].std() < 0.02


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_letterbox__there_and_back__is_the_same_box(data):
    height, width = data.draw(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
    letterbox = Letterbox.fit((height, width), data.draw(st.integers(32, 1536)))
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(0, width)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(0, height)] * 2)))
    boxes = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64)
    placed = letterbox.to_letterboxed(boxes)
    assert (placed >= 0).all()
    assert (placed <= letterbox.size + 1e-9).all()
    assert torch.allclose(letterbox.to_original(placed), boxes, atol=1e-6)
    # As float32, as the model gives it: a thousandth of a pixel of the square.
    rough = letterbox.to_original(placed.float()).double()
    assert ((rough - boxes).abs() <= 1e-3 / letterbox.scale + 1e-3).all()


@pytest.mark.parametrize(
    "make",
    [box_evaluation_transform, partial(box_training_transform, options=BoxTransformConfig())],
)
def test_transform__size_that_is_no_square__is_refused(make):
    oblong = Preprocess((96, 128), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="96 x 128 is no square"):
        make(oblong)


def test_options__are_read_and_refused():
    assert validate(BoxTransformConfig, {"scale": [0.8, 1.2]}, "x").scale == (0.8, 1.2)
    for wrong in ({"scale": [2, 1]}, {"scale": [0, 1]}, {"hflip": 2}, {"mosaic": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            validate(BoxTransformConfig, wrong, "x")


# Augmentation


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (80, 80), (1000, 700)])
@pytest.mark.parametrize("scale", [(0.3, 0.9), (1.0, 1.0), (1.1, 3.0), (0.5, 2.0)])
def test_training__boxes__stay_on_their_objects(size, scale):
    height, width = size
    box = (width // 3, height // 4, width * 2 // 3, height // 2)
    image, boxes = rectangle(box, size)
    transform = box_training_transform(UNIT, GEOMETRY.model_copy(update={"scale": scale}))
    seen = 0
    for seed in range(40):
        result = transform(image, boxes, seed)
        if len(result.boxes):
            assert_around(result)
            seen += 1
        else:
            assert extent(result.image) is None
    assert seen >= 20


def test_training__with_colours__still_has_the_boxes_of_the_same_seed():
    image, boxes = rectangle((100, 50, 180, 90))
    plain = box_training_transform(UNIT, GEOMETRY)
    colourful = box_training_transform(UNIT, GEOMETRY.model_copy(update={"color_jitter": 0.5}))
    changed = 0
    for seed in range(10):
        a, b = plain(image, boxes, seed), colourful(image, boxes, seed)
        assert torch.equal(a.boxes, b.boxes)
        changed += not torch.equal(a.image, b.image)
    assert changed == 10


def test_training__flip__follows_its_probability():
    image, boxes = rectangle((0, 0, 100, 200))
    still = {"scale": (1.0, 1.0)}
    for hflip, share in ((0.0, 0), (1.0, 40), (0.5, 20)):
        options = GEOMETRY.model_copy(update={**still, "hflip": hflip})
        transform = box_training_transform(UNIT, options)
        flipped = sum(transform(image, boxes, seed).boxes[0, 0] > 1 for seed in range(40))
        assert abs(int(flipped) - share) <= (10 if hflip == 0.5 else 0)


def test_training__scale__is_spread_evenly_between_small_and_large():
    """Factors of 1/2 and 2 are as likely; the square is never left empty by a rounded size."""
    image, boxes = rectangle((0, 0, 300, 200))
    transform = box_training_transform(UNIT, GEOMETRY)
    scales = [transform(image, boxes, seed).letterbox.scale for seed in range(200)]
    factors = np.array(scales) * 300 / SIDE
    assert 0.5 <= factors.min() < 0.55
    assert 1.8 < factors.max() < 2.05
    assert 0.4 < (factors < 1).mean() < 0.6


def test_training__crop_and_flip__draw_independently():
    image, boxes = rectangle((0, 90, 300, 110))
    ramp = np.array(image)
    ramp[..., 2] = np.linspace(0, 255, 300).astype(np.uint8)
    options = GEOMETRY.model_copy(update={"scale": (1.2, 3.0)})
    transform = box_training_transform(UNIT, options)
    rows = torch.stack(
        [transform(Image.fromarray(ramp), boxes, seed).image[2, 40] for seed in range(400)]
    )
    flipped = (rows[:, 0] > rows[:, -1]).float()
    related = torch.corrcoef(torch.stack([flipped, rows.mean(1), (rows[:, 0] - rows[:, -1]).abs()]))
    assert 0.4 < flipped.mean() < 0.6
    assert related[0, 1:].abs().max() < 0.18  # 3.6 standard errors


def test_training__object_mostly_cut_off__is_no_target():
    image, boxes = rectangle((0, 0, 150, 200))
    strict = {"scale": (2.0, 2.0), "hflip": 0.0, "min_visibility": 0.5}
    transform = box_training_transform(UNIT, GEOMETRY.model_copy(update=strict))
    kept = [len(transform(image, boxes, seed).boxes) for seed in range(40)]
    visible = [extent(transform(image, boxes, seed).image) is not None for seed in range(40)]
    assert 0 < sum(kept) < sum(visible)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_training__whole_objects__are_targets__whatever_share_must_be_visible(share):
    stream = np.random.default_rng(0)
    corners = stream.uniform(0, 180, (50, 2))
    boxes = np.concatenate([corners, corners + stream.uniform(0.5, 20, (50, 2))], axis=1)
    options = BoxTransformConfig(scale=(0.5, 1.0), min_visibility=share, min_side=0.0)
    transform = box_training_transform(UNIT, options)
    for seed in range(5):
        assert len(transform(Image.new("RGB", (300, 200)), boxes, seed).rows) == 50


def test_training__boxes_shorter_than_min_side__are_no_targets():
    image, _ = rectangle((0, 0, 1, 1), (400, 400))
    boxes = np.array([[10.0, 10.0, 12.0, 200.0], [50.0, 50.0, 90.0, 90.0]])
    options = BoxTransformConfig(scale=(1.0, 1.0), min_side=2.0)
    seen = box_training_transform(UNIT, options)(image, boxes, 0)
    assert seen.rows.tolist() == [1]
    assert seen.rows.dtype == torch.int64


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (128, 128)])
def test_training__odd_image__works(size):
    image = make_image(0, (size[1], size[0]))
    boxes = np.array([[0.0, 0.0, size[1], size[0]]])
    transform = box_training_transform(UNIT, BoxTransformConfig())
    for seed in range(10):
        seen = transform(image, boxes, seed)
        assert seen.image.shape == (3, SIDE, SIDE)
        assert seen.boxes.shape[1] == 4


@pytest.mark.parametrize("name", ["jitter", "none"])
def test_training__no_boxes__stay_none(name):
    transform = box_training_transform(UNIT, BoxTransformConfig(name=name))
    seen = transform(make_image(0, (60, 50)), np.zeros((0, 4)), 3)
    assert seen.boxes.shape == (0, 4)
    assert seen.rows.shape == (0,)


def test_training__boxes_at_the_very_edge_and_without_size__raise_nothing():
    image = make_image(0, (60, 50))
    boxes = np.array([[0, 0, 60, 50], [59.9999, 0, 60.0, 50], [-1e-7, 0, 60.0000001, 50.0]])
    transform = box_training_transform(UNIT, BoxTransformConfig())
    for seed in range(20):
        seen = transform(image, boxes, seed)
        assert (seen.boxes[:, 2:] > seen.boxes[:, :2]).all()


def test_training__many_boxes__keep_their_rows():
    """Row numbers survive the pipeline, which turns labels into floats and drops boxes."""
    boxes = np.array([[x, y, x + 10, y + 10] for y in range(0, 200, 10) for x in range(0, 300, 10)])
    image = Image.new("RGB", (300, 200))
    options = BoxTransformConfig(scale=(1.5, 2.5), hflip=0.0, min_visibility=0.99)
    transform = box_training_transform(UNIT, options)
    for seed in range(5):
        seen = transform(image, boxes.astype(np.float64), seed)
        assert 0 < len(seen.rows) < len(boxes)
        assert (seen.rows.diff() > 0).all()
        kept = boxes[seen.rows.numpy()]
        shift = seen.boxes[:, :2].double() / seen.letterbox.scale - torch.from_numpy(kept[:, :2])
        assert (shift - shift[0]).abs().max() < 1.0


@pytest.mark.parametrize("name", ["jitter", "none"])
def test_training__inputs__are_left_alone(name):
    image, boxes = rectangle((10, 20, 70, 90))
    pixels, before = np.array(image), boxes.copy()
    boxes.flags.writeable = False
    transform = box_training_transform(UNIT, BoxTransformConfig(name=name))
    seen = transform(image, boxes, 1)
    seen.boxes.add_(5)
    assert np.array_equal(np.array(image), pixels)
    assert np.array_equal(boxes, before)


def test_training__same_seed__gives_the_same_bits_in_any_order():
    image, boxes = rectangle((10, 20, 70, 90))
    transform = box_training_transform(UNIT, BoxTransformConfig())
    first = {seed: transform(image, boxes, seed) for seed in range(6)}
    np.random.seed(1)
    for seed in (5, 3, 4, 0, 2, 1):
        again = transform(image, boxes, seed)
        assert torch.equal(again.image, first[seed].image)
        assert torch.equal(again.boxes, first[seed].boxes)
    assert len({seen.image.numpy().tobytes() for seen in first.values()}) == 6


# Data set and loader


@pytest.fixture
def split(tmp_path) -> DetectionSplit:
    root = make_coco(tmp_path, images=7)
    return read_detection(coco_descriptor(root)).require("train")


def epoch_of(
    split: DetectionSplit, *, epoch: int = 0, start: int = 0, workers: int = 0
) -> list[DetectionBatch]:
    batches = EpochBatches(len(split), 3, seed=5, epoch=epoch, start_batch=start)
    dataset = DetectionDataset(split, box_training_transform(UNIT, BoxTransformConfig()), seed=5)
    loader = make_detection_loader(dataset, batches, num_workers=workers, pin_memory=False)
    listed = list(loader)
    assert len(listed) == len(loader)
    return listed


def same(first: list[DetectionBatch], second: list[DetectionBatch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and a.letterboxes == b.letterboxes
        and all(
            torch.equal(x.boxes, y.boxes) and torch.equal(x.labels, y.labels)
            for x, y in zip(a.targets, b.targets, strict=True)
        )
        for a, b in zip(first, second, strict=True)
    )


def test_loader__larger_batches__come_in_no_more_tensors(split):
    dataset = DetectionDataset(split, box_training_transform(UNIT, BoxTransformConfig()), seed=5)
    counts = []
    for batch_size in (1, 7):
        batches = EpochBatches(len(split), batch_size, seed=5, epoch=0)
        loader = make_detection_loader(dataset, batches, num_workers=0, pin_memory=False)
        parts = loader._loader.collate_fn([dataset[item] for item in next(iter(batches))])
        counts.append(sum(isinstance(part, torch.Tensor) for part in parts))
        assert not any(
            isinstance(each, torch.Tensor)
            for part in parts
            if not isinstance(part, torch.Tensor)
            for each in part
        )
    assert counts == [5, 5]


def test_loader__one_epoch__has_every_image_with_its_targets(split):
    batches = epoch_of(split)
    assert [batch.images.shape[0] for batch in batches] == [3, 3, 1]
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(7))
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert len(batch.targets) == len(batch.letterboxes) == len(batch.indices)
        for targets in batch.targets:
            assert targets.boxes.shape == (len(targets.labels), 4)
            assert (targets.boxes.dtype, targets.labels.dtype) == (torch.float32, torch.int64)


def test_loader__workers_and_resumption__change_no_bit(split):
    whole = epoch_of(split, epoch=3)
    assert same(epoch_of(split, epoch=3, workers=2), whole)
    assert same(epoch_of(split, epoch=3, start=1, workers=2), whole[1:])
    assert not same(epoch_of(split, epoch=4), whole)


def test_loader__workers__do_not_replay_one_stream(split):
    """Seven times the same image: seven different augmentations, whatever the worker."""
    one = split.with_samples([split.samples[0]] * 7)
    images = torch.cat([batch.images for batch in epoch_of(one, workers=2)])
    assert len({image.numpy().tobytes() for image in images}) == 7


def test_loader__global_generators__are_left_alone(split):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch_of(split)
    assert torch.equal(torch.rand(3), expected)


def test_dataset__labels__follow_their_boxes(split):
    """The colour in the middle of each box is that of its label."""
    dataset = DetectionDataset(
        split, box_training_transform(UNIT, BoxTransformConfig(color_jitter=0.0)), seed=1
    )
    checked = 0
    for epoch in range(6):
        for index in range(len(split)):
            image, targets, found, _ = dataset[epoch, index]
            assert found == index
            for (x1, y1, x2, y2), label in zip(targets.boxes, targets.labels, strict=True):
                if min(x2 - x1, y2 - y1) >= 4:
                    pixel = image[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
                    assert pixel.argmax() == label
                    checked += 1
    assert checked > 40


def test_dataset__crowds__are_no_targets(tmp_path):
    root = make_coco(
        tmp_path,
        splits=("train",),
        change={"train": lambda c: c["annotations"][1].update(iscrowd=1)},
    )
    split = read_detection(coco_descriptor(root)).require("train")
    dataset = DetectionDataset(split, box_evaluation_transform(UNIT), seed=0)
    assert dataset[0, 0][1].labels.tolist() == [0, 2]


def test_dataset__samples__are_never_changed(split):
    before = copy.deepcopy([sample.boxes for sample in split.samples])
    epoch_of(split)
    epoch_of(split, epoch=1)
    assert all(
        np.array_equal(sample.boxes, boxes)
        for sample, boxes in zip(split.samples, before, strict=True)
    )


def test_collate__items__are_a_batch(split):
    dataset = DetectionDataset(split, box_evaluation_transform(UNIT), seed=0)
    batch = collate_detection([dataset[0, 0], dataset[0, 6]])
    assert batch.images.shape == (2, 3, SIDE, SIDE)
    assert [len(targets.boxes) for targets in batch.targets] == [3, 0]
    assert batch.indices.tolist() == [0, 6]
    assert batch.letterboxes[0].original_size == (60, 90)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__changed_or_damaged_file__is_one_line_naming_it(split, workers):
    path = split.samples[4].source
    make_image(0, (30, 40)).save(path)
    with pytest.raises(DataError, match=r"004\.png: 30 x 40 pixels once decoded, but") as caught:
        epoch_of(split, workers=workers)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"004\.png: not an image") as caught:
        epoch_of(split, workers=workers)
    assert "\n" not in str(caught.value)
