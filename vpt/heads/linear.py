"""The linear classification head."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vpt.heads.base import ClassRows, Head, TextParts
from vpt.heads.options import Initializer
from vpt.structures import Dimensions, Features


class LinearHead(Head):
    """Logits (B, C) of the pooled feature (B, F).

    Args:
        feature_dim: F.
        num_classes: C.
        init: 'normal' (std 0.01, bias 0), 'zeros', or 'paper' (Kaiming normal by fan-out, bias -ln
            99, as the authors of VPT start theirs).
    """

    per_class = MappingProxyType({"weight": 1, "bias": 1})

    def __init__(self, feature_dim: int, num_classes: int, *, init: Initializer = "normal"):
        super().__init__()
        self.num_classes = num_classes
        self.options = {"name": "linear", "init": init}
        self.weight = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.bias = nn.Parameter(
            torch.full((num_classes,), -math.log(99.0) if init == "paper" else 0.0)
        )
        if init == "paper":
            nn.init.kaiming_normal_(self.weight, mode="fan_out")
        elif init == "normal":
            nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Features) -> Tensor:
        """See `Head.forward`."""
        assert features.pooled is not None
        return nn.functional.linear(features.pooled, self.weight, self.bias)

    def class_rows(self) -> ClassRows:
        """See `Head.class_rows`."""
        return ClassRows(self.weight, self.bias, torch.ones(()), normalizes=False)


def build(
    at: Dimensions, num_classes: int, text: TextParts | None = None, **options: Any
) -> LinearHead:
    """The head from its checked options."""
    del text
    return LinearHead(at.feature_dim, num_classes, **options)
