"""What a run says of its data before it starts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.fixtures import make_folder, make_image
from tests.training import make_config
from vpt.experiment import build
from vpt.runs.advice import advice_lines


def fill(root, images, *, count=3):
    """Splits of two classes with these images."""
    for split in ("train", "val"):
        for label in "ab":
            folder = root / split / label
            folder.mkdir(parents=True)
            for place in range(count if split == "train" else 1):
                images(place).save(folder / f"{place}.png")
    return root


def grey(place):
    return Image.fromarray(np.full((200, 200), 40 * place, dtype=np.uint8))


def lines(tmp_path, data, **changes):
    own = {"backbone__name": "bundled/glyph_vit", "data__batch_size": 4, **changes}
    return list(advice_lines(build(make_config(tmp_path / "run", data, **own))))


def test_photographs_on_a_bundled_backbone__are_told_once(tmp_path):
    data = fill(tmp_path / "data", lambda place: make_image(place, (300, 200)).rotate(0))
    coloured = fill(tmp_path / "colour", photo)
    assert lines(tmp_path, data) == []  # large, but as good as grey
    (line,) = lines(tmp_path, coloured)
    assert line.startswith("bundled/glyph_vit was trained on rendered glyphs, not for photographs")
    assert "(300 x 200 px, in colour)" in line
    assert lines(tmp_path, coloured, backbone__name="timm/test_vit") == []


def photo(place):
    pixels = np.random.default_rng(place).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    pixels[..., 0] //= 3
    return Image.fromarray(pixels)


@pytest.mark.parametrize("images", [grey, lambda place: photo(place).resize((96, 96))])
def test_grey_or_small_images__are_no_photographs(tmp_path, images):
    assert lines(tmp_path, fill(tmp_path / "data", images)) == []


def test_digits__are_no_photographs(tmp_path):
    from pathlib import Path

    digits = Path(__file__).parents[1] / "datasets/digits.yaml"
    assert lines(tmp_path, digits) == []


def test_a_batch_larger_than_the_data__and_single_images__are_told(tmp_path):
    data = make_folder(tmp_path / "data", images=1)
    assert lines(tmp_path, data, data__batch_size=5000) == [
        "data.batch_size 5000 is more than there are training images: 2 used",
        "every class has one training image: what is learned may be of that image, not of the "
        "class; add some",
    ]
    assert lines(tmp_path, make_folder(tmp_path / "more", images=2)) == []
