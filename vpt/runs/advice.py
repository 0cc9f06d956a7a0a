"""What a run says of its data before it starts, where its result would surprise a newcomer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from PIL import Image

from vpt.data import Split
from vpt.data.loading.loader import load_sample
from vpt.errors import DataError
from vpt.experiment import AnyExperiment

_SAMPLES = 9
_PHOTO_SIDE = 96  # pixels; the bundled backbones were trained on pictures of 32 to 96
_COLOURFUL = 8.0  # mean of each pixel's largest less smallest channel, of 255; grey has 0


def advice_lines(experiment: AnyExperiment) -> Iterator[str]:
    """Lines for the log, none where nothing is odd."""
    config, train = experiment.config, experiment.splits.require("train")
    if config.data.batch_size > len(train):
        yield (
            f"data.batch_size {config.data.batch_size} is more than there are training images: "
            f"{len(train)} used"
        )
    if not isinstance(train, Split):
        return
    if not train.multi_label and max(train.class_counts()) == 1:
        yield (
            "every class has one training image: what is learned may be of that image, not of the "
            "class; add some"
        )
    if config.backbone.name.startswith("bundled/") and (size := _photograph_size(train)):
        yield (
            f"{config.backbone.name} was trained on rendered glyphs, not for photographs, which "
            f"these images look like ({size[0]} x {size[1]} px, in colour); take another backbone, "
            "e.g. backbone=timm/vit_base_patch16_224"
        )


def _photograph_size(split: Split) -> tuple[int, int] | None:
    """(width, height) of the split's typical image, if that is large and in colour.

    Scans of digits, drawings and small pictures are not: of a few images spread over the split
    most must be both.
    """
    places = sorted({len(split) * number // _SAMPLES for number in range(_SAMPLES)})
    sizes: list[tuple[int, int]] = []
    for place in places:
        with suppress(DataError):  # unreadable ones are reported elsewhere
            image = load_sample(split, split.samples[place])
            if min(image.size) > _PHOTO_SIDE and _is_colourful(image):
                sizes.append(image.size)
    return sizes[len(sizes) // 2] if 2 * len(sizes) > len(places) else None


def _is_colourful(image: Image.Image) -> bool:
    pixels = np.asarray(image.resize((32, 32))).astype(np.int16)
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean()) > _COLOURFUL
