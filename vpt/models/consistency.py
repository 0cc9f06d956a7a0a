"""Losses that keep a prompted CLIP near the frozen one (PromptSRC, Khattak et al. 2023, eq. 3-5).

They guard what the frozen model knows of classes that are not trained on, and work with visual
prompts alone: only `text` needs a learned context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Consistency:
    """Weights of the three losses; zero leaves one out. The paper's are 10, 25 and 1.

    Attributes:
        image: mean absolute difference of the normalised image features, prompted and frozen.
        text: the same of the normalised text features, learned and frozen.
        logits: Kullback-Leibler divergence of the prompted class probabilities from the zero-shot
            model's, mean over images and classes.
    """

    image: float = 0.0
    text: float = 0.0
    logits: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.image or self.text or self.logits)


NO_CONSISTENCY = Consistency()
"""Cross entropy alone."""


def feature_distance(prompted: Tensor, frozen: Tensor) -> Tensor:
    """Mean absolute difference of features (K, F) after normalisation (eq. 3)."""
    return F.l1_loss(F.normalize(prompted.float(), dim=-1), F.normalize(frozen.float(), dim=-1))


def logit_divergence(prompted: Tensor, frozen: Tensor) -> Tensor:
    """KL(frozen || prompted) of logits (B, C), summed and divided by B * C (eq. 4)."""
    student, teacher = prompted.float().log_softmax(dim=-1), frozen.float().log_softmax(dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / prompted.numel()
