"""What is no batch of preprocessed images is refused with what to pass instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vpt.api import create_detector, create_model
from vpt.errors import BackboneError, ConfigError
from vpt.models import TaskBank
from vpt.structures import Letterbox

ONE = torch.zeros(3, 32, 32)
WRONG = {
    "path": (
        "a.jpg",
        r"not the path 'a.jpg'; pass .*create_transform.*read_image\(path\)\)\[None\]",
    ),
    "Path": (Path("a.jpg"), "not the path 'a.jpg'"),
    "PIL": (Image.new("RGB", (32, 32)), r"not a PIL image; pass .*\(image\)\[None\]"),
    "array": (np.zeros((32, 32, 3), np.uint8), "not an array; pass .*fromarray"),
    "list": ([ONE, ONE], "not a list of Tensor; .*torch.stack"),
    "none": (None, "not a NoneType"),
    "one image": (ONE, r"this is one of 3x32x32; pass image\[None\]"),
    "channels last": (torch.zeros(2, 32, 32, 3), r"images.permute\(0, 3, 1, 2\)"),
    "one, channels last": (torch.zeros(32, 32, 3), r"images.permute\(2, 0, 1\)"),
    "grey": (torch.zeros(2, 1, 32, 32), "not a tensor of 2x1x32x32; .* gives RGB"),
    "flat": (torch.zeros(2, 3072), "not a tensor of 2x3072; make each image"),
    "uint8": (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "these are torch.uint8; make them"),
    "float64": (torch.zeros(2, 3, 32, 32, dtype=torch.float64), r"pass images.float\(\)"),
}


@pytest.fixture(scope="module")
def model():
    options = {"num_classes": 3, "pretrained": False, "image_size": 32}
    return create_model("timm/test_vit", [{"name": "pixels", "width": 4}, "vpt_deep"], **options)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_classifier_or_a_bank__says_what_to_pass(model, wrong):
    given, says = WRONG[wrong]
    model.eval()
    bank = TaskBank(model.backbone, capacity=1, num_tokens=0, num_classes=3)
    for call in (model, model.predict, lambda images: bank.predict(images, "task")):
        with pytest.raises(ConfigError, match=says) as caught:
            call(given)
        assert "\n" not in str(caught.value)


def test_images_of_another_size__are_refused_by_the_backbone_or_the_frame(model):
    images = torch.zeros(1, 3, 64, 48)
    with pytest.raises(ConfigError, match="for images of 32x32, not 64x48; prepare them"):
        model.predict(images)
    plain = create_model("bundled/glyph_vit", num_classes=3)
    with pytest.raises(BackboneError, match="takes images of 32x32 pixels, not 64x48; prepare"):
        plain.predict(images)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_detector__says_what_to_pass(wrong):
    given, says = WRONG[wrong]
    detector = create_detector(
        "bundled/glyph_vit",
        num_classes=2,
        image_size=32,
        head={"name": "fcos", "channels": 32, "num_convs": 1},
        neck={"scales": [1], "taps": 1},
    ).eval()
    with pytest.raises(ConfigError, match=says):
        detector.predict(given, [Letterbox.fit((32, 32), 32)])
    with pytest.raises(ConfigError, match="1 letterboxes for 2 images"):
        detector.predict(torch.zeros(2, 3, 32, 32), [Letterbox.fit((32, 32), 32)])


def test_bfloat16_images__for_a_bfloat16_model__are_taken(model):
    import copy

    half = copy.deepcopy(model).to(torch.bfloat16).eval()
    assert half(torch.zeros(2, 3, 32, 32, dtype=torch.bfloat16)).shape == (2, 3)
