"""What is said of single classes: a short table, and which classes are taken for which."""

from __future__ import annotations

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.test_detection import IDS, truth_of
from vpt.data import Sample, Split
from vpt.evaluation import ClassificationEvaluator, DetectionEvaluator, MultiLabelEvaluator
from vpt.runs import Confused, breakdown_lines, breakdown_of, breakdown_of_boxes
from vpt.runs.breakdown import details_of
from vpt.structures import Detections

NAMES = ("ant", "bee", "cow")


def measured(labels, predicted, names=NAMES):
    """An evaluator of one class per image, and the split that it saw."""
    evaluator = ClassificationEvaluator(len(names))
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), len(names)).float()
    evaluator.update(logits, torch.tensor(labels))
    samples = [Sample(place, label, f"{place}") for place, label in enumerate(labels)]
    return evaluator, Split("test", samples, tuple(names))


def lines_of(breakdown):
    values, counts, confused = breakdown.values, breakdown.counts, breakdown.confused
    return list(breakdown_lines(values, counts, confused, measure=breakdown.measure))


def test_classes_and_worst_confusions__of_one_class_per_image():
    breakdown = breakdown_of(*measured([0, 0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 1, 0, 2]))
    assert breakdown.values == {"ant": 0.25, "bee": 0.5, "cow": 1.0}
    assert breakdown.counts == {"ant": 4, "bee": 2, "cow": 1}
    assert breakdown.confused == (
        Confused("ant", "bee", 2, 4),
        Confused("ant", "cow", 1, 4),
        Confused("bee", "ant", 1, 2),
    )
    assert lines_of(breakdown) == [
        "class   right  images",
        "ant     25.0%       4",
        "bee     50.0%       2",
        "cow    100.0%       1",
        "most confused: 2 of 4 'ant' taken for 'bee'; 1 of 4 'ant' taken for 'cow'",
    ]


def test_a_class_without_images__has_no_share():
    lines = lines_of(breakdown_of(*measured([0, 1], [0, 1])))
    assert lines[-1] == "cow         -       0"
    assert len(lines) == 4  # nothing is confused


def test_many_classes__only_the_ten_worst():
    names = [f"class_{number:02d}" for number in range(30)]
    labels = list(range(30)) * 2
    predicted = [*range(30), *([0] * 25), *range(25, 30)]
    first, header, *rows, last = lines_of(breakdown_of(*measured(labels, predicted, names)))
    assert first == "the 10 worst of 30 classes:"
    assert header.split() == ["class", "right", "images"]
    assert [row.split() for row in rows[:2]] == [
        ["class_01", "50.0%", "2"],
        ["class_02", "50.0%", "2"],
    ]
    assert len(rows) == 10
    assert last.startswith("most confused: 1 of 2 'class_01' taken for 'class_00'")


@given(st.lists(st.text("abcdef ", min_size=1, max_size=90), min_size=1, max_size=25, unique=True))
@settings(max_examples=30, deadline=None)
def test_lines__fit_a_terminal_of_eighty_columns__but_for_names_of_confusions(names):
    labels = list(range(len(names)))
    table = lines_of(breakdown_of(*measured(labels, [0] * len(names), names)))
    rows = [line for line in table if not line.startswith("most confused")]
    assert max(map(len, rows)) <= 60
    assert len(rows) == len(names) + 1 if len(names) <= 20 else 12


def test_boxes__missed_ones_and_those_of_nothing_are_said_in_words():
    truth = truth_of(
        (100, 3, [0, 0, 50, 50]), (100, 7, [100, 100, 50, 50]), (101, 7, [9, 9, 40, 40])
    )
    evaluator = DetectionEvaluator(truth, IDS)
    found = Detections(
        torch.tensor([[0.0, 0, 50, 50], [300, 300, 350, 350]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([1, 2]),
    )
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    evaluator.update([100, 101], [found, nothing])
    breakdown = breakdown_of_boxes(evaluator)
    assert breakdown.measure == "AP"
    assert breakdown.counts == {"cat": 1, "dog": 2, "owl": 0}
    assert [pair.line() for pair in breakdown.confused] == [
        "2 of 2 'dog' were missed",
        "1 of 1 'cat' taken for 'dog'",
        "1 found as 'owl' where nothing is",
    ]


def test_multi_label__has_average_precisions_and_no_confusions():
    evaluator = MultiLabelEvaluator(2)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    evaluator.update(targets * 4 - 2, targets)
    samples = [Sample(0, (0,), "a"), Sample(1, (1,), "b"), Sample(2, (0, 1), "c")]
    breakdown = breakdown_of(evaluator, Split("test", samples, ("ant", "bee")))
    assert breakdown.values == {"ant": 1.0, "bee": 1.0}
    assert breakdown.counts == {"ant": 2, "bee": 2}
    assert lines_of(breakdown)[0].split() == ["class", "AP", "count"]
    assert details_of(evaluator, breakdown) == {}


def test_details__hold_the_matrix__and_of_very_many_classes_its_pairs():
    evaluator, split = measured([0, 0, 1], [0, 1, 1])
    details = details_of(evaluator, breakdown_of(evaluator, split))
    assert details["confusion_matrix"] == {
        "classes": ["ant", "bee", "cow"],
        "counts": [[1, 1, 0], [0, 1, 0], [0, 0, 0]],
    }
    names = [str(number) for number in range(1001)]
    evaluator, split = measured([0, 1000], [0, 7], names)
    matrix = details_of(evaluator, breakdown_of(evaluator, split))["confusion_matrix"]
    assert matrix["pairs"] == [[0, 0, 1], [1000, 7, 1]]
    assert "counts" not in matrix
    json.dumps(matrix, allow_nan=False)
