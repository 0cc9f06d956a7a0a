import math
import pickle  # noqa: TID251 - to see what an evaluator holds

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from vpt.evaluation import ClassificationEvaluator


def test_per_class_accuracy__is_the_diagonal_share__and_none_for_an_absent_class():
    evaluator = ClassificationEvaluator(4)
    evaluator.update(torch.eye(4)[[0, 1, 0]], torch.tensor([0, 0, 0]))
    evaluator.update(torch.eye(4)[[2, 0]], torch.tensor([2, 3]))
    assert evaluator.per_class_accuracy() == [2 / 3, None, 1.0, 0.0]


def test_per_class_accuracy__averages_to_the_mean_class_accuracy():
    generator = torch.Generator().manual_seed(0)
    evaluator = ClassificationEvaluator(7)
    labels = torch.randint(0, 6, (50,), generator=generator)
    evaluator.update(torch.randn(50, 7, generator=generator), labels)
    present = [value for value in evaluator.per_class_accuracy() if value is not None]
    metrics = evaluator.compute()
    assert len(present) == 6
    assert abs(sum(present) / 6 - metrics["mean_class_accuracy"]) < 1e-6
    assert "top5" in metrics


def test_compute__by_hand():
    evaluator = ClassificationEvaluator(5)
    logits = torch.zeros(4, 5)  # softmax: 1/2 for the predicted class, 1/8 for the others
    logits[torch.arange(4), torch.tensor([0, 0, 1, 0])] = math.log(4)
    evaluator.update(logits, torch.tensor([0, 0, 1, 1]))
    assert evaluator.compute() == {
        "top1": 0.75,
        "mean_class_accuracy": pytest.approx((1 + 1 / 2) / 2),
        "loss": pytest.approx((3 * math.log(2) + math.log(8)) / 4),
        "calibration_error": pytest.approx(0.75 - 0.5),
    }


def test_top5__of_six_classes__misses_the_least_likely_one():
    evaluator = ClassificationEvaluator(6)
    evaluator.update(torch.arange(6.0).flip(0).repeat(6, 1), torch.arange(6))
    metrics = evaluator.compute()
    assert metrics["top1"] == pytest.approx(1 / 6)
    assert metrics["top5"] == pytest.approx(5 / 6)


def test_reset__forgets_the_classes_seen():
    evaluator = ClassificationEvaluator(2)
    evaluator.update(torch.eye(2), torch.tensor([0, 1]))
    evaluator.reset()
    evaluator.update(torch.eye(2)[:1], torch.tensor([0]))
    assert evaluator.per_class_accuracy() == [1.0, None]


@given(
    classes=st.integers(2, 12),
    images=st.integers(1, 40),
    batch=st.integers(1, 9),
    seed=st.integers(0),
)
def test_compute__in_batches_of_any_size__equals_torchmetrics_on_all_logits(
    classes, images, batch, seed
):
    generator = torch.Generator().manual_seed(seed % 2**32)
    logits = torch.randn(images, classes, generator=generator) * 4
    labels = torch.randint(0, classes, (images,), generator=generator)
    evaluator = ClassificationEvaluator(classes)
    for start in range(0, images, batch):
        evaluator.update(logits[start : start + batch], labels[start : start + batch])
    metrics = evaluator.compute()
    assert metrics["top1"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert metrics["loss"] == pytest.approx(float(cross_entropy(logits.double(), labels)))
    expected = multiclass_calibration_error(logits.softmax(-1), labels, classes)
    assert metrics["calibration_error"] == pytest.approx(float(expected), abs=1e-6)
    if classes > 5:
        top5 = multiclass_accuracy(logits, labels, classes, top_k=5, average="micro")
        assert metrics["top5"] == pytest.approx(float(top5))
    matrix = multiclass_confusion_matrix(logits.argmax(1), labels, classes)
    assert torch.equal(evaluator.confusion_matrix(), matrix)
    whole = ClassificationEvaluator(classes)
    whole.update(logits, labels)
    assert whole.compute() == metrics


def test_equal_logits__rank_by_class__so_that_a_constant_model_is_no_better_than_chance():
    evaluator = ClassificationEvaluator(10)
    evaluator.update(torch.zeros(10, 10), torch.arange(10))
    metrics = evaluator.compute()
    assert (metrics["top1"], metrics["top5"]) == (0.1, 0.5)


def test_logits_that_are_no_numbers__are_no_hits():
    evaluator = ClassificationEvaluator(8)
    evaluator.update(torch.full((2, 8), float("nan")), torch.tensor([3, 4]))
    metrics = evaluator.compute()
    assert (metrics["top1"], metrics["top5"]) == (0.0, 0.0)
    assert math.isnan(metrics["loss"])


def test_what_is_held__of_an_image__does_not_grow_with_the_classes():
    sizes = []
    for classes in (10, 2000):
        evaluator = ClassificationEvaluator(classes)
        for _ in range(10):
            evaluator.update(torch.zeros(20, classes), torch.zeros(20).long())
        evaluator.compute()
        sizes.append(len(pickle.dumps(evaluator)))
    assert abs(sizes[0] - sizes[1]) < 10
    assert sizes[1] < 200 * 32 + 1000


def test_confusions__hold_the_pairs_that_occur__and_the_most_frequent_mistakes():
    evaluator = ClassificationEvaluator(100_000)
    logits = torch.zeros(4, 100_000)
    logits[torch.arange(4), torch.tensor([7, 99_999, 99_999, 5])] = 1.0
    evaluator.update(logits, torch.tensor([7, 3, 3, 4]))
    confusions = evaluator.confusions()
    pairs = zip(confusions.true, confusions.predicted, confusions.counts, strict=True)
    assert list(pairs) == [(3, 99_999, 2), (4, 5, 1), (7, 7, 1)]
    assert confusions.most_frequent(1) == [(3, 99_999, 2)]
    assert confusions.most_frequent(9) == [(3, 99_999, 2), (4, 5, 1)]
    assert confusions.matrix(most=4).tolist() == [[2, 0, 0, 2], *[[0, 0, 0, 0]] * 3]


def test_a_coarse_matrix__counts_neighbouring_classes_together():
    evaluator = ClassificationEvaluator(5)
    evaluator.update(torch.eye(5)[[0, 1, 4, 4]], torch.tensor([1, 2, 4, 0]))
    assert evaluator.confusions().matrix(most=3).tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert torch.equal(evaluator.confusions().matrix(most=5), evaluator.confusion_matrix())
