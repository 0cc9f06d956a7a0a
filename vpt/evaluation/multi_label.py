"""Metrics of images that may be of several classes, or of none."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_f1_score,
)

THRESHOLD = 0.5
"""A class with a higher probability counts as found, for F1."""


class MultiLabelEvaluator:
    """Metrics of logits, each class a question of its own, computed in one go from all of them.

    So batch sizes cannot change them.

    Args:
        num_classes: C.
    """

    headline: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """See `Evaluator.reset`."""
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """See `Evaluator.update`; the labels are (B, C), 0 or 1."""
        self._logits.append(outputs.detach().float().cpu())
        self._targets.append(labels.cpu())

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], except 'loss' (mean binary cross entropy in nats).

        'mAP', the mean of `average_precisions`, and 'macro_f1', that of the F1 scores, over the
        classes that occur; both are left out where none does. 'micro_f1' of all decisions
        together. F1 counts a class as found above a probability of 0.5.
        """
        logits, targets = torch.cat(self._logits).double(), torch.cat(self._targets)
        found, truth = logits.sigmoid() > THRESHOLD, targets.long()
        precisions = [value for value in self.average_precisions() if value is not None]
        scores = [
            float(binary_f1_score(found[:, label], truth[:, label]))
            for label in truth.any(dim=0).nonzero().flatten().tolist()
        ]
        metrics = {"mAP": fmean(precisions), "macro_f1": fmean(scores)} if scores else {}
        metrics["micro_f1"] = float(binary_f1_score(found.flatten(), truth.flatten()))
        metrics["loss"] = float(binary_cross_entropy_with_logits(logits, targets.double()))
        return metrics

    def average_precisions(self) -> list[float | None]:
        """The average precision of each class, in [0, 1]; None for one that no image is of.

        The sum over the ranking of precision times the step in recall, images of equal logits
        taken together (scikit-learn's definition, without interpolation).
        """
        logits, truth = torch.cat(self._logits).double(), torch.cat(self._targets).long()
        return [
            float(binary_average_precision(logits[:, label].sigmoid(), truth[:, label]))
            if bool(truth[:, label].any())
            else None
            for label in range(self.num_classes)
        ]
