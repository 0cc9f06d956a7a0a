"""The losses that keep a prompted model near the frozen one, against their equations."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vpt.models import Consistency
from vpt.models.consistency import feature_distance, logit_divergence

FLOATS = st.floats(-5, 5, width=32)


def rows(draws, width=4) -> Tensor:
    return torch.tensor(draws).view(-1, width) + 0.1


@given(st.lists(FLOATS, min_size=8, max_size=8), st.floats(0.1, 9))
def test_feature_distance__of_the_same_direction_is_zero__and_ignores_length(values, length):
    features = rows(values)
    assert feature_distance(features, length * features) < 1e-6


def test_feature_distance__is_the_mean_absolute_difference_of_unit_vectors():
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(feature_distance(first, second), torch.tensor((0.6 + 0.2) / 2))


def test_logit_divergence__equals_the_sum_written_out():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True))
    assert abs(float(logit_divergence(student, teacher)) - expected / 15) < 1e-6


@given(st.lists(FLOATS, min_size=8, max_size=8), st.lists(FLOATS, min_size=8, max_size=8))
def test_logit_divergence__is_never_negative__and_zero_for_equals(one, other):
    assert logit_divergence(rows(one), rows(other)) >= -1e-6
    assert abs(float(logit_divergence(rows(one), rows(one)))) < 1e-6


def test_no_weights__mean_no_consistency():
    assert not Consistency()
    assert Consistency(logits=1.0)
