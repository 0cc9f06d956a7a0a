"""What every head is to its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from vpt.registry import HEADS
from vpt.structures import Dimensions, Features


@dataclass(frozen=True)
class TextParts:
    """What a head that compares images with texts is built from.

    Attributes:
        weight: (C, F) text features of the frozen sentences, normalised.
        logit_scale: the model's own, as a factor.
        logit_bias: the model's own, or None.
        context: a module without input that gives (C, F) normalised features of learned sentences,
            differentiably; None where the sentences are fixed.
    """

    weight: Tensor
    logit_scale: float
    logit_bias: float | None = None
    context: nn.Module | None = None


@dataclass(frozen=True)
class ClassRows:
    """A head as one row per class: logits = scale * (x @ weight.T) + bias.

    Attributes:
        weight: (C, F).
        bias: (C,).
        scale: a scalar.
        normalizes: x is the pooled feature divided by its length; else as it is.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    normalizes: bool


class Head(nn.Module, ABC):
    """From features to what a task wants.

    Attributes:
        needs: the parts of `Features` that it reads.
        num_classes: C.
        options: what `build_head` makes the same head from, as it goes into the prompt file.
        per_class: tensors whose first axis runs over the classes, and how often it does, for heads
            that are started from another one's by the names of classes.
    """

    needs: tuple[str, ...] = ("pooled",)
    num_classes: int
    options: dict[str, Any]
    per_class: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """Logits (B, C)."""

    def class_rows(self) -> ClassRows | None:
        """The same logits by one row per class, as the head is now; None where they are not."""
        return None


def build_head(
    options: Mapping[str, Any], at: Dimensions, num_classes: int, text: TextParts | None = None
) -> Head:
    """A head from checked options ({name, ...}).

    Args:
        options: every option filled in.
        at: of the backbone that the head is for.
        num_classes: C.
        text: for the heads whose classes are texts.
    """
    given = {key: value for key, value in options.items() if key != "name"}
    head: Head = HEADS[options["name"]].build(at, num_classes, text, **given)
    return head
