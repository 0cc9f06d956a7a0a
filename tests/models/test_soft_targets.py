import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from vpt.models.soft_targets import soft_cross_entropy


@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_whole_targets__give_torchs_loss_of_labels(weights, smoothing):
    logits, labels = torch.randn(7, 3), torch.randint(3, (7,))
    each = None if weights is None else torch.tensor(weights)
    found = soft_cross_entropy(logits, torch.eye(3)[labels], each, label_smoothing=smoothing)
    expected = F.cross_entropy(logits, labels, each, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@given(st.floats(0, 1))
def test_without_weights__a_mixed_target__is_the_mixed_loss(share):
    torch.manual_seed(1)
    logits, one, other = torch.randn(7, 3), torch.randint(3, (7,)), torch.randint(3, (7,))
    targets = share * torch.eye(3)[one] + (1 - share) * torch.eye(3)[other]
    expected = share * F.cross_entropy(logits, one) + (1 - share) * F.cross_entropy(logits, other)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_with_weights__a_mixed_target__is_the_weighted_mean():
    logits, weights = torch.randn(1, 2), torch.tensor([1.0, 3.0])
    targets = torch.tensor([[0.25, 0.75]])
    losses = -logits.log_softmax(dim=-1)[0]
    expected = (0.25 * losses[0] + 0.75 * 3 * losses[1]) / (0.25 + 0.75 * 3)
    torch.testing.assert_close(soft_cross_entropy(logits, targets, weights), expected)
