import math

import pytest
import torch

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
