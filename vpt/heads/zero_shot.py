"""Heads whose classes are texts: the zero-shot classifier, and a linear one that starts from it.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.errors import ConfigError
from vpt.heads.base import ClassRows, Head, TextParts
from vpt.structures import Dimensions, Features


class TextHead(Head):
    """A head whose classes are texts of the frozen text tower.

    Args:
        options: as they go into the prompt file.
        num_classes: C.
        text: the texts' features, and the model's scale and bias.
    """

    frozen_text: Tensor

    def __init__(self, options: dict[str, Any], num_classes: int, text: TextParts):
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        self.scale = text.logit_scale
        self.logit_bias = text.logit_bias
        self.register_buffer("frozen_text", text.weight.clone(), persistent=False)

    def text_features(self) -> Tensor:
        """(C, F), normalised: of the texts as they are now."""
        return self.frozen_text

    def teacher_logits(self, pooled: Tensor) -> Tensor:
        """Logits (B, C) that the zero-shot model gives features (B, F) of the frozen backbone."""
        return self._compare(pooled, self.frozen_text, self.scale, self.logit_bias)

    @staticmethod
    def _compare(
        pooled: Tensor, text: Tensor, scale: float | Tensor, bias: float | Tensor | None
    ) -> Tensor:
        """In fp32: a scale of 100 makes whole logits of bf16's rounding."""
        with torch.autocast(pooled.device.type, enabled=False):
            logits = scale * (F.normalize(pooled.float(), dim=-1) @ text.float().T)
            return logits if bias is None else logits + bias


class ZeroShotHead(TextHead):
    """Logits (B, C): the model's scale times the cosine of image and text features, plus its bias.

    With a learned context the texts are encoded at every step in training, and once per evaluation.

    Args:
        options: as they go into the prompt file.
        num_classes: C.
        text: features and scale of the frozen texts, and the module of a learned context.
        learn_scale: train the logarithm of the scale.
    """

    def __init__(
        self,
        options: dict[str, Any],
        num_classes: int,
        text: TextParts,
        *,
        learn_scale: bool = False,
    ):
        super().__init__(options, num_classes, text)
        log_scale = torch.tensor(math.log(text.logit_scale))
        self.log_scale = nn.Parameter(log_scale) if learn_scale else None
        self.context = text.context
        own_words = (options.get("context") or {}).get("class_specific")
        self.per_class = {"context.tokens": 1} if own_words else {}
        self._encoded: tuple[list[Tensor], Tensor] | None = None

    def forward(self, features: Features) -> Tensor:
        """See `Head.forward`."""
        assert features.pooled is not None
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        return self._compare(features.pooled, self.text_features(), scale, self.logit_bias)

    def class_rows(self) -> ClassRows:
        """See `Head.class_rows`; of a learned context, the texts as they are now."""
        scale = torch.tensor(self.scale) if self.log_scale is None else self.log_scale.exp()
        text = self.text_features()
        bias = torch.full((self.num_classes,), self.logit_bias or 0.0)
        return ClassRows(text, bias, scale, normalizes=True)

    def text_features(self) -> Tensor:
        """See `TextHead.text_features`."""
        if self.context is None:
            return self.frozen_text
        if self.training or torch.is_grad_enabled():
            return self.context()  # type: ignore[no-any-return]
        now = list(self.context.parameters())
        if self._encoded is None or not _are_equal(self._encoded[0], now):
            with torch.autocast(now[0].device.type, enabled=False):
                self._encoded = ([t.detach().clone() for t in now], self.context())
        return self._encoded[1]

    def train(self, mode: bool = True) -> ZeroShotHead:
        """Forget the encoded texts: training is about to change them."""
        self._encoded = None
        return super().train(mode)


def _are_equal(before: Sequence[Tensor], now: Sequence[Tensor]) -> bool:
    pairs = zip(before, now, strict=True)
    return all(a.device == b.device and a.dtype == b.dtype and a.equal(b) for a, b in pairs)


class LinearFromTextHead(TextHead):
    """Logits (B, C) of the normalised feature, from the zero-shot classifier's own rows on.

    Parameters: `weight` (C, F), which starts as the text features, and `bias` (C,), which starts
    as the model's bias or zero; the scale stays the model's. Untrained it is the zero-shot
    classifier (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 2).
    """

    per_class = MappingProxyType({"weight": 1, "bias": 1})

    def __init__(self, options: dict[str, Any], num_classes: int, text: TextParts):
        super().__init__(options, num_classes, text)
        self.weight = nn.Parameter(text.weight.clone())
        self.bias = nn.Parameter(torch.full((num_classes,), text.logit_bias or 0.0))

    def forward(self, features: Features) -> Tensor:
        """See `Head.forward`."""
        assert features.pooled is not None
        return self._compare(features.pooled, self.weight, self.scale, self.bias)

    def class_rows(self) -> ClassRows:
        """See `Head.class_rows`."""
        return ClassRows(self.weight, self.bias, torch.tensor(self.scale), normalizes=True)


def build_zero_shot(
    at: Dimensions, num_classes: int, text: TextParts | None, **options: Any
) -> ZeroShotHead:
    """The head from its checked options."""
    given = _require(text, "zero_shot", at)
    own = {"name": "zero_shot", **options}
    return ZeroShotHead(own, num_classes, given, learn_scale=options["learn_scale"])


def build_linear_from_text(
    at: Dimensions, num_classes: int, text: TextParts | None, **options: Any
) -> LinearFromTextHead:
    """The head from its checked options."""
    given = _require(text, "linear_from_text", at)
    return LinearFromTextHead({"name": "linear_from_text", **options}, num_classes, given)


def _require(text: TextParts | None, name: str, at: Dimensions) -> TextParts:
    if text is None:
        raise ConfigError(f"head {name} needs a text tower: take an open_clip backbone")
    if text.weight.shape[1] != at.feature_dim:
        raise ConfigError(
            f"head {name}: texts have {text.weight.shape[1]} features, images {at.feature_dim}"
        )
    return text
