"""The cross entropy of targets that are shares of several classes, as mixed images have them."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """The cross entropy of soft targets; with whole ones torch's of labels, weights and all.

    That is the sum over images and classes of weight * target * -log probability, divided by the
    sum of weight * target. (torch's own divides soft targets by the number of images, whatever
    they weigh.)

    Args:
        logits: (B, C).
        targets: (B, C), shares that sum to 1 for each image.
        weights: (C,), or None for equal ones.
        label_smoothing: share of the target that is spread evenly over all classes.
    """
    weights = torch.ones_like(logits[0]) if weights is None else weights
    smoothed = targets * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    total = -(weights * smoothed * logits.log_softmax(dim=-1)).sum()
    return total / (weights * targets).sum()
