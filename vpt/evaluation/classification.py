"""Classification metrics: accuracies, loss, calibration, confusions."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TOP = 5
_BINS = 15


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


@dataclass(frozen=True)
class Confusions:
    """How often each true class was found as each class; only pairs that occur are held.

    Attributes:
        num_classes: C.
        true: (P,) int64, the true class of each pair; pairs are in the order of a (C, C) matrix.
        predicted: (P,) int64, the class that was found.
        counts: (P,) int64, images; at least 1.
    """

    num_classes: int
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]

    def matrix(self, *, most: int | None = None) -> Tensor:
        """(C, C) int64; rows are the true classes, columns the predicted ones.

        Args:
            most: rows of the matrix. For more classes, neighbours in label order share a row and a
                column, as few as possible. None: each class has its own, 8 * C * C bytes.
        """
        share = 1 if most is None else max(1, -(-self.num_classes // most))
        side = -(-self.num_classes // share)
        cells = (self.true // share) * side + self.predicted // share
        counts = torch.zeros(side * side, dtype=torch.int64)
        counts.index_add_(0, torch.from_numpy(cells), torch.from_numpy(self.counts))
        return counts.reshape(side, side)

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """Up to `count` (true class, other class, images) that are wrong, most images first."""
        wrong = np.flatnonzero(self.true != self.predicted)
        order = wrong[np.argsort(-self.counts[wrong], kind="stable")][:count]
        return [
            (int(self.true[pair]), int(self.predicted[pair]), int(self.counts[pair]))
            for pair in order
        ]


class ClassificationEvaluator:
    """Metrics of logits. Of each image 32 bytes are kept, however many classes there are.

    Each image's numbers depend on its own logits alone, and they are averaged in one go: batch
    sizes cannot change the metrics.

    Args:
        num_classes: C.
    """

    headline: tuple[str, ...] = ()

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """See `Evaluator.reset`."""
        self._labels = array("q")
        self._predicted = array("q")
        self._ranks = array("i")  # of the label, 0: no class has a higher logit
        self._confidences = array("f")
        self._losses = array("d")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """See `Evaluator.update`."""
        logits, labels = outputs.detach().float().cpu(), labels.detach().long().cpu()
        for column, values in (
            (self._labels, labels),
            (self._predicted, logits.argmax(dim=-1)),
            (self._ranks, _ranks(logits, labels).int()),
            (self._confidences, logits.softmax(dim=-1).amax(dim=-1)),
            (self._losses, _losses(logits, labels)),
        ):
            column.frombytes(values.contiguous().numpy().tobytes())

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], except 'loss' (mean cross entropy in nats).

        'top1', 'top5' (where C > 5), 'mean_class_accuracy' (over the classes that occur), 'loss',
        'calibration_error' (ECE, 15 bins).
        """
        right = self._right()
        per_class = [share for share in self.per_class_accuracy() if share is not None]
        metrics = {
            "top1": float(right.mean()),
            "mean_class_accuracy": float(np.mean(per_class)),
            "loss": float(np.mean(_column(self._losses))),
            "calibration_error": _calibration_error(_column(self._confidences), right),
        }
        if self.num_classes > _TOP:
            metrics["top5"] = float((_column(self._ranks) < _TOP).mean())
        return metrics

    def per_class_accuracy(self) -> list[float | None]:
        """The share of each class's images that is right, in [0, 1]; None for a class without."""
        labels = _column(self._labels)
        images = np.bincount(labels, minlength=self.num_classes)
        hits = np.bincount(labels[self._right()], minlength=self.num_classes)
        pairs = zip(hits.tolist(), images.tolist(), strict=True)
        return [right / total if total else None for right, total in pairs]

    def worst_mistakes(self, count: int) -> list[Mistake]:
        """Up to `count` images that are wrong, those with the highest confidence first."""
        wrong = np.flatnonzero(~self._right())
        order = np.argsort(-_column(self._confidences)[wrong], kind="stable")[:count]
        return [
            Mistake(
                place,
                self._labels[place],
                self._predicted[place],
                self._confidences[place],
                self._losses[place],
            )
            for place in wrong[order].tolist()
        ]

    def confusions(self) -> Confusions:
        """The counts of the pairs of true and predicted class that occur."""
        pairs = _column(self._labels) * self.num_classes + _column(self._predicted)
        cells, counts = np.unique(pairs, return_counts=True)
        true, predicted = np.divmod(cells, self.num_classes)
        return Confusions(self.num_classes, true, predicted, counts.astype(np.int64))

    def confusion_matrix(self) -> Tensor:
        """(C, C) counts; rows are the true classes, columns the predicted ones."""
        return self.confusions().matrix()

    def _right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = _column(self._predicted) == _column(self._labels)
        return right


def _column(values: array[Any]) -> NDArray[Any]:
    """A copy, as an array whose memory is looked at cannot grow."""
    return np.array(values)


def _calibration_error(confidences: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """The expected calibration error in bins of equal width (Guo et al. 2017, equation 5)."""
    edges = np.linspace(0, 1, _BINS + 1, dtype=np.float32)
    bins = np.searchsorted(edges, confidences, side="right")
    hits = np.bincount(bins, weights=right)
    expected = np.bincount(bins, weights=confidences)
    return float(np.abs(hits - expected).sum() / len(right))


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,): how many classes come before the label; of equal logits the first class does.

    NaN comes before everything, so that an image without numbers is no hit.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1]) < labels[:, None]
    before = ~(logits <= own) | ((logits == own) & earlier)
    return before.sum(dim=1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) float64 cross entropies in nats."""
    return torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
