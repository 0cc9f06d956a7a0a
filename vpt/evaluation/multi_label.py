"""Metrics of images that may be of several classes, or of none."""

from __future__ import annotations

from array import array
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Counts = NDArray[np.int64]

THRESHOLD = 0.5
"""A class with a higher probability counts as found, for F1."""


class MultiLabelEvaluator:
    """Metrics of logits, each class a question of its own.

    The average precision is exact: it ranks all images by their scores, so every score is kept, 5
    bytes for each image and class (80 classes x 50,000 images: 20 MB). Batch sizes cannot change
    the metrics.

    Args:
        num_classes: C.
    """

    headline: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """See `Evaluator.reset`."""
        self._logits = array("f")
        self._targets = array("B")
        self._losses = array("d")  # of each image, the sum over its classes

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """See `Evaluator.update`; the labels are (B, C), 0 or 1."""
        logits, targets = outputs.detach().float().cpu(), labels.detach().cpu()
        losses = binary_cross_entropy_with_logits(
            logits.double(), targets.double(), reduction="none"
        )
        for column, values in (
            (self._logits, logits),
            (self._targets, targets.to(torch.uint8)),
            (self._losses, losses.sum(dim=1)),
        ):
            column.frombytes(values.contiguous().numpy().tobytes())

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], except 'loss' (mean binary cross entropy in nats).

        'mAP', the mean of `average_precisions`, and 'macro_f1', that of the F1 scores, over the
        classes that occur; both are left out where none does. 'micro_f1' of all decisions
        together. F1 counts a class as found above a probability of 0.5.
        """
        precisions = [value for value in self.average_precisions() if value is not None]
        hits, found, true = self._decisions()
        occurs = true > 0
        metrics = {}
        if precisions:
            scores = 2 * hits[occurs] / (found + true)[occurs]
            metrics = {"mAP": fmean(precisions), "macro_f1": float(scores.mean())}
        metrics["micro_f1"] = 2 * int(hits.sum()) / max(1, int((found + true).sum()))
        metrics["loss"] = float(np.sum(np.array(self._losses))) / len(self._targets)
        return metrics

    def average_precisions(self) -> list[float | None]:
        """The average precision of each class, in [0, 1]; None for one that no image is of.

        The sum over the ranking of precision times the step in recall, images of equal logits
        taken together (scikit-learn's definition, without interpolation).
        """
        from torchmetrics.functional.classification import binary_average_precision

        values: list[float | None] = []
        for label in range(self.num_classes):
            logits, truth = self._of_class(label)
            if not truth.any():
                values.append(None)
                continue
            # In double, as large logits are one probability in float32.
            values.append(float(binary_average_precision(logits.double().sigmoid(), truth.long())))
        return values

    def _decisions(self) -> tuple[Counts, Counts, Counts]:
        """(C,) int64 each: true positives, predicted images and true images of each class."""
        counts = []
        for label in range(self.num_classes):
            logits, truth = self._of_class(label)
            found = logits.double().sigmoid() > THRESHOLD
            counts.append((int((found & truth).sum()), int(found.sum()), int(truth.sum())))
        hits, found_images, true = np.array(counts, dtype=np.int64).reshape(-1, 3).T
        return hits, found_images, true

    def _of_class(self, label: int) -> tuple[Tensor, Tensor]:
        """Every image's logit of one class, and whether it is of it."""
        logits = np.frombuffer(self._logits, dtype=np.float32).reshape(-1, self.num_classes)
        targets = np.frombuffer(self._targets, dtype=np.uint8).reshape(-1, self.num_classes)
        return torch.tensor(logits[:, label]), torch.tensor(targets[:, label]).bool()
