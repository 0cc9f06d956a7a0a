"""Random augmentation of training images, from albumentations and torchvision."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vpt.config import TransformConfig
from vpt.data.transforms.images import (
    Pixels,
    Transform,
    padding_colour,
    prepared,
    resampling_of,
    resize_short_side,
    short_side_size,
    to_planes,
)
from vpt.data.transforms.offline_albumentations import A
from vpt.errors import ConfigError
from vpt.seeding import derive_seed
from vpt.structures import Preprocess

_BORDER_REFLECT_101 = 4  # cv2.BORDER_REFLECT_101


class TrainingTransform(Transform):
    """Random augmentation, a pure function of image and seed."""

    def __init__(self, preprocess: Preprocess, options: TransformConfig):
        self.preprocess = preprocess
        self.options = options
        if options.name == "resize_crop" and options.resize < max(preprocess.size):
            raise ConfigError(
                f"transform.resize {options.resize} is smaller than the crop of "
                f"{preprocess.size[0]} x {preprocess.size[1]} pixels; use at least "
                f"{max(preprocess.size)}"
            )
        self.pipeline = A.Compose([_crop(preprocess, options), *_distortions(options)])
        given = options.rand_augment
        self.rand_augment = (
            None if given is None else _RandAugment(preprocess, **given.model_dump())
        )

    def settle(self, image: Image.Image) -> Pixels:
        """The whole image; for 'resize_crop' with its short side of `resize` pixels."""
        image = prepared(image, self.preprocess)
        if self.options.name == "resize_crop":
            image = resize_short_side(image, self.options.resize, self.preprocess)
        return np.asarray(image)

    def finish(self, settled: Pixels, seed: int) -> Tensor:
        """(3, H, W) uint8: cropped, distorted."""
        # One stream for the whole pipeline. Seeding it with set_random_seed would give each
        # transform its own copy of the same stream: a wide crop would always come with a flip.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        pixels: Pixels = self.pipeline(image=settled)["image"]
        if self.rand_augment is not None:
            augmented = Image.fromarray(pixels)
            pixels = np.asarray(self.rand_augment(augmented, derive_seed("rand_augment", seed)))
        return to_planes(pixels)

    def settled_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of what `settle` makes of an image of a size."""
        if self.options.name == "resize_crop":
            return short_side_size(height, width, self.options.resize)
        return height, width

    def settling(self) -> dict[str, Any]:
        """Nothing besides the image, or how it is resized."""
        scaled = self.preprocess.value_range
        values = {} if scaled is None else {"value_range": list(scaled)}
        if self.options.name != "resize_crop":
            return {"transform": "whole", **values}
        return {
            "transform": "resize",
            "resize": self.options.resize,
            "interpolation": self.preprocess.interpolation,
            **values,
        }


class _ResizedCrop(A.RandomResizedCrop):  # type: ignore[misc]
    """Albumentations' random crop, resized with the filter of the evaluation transform.

    OpenCV's cubic filter is another one than Pillow's (up to 38/255 apart when enlarging) and its
    filters have no antialiasing; training and evaluation should see the same kind of pixels.
    """

    resampling = Image.Resampling.BICUBIC

    def apply(
        self, img: np.ndarray[Any, Any], crop_coords: tuple[int, int, int, int], **params: Any
    ) -> np.ndarray[Any, Any]:
        """(H, W, 3) uint8 of the wanted size."""
        left, top, right, bottom = crop_coords
        crop = Image.fromarray(np.ascontiguousarray(img[top:bottom, left:right]))
        height, width = self.size
        return np.asarray(crop.resize((width, height), self.resampling))


def _crop(preprocess: Preprocess, options: TransformConfig) -> Any:
    height, width = preprocess.size
    if options.name == "resize_crop":
        return A.RandomCrop(height=height, width=width)
    crop = _ResizedCrop(size=preprocess.size, scale=options.scale, ratio=options.ratio)
    crop.resampling = resampling_of(preprocess)
    return crop


def _distortions(options: TransformConfig) -> list[Any]:
    steps = [A.HorizontalFlip(p=options.hflip)]
    if options.rotate > 0:
        limits = (-options.rotate, options.rotate)
        steps.append(A.Rotate(limit=limits, border_mode=_BORDER_REFLECT_101, p=1.0))
    if options.color_jitter > 0:
        factors = (max(0.0, 1 - options.color_jitter), 1 + options.color_jitter)
        steps.append(
            A.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=0, p=1.0)
        )
    return steps


class _RandAugment:
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719), a pure function of image and seed.

    The operations and their ranges are torchvision's; what they uncover has the mean colour.
    """

    def __init__(self, preprocess: Preprocess, *, num_ops: int, magnitude: int):
        self.operations = v2.RandAugment(
            num_ops,
            magnitude,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill=list(padding_colour(preprocess)),
        )

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """Of the same size."""
        # torchvision draws from torch's global generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            augmented: Image.Image = self.operations(image)
        return augmented
