"""The rule by which the better of two validations is chosen."""

import pytest

from vpt.evaluation import is_better


@pytest.mark.parametrize(
    ("now", "best", "select", "better"),
    [
        ({"top1": 0.8, "loss": 9.0}, {"top1": 0.7, "loss": 0.1}, "top1", True),
        ({"top1": 0.7, "loss": 0.1}, {"top1": 0.8, "loss": 9.0}, "top1", False),
        ({"top1": 0.7, "loss": 0.4}, {"top1": 0.7, "loss": 0.5}, "top1", True),
        ({"top1": 0.7, "loss": 0.5}, {"top1": 0.7, "loss": 0.4}, "top1", False),
        ({"top1": 0.7, "loss": 0.5}, {"top1": 0.7, "loss": 0.5}, "top1", False),
        ({"mAP": 0.7, "loss": 0.4}, {"mAP": 0.7, "loss": 0.5}, "mAP", True),
        ({"top1": 0.1, "loss": 0.4}, {"top1": 0.9, "loss": 0.5}, "loss", True),
        ({"top1": 0.9, "loss": 0.5}, {"top1": 0.1, "loss": 0.5}, "loss", False),
        ({"AP": 0.3}, {"AP": 0.3}, "AP", False),
        ({"AP": 0.31}, {"AP": 0.3}, "AP", True),
        ({}, {}, "last", True),
        ({"top1": 0.0, "loss": 1.0}, None, "top1", True),
    ],
)
def test_the_better_one__has_the_better_metric__or_on_a_tie_the_lower_loss(
    now, best, select, better
):
    assert is_better(now, best, select) is better
