"""Random augmentation of training images with boxes, from albumentations."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpt.config import BoxTransformConfig
from vpt.data.transforms.boxes import LetterboxedImage, LetterboxTransform
from vpt.data.transforms.images import prepared
from vpt.data.transforms.offline_albumentations import A
from vpt.structures import Preprocess


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
        # One stream for the whole pipeline, as in `vpt.data.transforms.augmentation`.
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
