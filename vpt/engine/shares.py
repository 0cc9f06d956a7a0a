"""What a part of a step's images counts in the mean over all of them.

A step sees one batch or several (accumulation), and each process has a part of each. Whatever the
parts, the loss is that of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vpt.engine.distributed import summed, world_size
from vpt.structures import AnyBatch, Batch


@dataclass(frozen=True)
class Share:
    """Of this process's part of one batch, in the mean over a step's images.

    Attributes:
        own: by its images, or by what their classes weigh.
        even: by its images within the batch, for losses that weigh no classes.
        batch: of the whole batch, of which the other processes have their parts.
    """

    own: float
    even: float
    batch: float


def shares_of(weights: Sequence[float], images: Sequence[int]) -> tuple[list[Share], int]:
    """The share of each batch's part that this process has, and the images of all processes.

    Args:
        weights: of each part, see `weight_of`; 0 for an empty one.
        images: how many each has.
    """
    sums = summed([*weights, *images])
    all_weights, all_images = sums[: len(weights)], sums[len(weights) :]
    total = sum(all_weights)
    shares = [
        Share(own=weight / total, even=whole / total * (count / of), batch=whole / total)
        for weight, whole, count, of in zip(weights, all_weights, images, all_images, strict=True)
    ]
    return shares, round(sum(all_images))


def weight_of(batch: AnyBatch | None, class_weights: Sequence[float] | None) -> float:
    """What a batch counts: its images, or what their classes weigh; nothing where there is none.

    Args:
        batch: with labels (B,) or shares of classes (B, C), where classes weigh.
        class_weights: C, or None for equal ones.
    """
    if batch is None:
        return 0.0
    if class_weights is None or not isinstance(batch, Batch):
        return float(len(batch.images))
    weights = torch.tensor(class_weights, dtype=torch.float64)
    labels = batch.labels.cpu()
    if labels.is_floating_point():
        return float((labels.double() @ weights).sum())
    return float(weights[labels].sum())


def weights_of(losses: dict[str, Tensor], share: Share) -> dict[str, float]:
    """What each part 'loss_<part>' of a model's loss counts in the step's; all call it together.

    Args:
        losses: of the model.
        share: of the images that they are the mean over.
    """
    parts = [name for name in losses if name.startswith("loss_")]
    if "positives" in losses:
        return dict.fromkeys(parts, _by_positives(losses["positives"], share))
    return {name: share.own if name == "loss_class" else share.even for name in parts}


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """This process's part of a step's loss.

    Args:
        losses: of the model, with one part or several.
        weights: of each part.
    """
    if len(set(weights.values())) == 1:
        return losses["loss"] * next(iter(weights.values()))
    return torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()


def _by_positives(positives: Tensor, share: Share) -> float:
    """The share of losses that were divided by this process's positives, not by all of them."""
    if world_size() == 1:
        return share.own
    own = float(positives)
    (whole,) = summed([own])
    return share.batch * max(1.0, own) / max(1.0, whole) if share.own else 0.0
