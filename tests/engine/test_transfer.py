"""Pixels travel in 8 bits; what the model sees has the bits of torchvision's own arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import constants
from torchvision.transforms import functional

from tests.data.coco_files import coco_descriptor, make_coco
from tests.fixtures import make_folder
from vpt.backbones import create_backbone
from vpt.config import BoxTransformConfig, TransformConfig
from vpt.data import (
    DetectionDataset,
    EpochBatches,
    ImageDataset,
    Normalise,
    box_training_transform,
    load_descriptor,
    make_detection_loader,
    make_loader,
    read_detection,
    read_splits,
    training_transform,
)
from vpt.engine.transfer import on_device
from vpt.structures import Batch, Preprocess

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
SHIPPED = {
    "imagenet": (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    "inception": (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    "clip": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    **{
        name: (shipped.mean, shipped.std)
        for name in ("bundled/glyph_vit", "bundled/glyph_clip")
        for shipped in [create_backbone(name).preprocess]
    },
}


def every_value() -> Image.Image:
    """16 x 16 pixels: all 256 values in each channel."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    return Image.fromarray(np.repeat(values, 3, axis=2))


def as_torchvision_does(preprocess: Preprocess) -> torch.Tensor:
    tensor = functional.to_tensor(every_value())
    return functional.normalize(tensor, list(preprocess.mean), list(preprocess.std))


def pixel_batch() -> Batch:
    pixels = torch.from_numpy(np.asarray(every_value()).copy()).permute(2, 0, 1)
    return Batch(torch.stack([pixels] * 5), torch.zeros(5), torch.arange(5))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=lambda name: name
)
def test_every_value_of_a_pixel__is_normalised_with_torchvisions_bits(name, device):
    preprocess = Preprocess((16, 16), *SHIPPED[name])
    (batch,) = on_device([pixel_batch()], torch.device(device), preprocess)
    assert batch.images.device.type == device
    for image in batch.images.cpu():
        assert torch.equal(image, as_torchvision_does(preprocess))


def test_a_batch_of_pixels__is_the_batch_of_normalised_images_in_a_quarter_of_the_bytes(tmp_path):
    split = read_splits(load_descriptor(make_folder(tmp_path))).require("train")
    transform = training_transform(Preprocess((8, 8), *SHIPPED["clip"]), TransformConfig())
    order = EpochBatches(len(split), 4, seed=5, epoch=1)
    sent, whole = (
        list(make_loader(ImageDataset(split, t, 5), order, num_workers=0, pin_memory=False))
        for t in (transform.pixels, transform)
    )
    assert sum(b.images.nbytes for b in whole) == 4 * sum(b.images.nbytes for b in sent)
    arrived = on_device(sent, CPU, transform.preprocess)
    for batch, expected in zip(arrived, whole, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


def test_a_batch_with_boxes__arrives_with_its_padding_and_boxes_as_they_were(tmp_path):
    split = read_detection(coco_descriptor(make_coco(tmp_path))).require("train")
    transform = box_training_transform(
        Preprocess((64, 64), *SHIPPED["imagenet"]), BoxTransformConfig()
    )
    order = EpochBatches(len(split), 4, seed=5, epoch=1)
    sent, whole = (
        list(
            make_detection_loader(
                DetectionDataset(split, t, 5), order, num_workers=0, pin_memory=False
            )
        )
        for t in (transform.pixels, transform)
    )
    arrived = on_device(sent, CPU, transform.preprocess)
    for batch, expected in zip(arrived, whole, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert all(map(torch.equal, *([t.boxes for t in b.targets] for b in (batch, expected))))


def test_images_that_are_normalised_already__pass_as_they_are():
    batch = replace(pixel_batch(), images=torch.randn(5, 3, 16, 16))
    (arrived,) = on_device([batch], CPU, Preprocess((16, 16), HALF, HALF))
    assert arrived.images is batch.images


@pytest.mark.gpu
def test_on_cuda__every_batch_arrives_in_order_whatever_is_still_being_copied():
    device, unit = torch.device("cuda"), Preprocess((64, 64), (0.0,) * 3, (1 / 255,) * 3)
    sent = [
        Batch(
            torch.full((64, 3, 64, 64), number, dtype=torch.uint8).pin_memory(),
            torch.full((64,), number).pin_memory(),
            torch.arange(64),
        )
        for number in range(20)
    ]
    for number, batch in enumerate(on_device(sent, device, unit)):
        torch.cuda._sleep(2_000_000)
        assert batch.images.mean().item() == pytest.approx(number, abs=1e-3)
        assert batch.labels.float().mean().item() == number
    assert number == 19


def test_the_normalisation__takes_images_of_any_leading_shape():
    normalise = Normalise(Preprocess((16, 16), *SHIPPED["imagenet"]))
    pixels = pixel_batch().images
    assert torch.equal(normalise(pixels)[2], normalise(pixels[2]))
