"""The MLP head: MLP-k of the tuning papers' tables.

Jia et al., "Visual Prompt Tuning", ECCV 2022, section 4.1: an MLP of k layers in the linear head's
place. Without the batch norm of common implementations: an image's logits do not depend on others.
"""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from vpt.heads.base import Head, TextParts
from vpt.structures import Dimensions, Features


class MlpHead(Head):
    """Logits (B, C) of the pooled feature (B, F) by k linear layers with ReLU between them.

    Args:
        feature_dim: F.
        num_classes: C.
        layers: k.
        width: of the hidden layers; None takes F.
        dropout: after each hidden layer, in training.
    """

    per_class = MappingProxyType({"last.weight": 1, "last.bias": 1})

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        layers: int = 3,
        width: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.options = {"name": "mlp", "layers": layers, "width": width, "dropout": dropout}
        widths = [feature_dim, *[width or feature_dim] * (layers - 1)]
        self.hidden = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(widths[-1], num_classes)
        for linear in self.hidden:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Features) -> Tensor:
        """See `Head.forward`."""
        assert features.pooled is not None
        x = features.pooled
        for linear in self.hidden:
            x = self.dropout(linear(x).relu())
        return self.last(x)  # type: ignore[no-any-return]


def build(
    at: Dimensions, num_classes: int, text: TextParts | None = None, **options: Any
) -> MlpHead:
    """The head from its checked options."""
    del text
    return MlpHead(at.feature_dim, num_classes, **options)
