"""Whether a split's images of more than 8 bits fit the range that they are scaled by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures import make_image
from vpt.data.depth import depth_warning, depth_warning_of_files, look_at_depth
from vpt.data.splits import Sample, Split


def split_of(folder: Path, images: list[Image.Image], suffix: str = "png") -> Split:
    samples = []
    for number, image in enumerate(images):
        path = folder / f"{number}.{suffix}"
        image.save(path)
        samples.append(Sample(path, 0, path.name))
    return Split("train", tuple(samples), ("only",))


def grey(low: int, high: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(low, high + 1, (40, 40)).astype(np.uint16))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_12_bits_in_16_bit_files__are_named_with_the_range_to_set(tmp_path, suffix):
    split = split_of(tmp_path, [grey(0, 4095, seed) for seed in range(3)], suffix)
    warning = depth_warning(split)
    assert warning is not None
    assert "\n" not in warning
    assert "'train'" in warning
    assert "0..16 of 255" in warning
    assert "data.value_range=[0,4095]" in warning
    assert depth_warning(split, (0, 4095)) is None


@pytest.mark.parametrize(
    ("low", "high", "suggested"),
    [(0, 1000, "[0,1023]"), (100, 16000, "[0,16383]"), (32768, 36000, "[3277")],
)
def test_other_narrow_ranges__are_named_likewise(tmp_path, low, high, suggested):
    warning = depth_warning(split_of(tmp_path, [grey(low, high)]))
    assert warning is not None
    assert f"data.value_range={suggested}" in warning


def test_one_defect_pixel_or_one_odd_image__hides_nothing(tmp_path):
    images = [grey(0, 4095, seed) for seed in range(20)]
    for image in images:
        image.putpixel((0, 0), 65535)
    images[3] = grey(0, 65535)
    warning = depth_warning(split_of(tmp_path, images))
    assert warning is not None
    assert "data.value_range=[0,4095]" in warning


def test_images_that_use_the_range__and_images_of_8_bits__are_no_warning(tmp_path):
    (tmp_path / "wide").mkdir()
    wide = [grey(0, 65535), grey(0, 900), grey(20000, 65000)]  # a dark one among others
    assert depth_warning(split_of(tmp_path / "wide", wide)) is None
    assert depth_warning(split_of(tmp_path, [make_image(), make_image(1)])) is None


def test_a_range_that_fits_nothing__is_said(tmp_path):
    for name in ("eight", "wide", "few", "float"):
        (tmp_path / name).mkdir()
    eight = split_of(tmp_path / "eight", [make_image()])
    assert "changes none of the images of 'train'" in depth_warning(eight, (0, 4095))
    wide = split_of(tmp_path / "wide", [grey(0, 65535)])
    assert "cuts off 9" in depth_warning(wide, (0, 4095))
    few = split_of(tmp_path / "few", [grey(0, 255)])
    assert "is wide for the images of 'train'" in depth_warning(few, (0, 4095))
    image = Image.fromarray(np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10))
    floats = split_of(tmp_path / "float", [image], "tiff")
    assert depth_warning(floats, (0, 1)) is None


def test_few_of_many_images_are_decoded__and_none_of_arrays(tmp_path):
    grey(0, 4095).save(tmp_path / "a.png")
    found = look_at_depth([tmp_path / "a.png"] * 64)
    assert (found.looked_at, found.deep) == (64, 24)
    array = np.zeros((2, 4, 4, 3), np.uint8)
    arrays = Split("train", (Sample(0, 0, "0"), Sample(1, 0, "1")), ("only",), array)
    assert depth_warning(arrays) is None


def test_files_to_predict__are_looked_at_likewise(tmp_path):
    grey(0, 4095).save(tmp_path / "a.png")
    make_image().save(tmp_path / "b.png")
    warning = depth_warning_of_files([tmp_path / "a.png", tmp_path / "b.png"])
    assert warning is not None
    assert warning.startswith("these images have 16 bits and use only")
    assert depth_warning_of_files([tmp_path / "a.png"], (0, 4095)) is None
    assert depth_warning_of_files([tmp_path / "b.png"], (0, 4095)) is None
    assert depth_warning_of_files([]) is None


def test_an_unreadable_image__is_passed_over(tmp_path):
    split = split_of(tmp_path, [grey(0, 4095), grey(0, 4095)])
    (tmp_path / "0.png").write_text("no image")
    assert "[0,4095]" in (depth_warning(split) or "")
