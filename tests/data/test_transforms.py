import hashlib
import itertools
import multiprocessing.reduction
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform as timm_transform

from tests.data.test_rgb import png
from tests.fixtures import make_image
from vpt.config import TransformConfig
from vpt.data.images import read_image
from vpt.data.transforms.images import create_transform, evaluation_transform, training_transform
from vpt.errors import ConfigError, DataError
from vpt.structures import Preprocess

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.25, 0.27)
UNIT = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SIZES = [(48, 48), (97, 61), (61, 97), (31, 33), (200, 20), (20, 200), (224, 225), (1, 1), (36, 36)]


@pytest.mark.parametrize("size", [(32, 32), (33, 33), (32, 48), (47, 30)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_evaluation_transform__any_geometry__equals_timm_bit_for_bit(size, crop_mode):
    compared = 0
    for crop_pct, interpolation in itertools.product((0.875, 0.9, 1.0), ("bicubic", "bilinear")):
        ours = evaluation_transform(Preprocess(size, MEAN, STD, interpolation, crop_pct, crop_mode))
        theirs = timm_transform(
            input_size=(3, *size),
            interpolation=interpolation,
            mean=MEAN,
            std=STD,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            is_training=False,
        )
        for seed, image_size in enumerate(SIZES):
            image = make_image(seed, image_size)
            try:
                expected = theirs(image)
            except ValueError:
                continue  # timm refuses what it would shrink to no pixel
            assert torch.equal(ours(image), expected)
            compared += 1
    assert compared >= 6 * (len(SIZES) - 1)


def test_evaluation_transform__unknown_interpolation__is_named():
    with pytest.raises(ConfigError, match="cubicle"):
        evaluation_transform(Preprocess((8, 8), MEAN, STD, "cubicle"))


def test_evaluation_transform__grey_image__has_three_channels():
    image = make_image().convert("L")
    assert torch.equal(
        evaluation_transform(UNIT)(image), evaluation_transform(UNIT)(image.convert("RGB"))
    )


EVERYTHING = {"rotate": 20.0, "color_jitter": 0.4, "rand_augment": {"num_ops": 3, "magnitude": 20}}
KINDS = {
    "random_resized_crop": TransformConfig(name="random_resized_crop", **EVERYTHING),
    "resize_crop": TransformConfig(name="resize_crop", resize=40, **EVERYTHING),
    "none": TransformConfig(name="none"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("image_size", [(100, 70), (8, 8), (1, 1), (3, 90)])
def test_training_transform__any_image__has_the_wanted_size(name, size, image_size):
    transform = training_transform(Preprocess(size, MEAN, STD), KINDS[name])
    tensor = transform(make_image(0, image_size), 5)
    assert tensor.shape == (3, *size)
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("name", KINDS)
def test_training_transform__same_seed__gives_same_bits_in_any_order(name):
    transform = training_transform(UNIT, KINDS[name])
    image = make_image(0, (60, 50))
    first = {seed: transform(image, seed) for seed in range(6)}
    np.random.seed(3)
    random.seed(3)
    again = {seed: transform(image, seed) for seed in (5, 3, 4, 0, 2, 1)}
    assert all(torch.equal(first[seed], again[seed]) for seed in first)
    distinct = {tensor.numpy().tobytes() for tensor in first.values()}
    assert len(distinct) == (1 if name == "none" else 6)


SCRIPT = """
import hashlib
from tests.data.test_rgb import png
from tests.fixtures import make_image
from vpt.config import TransformConfig
from vpt.data.transforms.images import training_transform
from vpt.structures import Preprocess
unit = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
options = {"rotate": 20.0, "color_jitter": 0.4, "rand_augment": {"num_ops": 3, "magnitude": 20}}
transform = training_transform(unit, TransformConfig(**options))
print(hashlib.sha256(transform(make_image(0, (60, 50)), 2**62 + 1).numpy().tobytes()).hexdigest())
"""


def test_training_transform__other_process__gives_same_bits():
    transform = training_transform(UNIT, KINDS["random_resized_crop"])
    here = transform(make_image(0, (60, 50)), 2**62 + 1).numpy().tobytes()
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
    assert there.decode().strip() == hashlib.sha256(here).hexdigest()


def test_training_transform__crop_and_flip__draw_independently():
    """A ramp from left to right shows the crop's place and width, and whether it was flipped.

    With one copy of the same stream per transform, flip and width correlate at -0.8.
    """
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (150, 200, 3)).copy())
    transform = training_transform(UNIT, TransformConfig(scale=(0.1, 0.6)))
    crops = torch.stack([transform(image, seed) for seed in range(600)])[:, 0, 16]
    flipped = (crops[:, 0] > crops[:, -1]).float()
    places, widths = crops.mean(1), (crops[:, 0] - crops[:, -1]).abs()
    related = torch.corrcoef(torch.stack([flipped, places, widths]))
    assert 0.4 < flipped.mean() < 0.6
    assert widths.std() > 0.05
    assert related[0, 1].abs() < 0.15  # 3.7 standard errors
    assert related[0, 2].abs() < 0.15


def test_training_transform__hflip__follows_its_probability():
    image = make_image(0, (32, 32))
    plain = TransformConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)
    whole = training_transform(UNIT, plain)(image, 0)
    always = training_transform(UNIT, plain.model_copy(update={"hflip": 1.0}))(image, 0)
    assert torch.equal(whole, evaluation_transform(UNIT)(image))
    assert torch.equal(always, whole.flip(-1))


def test_training_transform__shrinking__is_antialiased():
    """One-pixel stripes become even grey; without antialiasing they stay stripes."""
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    options = TransformConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    tensor = training_transform(UNIT, options)(Image.fromarray(stripes), 0)
    assert tensor[..., 2:-2].std() < 0.02


def test_training_transform__resize_smaller_than_crop__is_refused():
    options = TransformConfig(name="resize_crop", resize=30)
    with pytest.raises(ConfigError, match=r"30 .* at least 32"):
        training_transform(UNIT, options)


def test_create_transform__train__draws_from_torch():
    image = make_image(0, (60, 50))
    transform = create_transform(UNIT, train=True)
    torch.manual_seed(0)
    first, second = transform(image), transform(image)
    torch.manual_seed(0)
    assert torch.equal(transform(image), first)
    assert not torch.equal(first, second)
    assert torch.equal(create_transform(UNIT)(image), evaluation_transform(UNIT)(image))


@pytest.mark.parametrize("options", [{}, {"train": True}], ids=["evaluation", "training"])
def test_create_transform__an_opened_photo__is_seen_as_predict_sees_the_file(tmp_path, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    photo = make_image(0, (60, 40)).convert("RGBA")
    photo.paste((0, 0, 0, 0), (0, 0, 30, 40))
    photo.save(path, exif=exif)
    transform = create_transform(UNIT, **options)
    torch.manual_seed(0)
    expected = transform(read_image(path))
    torch.manual_seed(0)
    with Image.open(path) as opened:
        assert torch.equal(transform(opened), expected)
    assert expected.shape == (3, 32, 32)
    assert (expected[:, :12] == 1).all()  # what was transparent at the left is white at the top


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("photos/a.jpg", "the path 'photos/a.jpg'; open it with vpt.read_image"),
        (Path("a.jpg"), "open it with vpt.read_image"),
        (b"\xff\xd8", "PIL.Image.open"),
        (np.zeros((4, 5, 3), np.uint8), r"an array \(4x5x3, uint8\); pass PIL.Image.fromarray"),
        (torch.zeros(3, 4, 4), "a tensor; pass the image itself"),
        (None, "not NoneType"),
    ],
)
def test_create_transform__of_what_is_no_pil_image__says_what_to_pass(wrong, says):
    for transform in (create_transform(UNIT), create_transform(UNIT, train=True)):
        with pytest.raises(ConfigError, match=says):
            transform(wrong)


def test_create_transform__an_image_read_without_the_models_range__is_refused(tmp_path):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "grey.png")
    colours = np.stack([values] * 3, axis=-1)
    (tmp_path / "colour.png").write_bytes(png(colours, bits=16, colour=2))
    transform = create_transform(replace(UNIT, value_range=(0.0, 4095.0)))
    for path in (tmp_path / "grey.png", tmp_path / "colour.png"):
        expected = transform(read_image(path, value_range=(0, 4095)))
        with Image.open(path) as opened:
            assert torch.equal(transform(opened), expected)
        assert expected.max() > 0.99
        with pytest.raises(DataError, match=r"scaled by \[0,65535\] .* takes \[0,4095\]; read it"):
            transform(read_image(path))
        assert create_transform(UNIT)(read_image(path)).max() < 0.1


def test_create_transform__of_pixels_without_a_range__is_one_line():
    with pytest.raises(DataError, match="an image of mode F: floating-point pixels have no known"):
        create_transform(UNIT)(Image.new("F", (4, 4)))


def test_create_transform__of_an_image_that_is_closed_empty_or_damaged__is_one_line(tmp_path):
    make_image(0, (64, 64)).save(tmp_path / "a.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    transform = create_transform(UNIT)
    with Image.open(tmp_path / "a.jpg") as closed:
        pass
    with pytest.raises(DataError, match="its file was closed before it was loaded; call"):
        transform(closed)
    with Image.open(tmp_path / "half.jpg") as half, pytest.raises(DataError, match="truncated"):
        transform(half)
    with pytest.raises(DataError, match="0 x 5 pixels are no image"):
        transform(Image.new("RGB", (0, 5)))


def test_value_range__makes_a_12_bit_image_bright__in_every_transform():
    values = np.tile(np.linspace(0, 4095, 40).astype(np.uint16), (40, 1))
    image = Image.fromarray(values)
    scaled = replace(UNIT, value_range=(0, 4095))
    for make in (
        evaluation_transform,
        lambda preprocess: training_transform(preprocess, TransformConfig()),
        lambda preprocess: training_transform(
            preprocess, TransformConfig(name="resize_crop", resize=40)
        ),
    ):
        assert make(UNIT)(image, 0).max() < 0.07
        assert make(scaled)(image, 0).max() > 0.8
        assert make(scaled).settling() != make(UNIT).settling()


# RandAugment


def rand_augmented(num_ops: int, magnitude: int, **options):
    given = {"num_ops": num_ops, "magnitude": magnitude}
    return training_transform(UNIT, TransformConfig(**options, rand_augment=given))


def test_rand_augment__without_operations__changes_no_bit():
    image, plain = make_image(0, (60, 50)), training_transform(UNIT, TransformConfig())
    assert all(
        torch.equal(rand_augmented(0, 30)(image, seed), plain(image, seed)) for seed in range(4)
    )


def test_rand_augment__changes_more_with_more_strength__and_leaves_the_crop_as_it_was():
    image, plain = make_image(0, (60, 50)), training_transform(UNIT, TransformConfig())
    moved = [
        sum(
            float((rand_augmented(2, magnitude)(image, seed) - plain(image, seed)).abs().mean())
            for seed in range(40)
        )
        for magnitude in (3, 15, 30)
    ]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_rand_augment__what_it_uncovers__has_the_mean_colour():
    grey = Preprocess((32, 32), (0.2, 0.4, 0.6), (1.0, 1.0, 1.0))
    still = {"name": "resize_crop", "resize": 32, "hflip": 0.0}
    options = TransformConfig(**still, rand_augment={"num_ops": 1, "magnitude": 30})
    white = Image.new("RGB", (32, 32), "white")
    seen = [training_transform(grey, options)(white, seed)[:, 0, 0] for seed in range(60)]
    assert any(corner.abs().max() < 1 / 255 for corner in seen)  # the mean, once it is taken off


def test_rand_augment__global_generator__is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rand_augmented(2, 9)(make_image(0, (40, 40)), 1)
    assert torch.equal(torch.rand(3), expected)


def test_training_transform__survives_pickle__for_workers_that_are_spawned():
    transform = training_transform(UNIT, KINDS["random_resized_crop"])
    sent = multiprocessing.reduction.ForkingPickler.dumps(transform)
    again, image = multiprocessing.reduction.ForkingPickler.loads(sent), make_image(0, (60, 50))
    assert torch.equal(again(image, 3), transform(image, 3))


def test_rand_augment__of_the_evaluation_transform__is_refused():
    with pytest.raises(ValueError, match="leave out rand_augment"):
        TransformConfig(name="none", rand_augment={})
