"""What every head is to its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vpt.registry import HEADS
from vpt.structures import Dimensions, Features


class Head(nn.Module, ABC):
    """From features to what a task wants.

    Attributes:
        needs: the parts of `Features` that it reads.
        num_classes: C.
        options: what `build_head` makes the same head from, as it goes into the prompt file.
    """

    needs: tuple[str, ...] = ("pooled",)
    num_classes: int
    options: dict[str, Any]

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """Logits (B, C)."""


def build_head(options: Mapping[str, Any], at: Dimensions, num_classes: int) -> Head:
    """A head from checked options ({name, ...})."""
    given = {key: value for key, value in options.items() if key != "name"}
    head: Head = HEADS[options["name"]].build(at, num_classes, **given)
    return head
