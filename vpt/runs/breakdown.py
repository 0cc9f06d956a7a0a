"""A measurement class by class: how good each is, and which are taken for which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpt.evaluation import (
    NOTHING,
    ClassificationEvaluator,
    DetectionEvaluator,
    Evaluator,
    MultiLabelEvaluator,
)
from vpt.runs.boxes import BoxEvaluator

if TYPE_CHECKING:
    from vpt.runs.feeding import AnySplit

MOST_ROWS, WORST_ROWS, WORST_PAIRS = 20, 10, 2
"""Classes that a table has; of more the worst so many; pairs of classes below it."""

_KEPT_PAIRS = 10
_MOST_CELLS = 1_000_000
_WIDEST = 40


@dataclass(frozen=True)
class Confused:
    """Images, or boxes, of one class that were taken for another.

    Attributes:
        true: the class they are of; 'nothing' where there was no box.
        found: the class they were taken for; 'nothing' where no box was found.
        count: how many.
        of: how many of the true class there are; 0 for 'nothing'.
    """

    true: str
    found: str
    count: int
    of: int

    def line(self) -> str:
        """In words."""
        if self.true == NOTHING:
            return f"{self.count} found as '{self.found}' where nothing is"
        what = "were missed" if self.found == NOTHING else f"taken for '{self.found}'"
        return f"{self.count} of {self.of} '{self.true}' {what}"


@dataclass(frozen=True)
class Breakdown:
    """What a measurement says of each class.

    Attributes:
        measure: what the values are: 'right' (the share of its images) or 'AP'.
        values: by class; None for one that does not occur.
        counts: by class, its images, or its boxes.
        confused: the most frequent confusions, most first; empty for multi-label data.
    """

    measure: str
    values: dict[str, float | None]
    counts: dict[str, int]
    confused: tuple[Confused, ...] = ()


def breakdown_of(evaluator: Evaluator, split: AnySplit) -> Breakdown:
    """The breakdown of what an evaluator has measured of a split."""
    if isinstance(evaluator, BoxEvaluator):
        return breakdown_of_boxes(evaluator.coco)
    names = list(split.class_names)
    counts = [int(count) for count in split.class_counts()]
    if isinstance(evaluator, MultiLabelEvaluator):
        measure, values, pairs = "AP", evaluator.average_precisions(), []
    else:
        assert isinstance(evaluator, ClassificationEvaluator)
        measure, values = "right", evaluator.per_class_accuracy()
        pairs = evaluator.confusions().most_frequent(_KEPT_PAIRS)
    return Breakdown(
        measure,
        dict(zip(names, values, strict=True)),
        dict(zip(names, counts, strict=True)),
        tuple(Confused(names[t], names[f], count, counts[t]) for t, f, count in pairs),
    )


def breakdown_of_boxes(evaluator: DetectionEvaluator) -> Breakdown:
    """The breakdown of measured boxes; a box that was missed was found as nothing."""
    values = evaluator.per_class_ap()
    matrix = evaluator.confusion_matrix()
    names, counts = [*evaluator.class_names, NOTHING], [*matrix.sum(dim=1).tolist()[:-1], 0]
    wrong = matrix.fill_diagonal_(0).flatten()
    cells = wrong.argsort(descending=True, stable=True)[:_KEPT_PAIRS].tolist()
    pairs = [(*divmod(cell, len(names)), int(wrong[cell])) for cell in cells if wrong[cell]]
    return Breakdown(
        "AP",
        values,
        dict(zip(names[:-1], counts[:-1], strict=True)),
        tuple(Confused(names[t], names[f], count, counts[t]) for t, f, count in pairs),
    )


def details_of(evaluator: Evaluator, breakdown: Breakdown) -> dict[str, Any]:
    """What a file takes of a classifier's measurement besides its metrics, as JSON values.

    Each class's accuracy, and the matrix of confusions (rows: true classes); of more than a
    thousand classes [true, found, images] of the pairs that occur, by position.
    """
    if not isinstance(evaluator, ClassificationEvaluator):
        return {}
    found, names = evaluator.confusions(), list(breakdown.values)
    confusions: dict[str, Any] = {"classes": names}
    if len(names) ** 2 <= _MOST_CELLS:
        confusions["counts"] = found.matrix().tolist()
    else:
        columns = (found.true.tolist(), found.predicted.tolist(), found.counts.tolist())
        confusions["pairs"] = [list(pair) for pair in zip(*columns, strict=True)]
    return {"accuracy_per_class": breakdown.values, "confusion_matrix": confusions}


def breakdown_lines(
    values: Mapping[str, float | None],
    counts: Mapping[str, int],
    confused: Sequence[Confused],
    *,
    measure: str,
) -> Iterator[str]:
    """A short table of the classes, the worst alone where they are many, and the worst confusions.

    Args:
        values: see `Breakdown`, whose other attributes these are.
        counts: by class.
        confused: most frequent first.
        measure: heads the column of the values.
    """
    present = [name for name, value in values.items() if value is not None]
    if not present:
        return
    shown = list(values)
    if len(shown) > MOST_ROWS:
        shown = sorted(present, key=lambda name: values[name] or 0.0)[:WORST_ROWS]
        yield f"the {len(shown)} worst of {len(values)} classes:"
    width = min(_WIDEST, max(5, *(len(name) for name in shown)))
    number = "images" if measure == "right" else "count"
    yield f"{'class':<{width}}  {measure:>6}  {number:>6}"
    for name in shown:
        value = values[name]
        cut = name if len(name) <= width else f"{name[: width - 3]}..."
        share = "-" if value is None or math.isnan(value) else f"{value:.1%}"
        yield f"{cut:<{width}}  {share:>6}  {counts.get(name, 0):>6,}"
    worst = [pair.line() for pair in confused[:WORST_PAIRS]]
    if worst:
        yield f"most confused: {'; '.join(worst)}"
