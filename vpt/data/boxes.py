"""From a PIL image with boxes to a letterboxed square; seeded augmentation that moves boxes along.

This is the only place where detection changes the geometry of images.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpt.config import BoxTransformConfig
from vpt.data.offline_albumentations import A
from vpt.data.transforms import (
    Normalise,
    padding_colour,
    prepared,
    resampling_of,
    to_pixels,
)
from vpt.errors import ConfigError
from vpt.structures import Letterbox, Preprocess


@dataclass(frozen=True)
class LetterboxedImage:
    """An image as a detector sees it, and where its boxes went.

    Attributes:
        image: (3, S, S) float32, normalised, or the pixels themselves, uint8; the padding right and
            below has the mean colour.
        boxes: (K, 4) float32 xyxy, pixels of the square.
        rows: (K,) int64, which of the given boxes these are, ascending.
        letterbox: the way back; from an augmented image to that, not to the file.
    """

    image: Tensor
    boxes: Tensor
    rows: Tensor
    letterbox: Letterbox


class BoxTransform(Protocol):
    """(image, boxes (K, 4) xyxy in its pixels, seed); the same three give the same bits."""

    preprocess: Preprocess

    def __call__(
        self, image: Image.Image, boxes: NDArray[np.float64], seed: int
    ) -> LetterboxedImage:
        """Of float32: `pixels`, normalised."""
        ...

    def pixels(self, image: Image.Image, boxes: NDArray[np.float64], seed: int) -> LetterboxedImage:
        """Of uint8."""
        ...


class LetterboxTransform:
    """The whole image into a square, at its own aspect; nothing is random."""

    def __init__(self, preprocess: Preprocess):
        """Check what cannot be done.

        Args:
            preprocess: size (S, S), interpolation, mean and std of the result; its crop is not
                used.

        Raises:
            ConfigError: the size is no square, or the interpolation unknown.
        """
        resampling_of(preprocess)
        height, width = preprocess.size
        if height != width:
            raise ConfigError(
                f"image size {height} x {width} is no square; boxes need one, e.g. {max(height, 1)}"
            )
        self.preprocess = preprocess

    def __call__(
        self, image: Image.Image, boxes: NDArray[np.float64] | None = None, seed: int = 0
    ) -> LetterboxedImage:
        """The square; the seed is taken for symmetry and has no effect."""
        return self.normalised(self.pixels(image, boxes, seed))

    def normalised(self, seen: LetterboxedImage) -> LetterboxedImage:
        """The same with its pixels as the backbone wants them."""
        return replace(seen, image=Normalise(self.preprocess)(seen.image))

    def pixels(
        self, image: Image.Image, boxes: NDArray[np.float64] | None = None, seed: int = 0
    ) -> LetterboxedImage:
        """The square in uint8."""
        given = np.zeros((0, 4)) if boxes is None else boxes
        rows = np.arange(len(given), dtype=np.int64)
        return self.place(prepared(image, self.preprocess), given, rows)

    def place(
        self,
        image: Image.Image,
        boxes: NDArray[np.float64],
        rows: NDArray[np.int64],
        *,
        shrink: float = 1.0,
        min_side: float = 0.0,
    ) -> LetterboxedImage:
        """An RGB image top left in the square, in uint8.

        Args:
            image: in RGB.
            boxes: (K, 4) xyxy in its pixels.
            rows: (K,) numbers that stay with their boxes.
            shrink: 1 fills the longer side; less leaves padding there, too.
            min_side: boxes with a shorter side, in pixels of the square, are left out.
        """
        size = self.preprocess.size[0]
        fitted = Letterbox.fit((image.height, image.width), size)
        letterbox = Letterbox(fitted.scale * shrink, fitted.original_size, size)
        height, width = letterbox.content_size
        square = Image.new("RGB", (size, size), padding_colour(self.preprocess))
        square.paste(image.resize((width, height), resampling_of(self.preprocess)), (0, 0))
        # Anew, in float64: the caller's array is never shared, nor changed.
        placed = letterbox.to_letterboxed(torch.tensor(boxes, dtype=torch.float64)).float()
        sides = (placed[:, 2:] - placed[:, :2]).amin(dim=1)
        kept = (sides >= min_side) & (sides > 0)
        numbers = torch.tensor(rows, dtype=torch.int64)
        return LetterboxedImage(to_pixels(square), placed[kept], numbers[kept], letterbox)


class JitterTransform:
    """Random scale, crop, flip and colours, then the letterbox; a pure function of its inputs."""

    def __init__(self, preprocess: Preprocess, options: BoxTransformConfig):
        self.preprocess = preprocess
        self.letterbox = LetterboxTransform(preprocess)
        self.options = options
        steps = [_WindowCrop(p=1.0), A.HorizontalFlip(p=options.hflip)]
        if options.color_jitter > 0:
            factors = (max(0.0, 1 - options.color_jitter), 1 + options.color_jitter)
            steps.append(
                A.ColorJitter(
                    brightness=factors, contrast=factors, saturation=factors, hue=0, p=1.0
                )
            )
        # Clipping alone lets a box of no size through, which a later check refuses. What is left
        # of a box is measured here: by theirs an uncropped one has a share of a little below 1.
        boxes = A.BboxParams(
            format="pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True
        )
        self.pipeline = A.Compose(steps, bbox_params=boxes)

    def __call__(
        self, image: Image.Image, boxes: NDArray[np.float64], seed: int
    ) -> LetterboxedImage:
        """The square, with those boxes of which enough is left."""
        return self.letterbox.normalised(self.pixels(image, boxes, seed))

    def pixels(self, image: Image.Image, boxes: NDArray[np.float64], seed: int) -> LetterboxedImage:
        """The same in uint8."""
        stream = random.Random(seed)
        zoom = math.exp(stream.uniform(*(math.log(limit) for limit in self.options.scale)))
        # One stream for the whole pipeline, as in `vpt.data.transforms`.
        self.pipeline.set_random_state(np.random.default_rng(seed), stream)
        given = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        result = self.pipeline(
            image=np.array(prepared(image, self.preprocess)),
            bboxes=given,
            rows=np.arange(len(given)),
            zoom=zoom,
        )
        seen = np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 4)
        # Labels come back as floats.
        rows = np.rint(np.asarray(result["rows"], dtype=np.float64)).astype(np.int64)
        kept = _area(seen) >= (self.options.min_visibility - _ROUNDING) * _area(given[rows])
        return self.letterbox.place(
            Image.fromarray(result["image"]),
            seen[kept],
            rows[kept],
            shrink=min(zoom, 1.0),
            min_side=self.options.min_side,
        )


_ROUNDING = 1e-3
"""Of shares of areas: albumentations keeps boxes in float32, as shares of the side."""


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


class _WindowCrop(A.DualTransform):  # type: ignore[misc]
    """The part of the image that a square of 1 / zoom of its longer side shows; zoom 1: all.

    Pixels are cut, not resampled: the letterbox resizes once, antialiased.
    """

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.BBOXES)

    @property
    def targets_as_params(self) -> list[str]:
        return ["zoom"]

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = params["shape"][:2]
        side = max(1, round(max(height, width) / max(data["zoom"], 1.0)))
        crop_height, crop_width = min(side, height), min(side, width)
        top = self.py_random.randint(0, height - crop_height)
        left = self.py_random.randint(0, width - crop_width)
        return {"window": (left, top, left + crop_width, top + crop_height)}

    def apply(
        self, img: NDArray[np.uint8], window: tuple[int, int, int, int], **params: Any
    ) -> NDArray[np.uint8]:
        left, top, right, bottom = window
        return np.ascontiguousarray(img[top:bottom, left:right])

    def apply_to_bboxes(
        self, bboxes: NDArray[np.float32], window: tuple[int, int, int, int], **params: Any
    ) -> NDArray[np.float32]:
        """In shares of the image's sides before, of the window's after."""
        height, width = params["shape"][:2]
        left, top, right, bottom = window
        moved = bboxes.copy()
        for column, origin, side, before in (
            (0, left, right - left, width),
            (1, top, bottom - top, height),
            (2, left, right - left, width),
            (3, top, bottom - top, height),
        ):
            moved[:, column] = (bboxes[:, column] * before - origin) / side
        return moved


def box_evaluation_transform(preprocess: Preprocess) -> LetterboxTransform:
    """The transform for validation, test and prediction: the letterbox alone."""
    return LetterboxTransform(preprocess)


def box_training_transform(preprocess: Preprocess, options: BoxTransformConfig) -> BoxTransform:
    """The transform for training images: (image, boxes, seed) -> `LetterboxedImage`.

    Raises:
        ConfigError: the size is no square, or the interpolation unknown.
    """
    if options.name == "none":
        return LetterboxTransform(preprocess)
    return JitterTransform(preprocess, options)
