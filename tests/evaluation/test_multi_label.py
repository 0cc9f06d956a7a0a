import math
import pickle  # noqa: TID251 - to see what an evaluator holds

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from vpt.evaluation import MultiLabelEvaluator


def measured(logits, targets) -> MultiLabelEvaluator:
    evaluator = MultiLabelEvaluator(logits.shape[1])
    for start in range(0, len(logits), 3):
        evaluator.update(logits[start : start + 3], targets[start : start + 3])
    return evaluator


def test_average_precision__with_ties__by_hand():
    # Ranked 3, 2, 2, 1: at 3 recall 1/2 with precision 1; the two at 2 come together: recall 1
    # with precision 2/3.
    logits = torch.tensor([[2.0], [3.0], [1.0], [2.0]])
    targets = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    assert measured(logits, targets).average_precisions() == [pytest.approx(1 / 2 + 1 / 2 * 2 / 3)]


def test_compute__by_hand():
    logits = torch.tensor([[2.0, -1.0, 0.0], [-2.0, 1.0, 0.0], [1.0, 1.0, -3.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    evaluator = measured(logits, targets)
    # Class 0 ranks right, wrong, right: 1/2 + 1/2 * 2/3. Class 1 ties its one image with another.
    assert evaluator.average_precisions() == [pytest.approx(5 / 6), pytest.approx(1 / 2), None]
    # Found: class 0 in images 0 and 2, class 1 in 1 and 2; a probability of 0.5 is not above it.
    values = [math.log1p(math.exp(-x)) for x in (2, -2, -1, 1, 1, -1, 0, 0, 3)]
    assert evaluator.compute() == {
        "mAP": pytest.approx((5 / 6 + 1 / 2) / 2),
        "macro_f1": pytest.approx((2 / 4 + 2 / 3) / 2),
        "micro_f1": pytest.approx(2 * 2 / (4 + 3)),
        "loss": pytest.approx(sum(values) / 9),
    }


def test_compute__equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=generator).mul(2).round()  # many ties
    targets = (torch.rand(60, 5, generator=generator) < 0.3).float()
    metrics = measured(logits, targets).compute()
    truth, found = targets.numpy(), (logits > 0).numpy()
    assert metrics["mAP"] == pytest.approx(average_precision_score(truth, logits.numpy()))
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert metrics["micro_f1"] == pytest.approx(f1_score(truth, found, average="micro"))


def test_compute__without_any_label__has_no_map_but_a_loss():
    evaluator = measured(torch.zeros(4, 2), torch.zeros(4, 2))
    assert evaluator.compute() == {"micro_f1": 0.0, "loss": pytest.approx(math.log(2))}
    assert evaluator.average_precisions() == [None, None]


def test_large_logits__keep_their_ranking():
    logits = torch.tensor([[25.0], [30.0], [20.0]])  # one in float32, once they are probabilities
    targets = torch.tensor([[0.0], [1.0], [0.0]])
    assert measured(logits, targets).average_precisions() == [1.0]


def test_reset__forgets():
    evaluator = measured(torch.ones(4, 2), torch.ones(4, 2))
    evaluator.reset()
    evaluator.update(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]))
    assert evaluator.average_precisions() == [1.0, None]


def test_batches_of_any_size__change_no_metric():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 6, generator=generator)
    targets = (torch.rand(20, 6, generator=generator) < 0.3).float()
    whole = MultiLabelEvaluator(6)
    whole.update(logits, targets)
    assert whole.compute() == measured(logits, targets).compute()


def test_what_is_held__is_each_score_once():
    evaluator = measured(torch.zeros(90, 50), torch.zeros(90, 50))
    evaluator.compute()
    assert len(pickle.dumps(evaluator)) < 90 * 50 * 5 + 90 * 8 + 1000
