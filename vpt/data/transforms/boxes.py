"""From a PIL image with boxes to a letterboxed square; seeded augmentation that moves boxes along.

This is the only place where detection changes the geometry of images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpt.config import BoxTransformConfig
from vpt.data.transforms.images import (
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
    from vpt.data.transforms.box_augmentation import JitterTransform

    return JitterTransform(preprocess, options)
