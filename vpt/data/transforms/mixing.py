"""Mixed training images: mixup and CutMix, both of images and of what they are labelled with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vpt.structures import Batch


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed with each other, in timm's words.

    Attributes:
        mixup_alpha: of mixup's Beta distribution; 0: no mixup.
        cutmix_alpha: of CutMix's Beta distribution; 0: no CutMix.
        prob: of a batch to be mixed at all.
        switch_prob: of CutMix, where both are on.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __bool__(self) -> bool:
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)


NO_MIXING = Mixing()
"""Every image as it is."""


def mix(batch: Batch, mixing: Mixing, *, num_classes: int, seed: int) -> Batch:
    """The batch with every image mixed with another of it; a pure function of batch and seed.

    One share lam ~ Beta(alpha, alpha) and one pairing, drawn at random, are for the whole batch:

    - mixup (Zhang et al. 2018, arXiv 1710.09412): x = lam x_i + (1 - lam) x_j, and so the targets;
    - CutMix (Yun et al. 2019, arXiv 1905.04899): a box with 1 - lam of the area, around a point
      drawn evenly and clipped to the image, is taken from x_j; the targets are mixed by the area
      that it really has.

    Args:
        batch: with labels (B,), or multi-label targets (B, C).
        mixing: what to do how often.
        num_classes: C.
        seed: of everything random here.

    Returns:
        A batch with targets (B, C) float32; the one given where there is nothing to mix.
    """
    random = np.random.default_rng(seed)
    if not mixing or random.random() >= mixing.prob:
        return batch
    assert isinstance(batch.images, Tensor), "what was begun with images is not mixed"
    both = mixing.mixup_alpha > 0 and mixing.cutmix_alpha > 0
    cut = random.random() < mixing.switch_prob if both else mixing.cutmix_alpha > 0
    alpha = mixing.cutmix_alpha if cut else mixing.mixup_alpha
    share = float(random.beta(alpha, alpha))
    partners = torch.from_numpy(random.permutation(len(batch.images))).to(batch.images.device)
    others = batch.images[partners]
    if cut:
        images, share = _cut(batch.images, others, share, random)
    else:
        images = batch.images * share + others * (1 - share)
    targets = _targets(batch.labels, num_classes)
    return replace(batch, images=images, labels=targets * share + targets[partners] * (1 - share))


def _cut(
    images: Tensor, others: Tensor, share: float, random: np.random.Generator
) -> tuple[Tensor, float]:
    """Images with a box of the others, and the share of the area that they keep."""
    height, width = images.shape[-2:]
    side = math.sqrt(1 - share)
    top, bottom = _span(height, side, random)
    left, right = _span(width, side, random)
    images = images.clone()
    images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, side: float, random: np.random.Generator) -> tuple[int, int]:
    """(start, end) of `side` x length pixels around a point, clipped to 0..length."""
    half = round(length * side) / 2
    middle = int(random.integers(length))
    return max(0, math.ceil(middle - half)), min(length, math.ceil(middle + half))


def _targets(labels: Tensor, num_classes: int) -> Tensor:
    """(B, C) float32 of labels (B,); targets as they are."""
    if labels.is_floating_point():
        return labels
    return torch.nn.functional.one_hot(labels, num_classes).float()
