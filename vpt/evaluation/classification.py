"""Classification metrics: accuracies, loss, calibration, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)


@dataclass(frozen=True)
class Mistake:
    """One image that is wrong.

    Attributes:
        place: its position in the split, if that was evaluated in its order.
        label: the true class.
        predicted: the one that was found.
        confidence: its probability.
        loss: cross entropy in nats.
    """

    place: int
    label: int
    predicted: int
    confidence: float
    loss: float


class ClassificationEvaluator:
    """Metrics of logits, computed in one go from all of them.

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
        self._labels: list[Tensor] = []

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """See `Evaluator.update`."""
        self._logits.append(outputs.detach().float().cpu())
        self._labels.append(labels.cpu())

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], except 'loss' (mean cross entropy in nats).

        'top1', 'top5' (where C > 5), 'mean_class_accuracy' (over the classes that occur), 'loss',
        'calibration_error' (ECE, 15 bins).
        """
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        counts = self.confusion_matrix()
        per_class = counts.sum(dim=1)
        present = per_class > 0
        metrics = {
            "top1": float((logits.argmax(dim=-1) == labels).double().mean()),
            "mean_class_accuracy": float(
                (counts.diagonal()[present] / per_class[present]).double().mean()
            ),
            "loss": float(torch.nn.functional.cross_entropy(logits.double(), labels)),
            "calibration_error": float(
                multiclass_calibration_error(logits.softmax(-1), labels, self.num_classes)
            ),
        }
        if self.num_classes > 5:
            hits = (logits.topk(5, dim=-1).indices == labels[:, None]).any(dim=-1)
            metrics["top5"] = float(hits.double().mean())
        return metrics

    def per_class_accuracy(self) -> list[float | None]:
        """The share of each class's images that is right, in [0, 1]; None for a class without."""
        counts = self.confusion_matrix()
        pairs = zip(counts.diagonal().tolist(), counts.sum(dim=1).tolist(), strict=True)
        return [hits / images if images else None for hits, images in pairs]

    def worst_mistakes(self, count: int) -> list[Mistake]:
        """Up to `count` images that are wrong, those with the highest confidence first."""
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        confidences, predicted = logits.softmax(dim=-1).max(dim=-1)
        wrong = (predicted != labels).nonzero().flatten()
        order = confidences[wrong].argsort(descending=True, stable=True)[:count]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return [
            Mistake(
                place,
                int(labels[place]),
                int(predicted[place]),
                float(confidences[place]),
                float(losses[place]),
            )
            for place in wrong[order].tolist()
        ]

    def confusion_matrix(self) -> Tensor:
        """(C, C) counts; rows are the true classes, columns the predicted ones."""
        predicted, labels = torch.cat(self._logits).argmax(dim=-1), torch.cat(self._labels)
        return multiclass_confusion_matrix(predicted, labels, self.num_classes)
