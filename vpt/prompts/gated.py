"""Gated prompts, for self-supervised backbones: each block passes on what a gate lets through.

Yoo et al., "Improving Visual Prompt Tuning for Self-supervised Vision Transformers", ICML 2023,
section 4.1: P_l = g_l * B_l(P_(l-1)) + (1 - g_l) * P_(l-1) with g_l = sigmoid(gamma_l) per block.
Section 4.2, "adaptive attention shaping": softmax(Q K^T / (sqrt(d) tau_l)) with tau_l per block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpt.choices import PromptPlacement
from vpt.errors import ConfigError
from vpt.prompts.options import Initializer
from vpt.prompts.tokens import TokenPrompt
from vpt.structures import Dimensions, Inside


class GatedPrompt(TokenPrompt):
    """Tokens that enter before block 0; after each block a gate mixes its output with its input.

    Parameters: `tokens` (1, T, D) and `gamma` (L - 1): what leaves the last block is read by none.
    With a temperature `log_temperature` (L), zero at first: tau is learned by its logarithm, which
    keeps it positive, and which decay pulls to 1.

    Args:
        num_tokens: T.
        depth: L.
        gate: start value of gamma.
        temperature: learn one of each block's attention, of all its tokens.
        **options: of `TokenPrompt`.
    """

    def __init__(
        self,
        num_tokens: int,
        depth: int,
        *,
        gate: float = -5.0,
        temperature: bool = False,
        **options: Any,
    ):
        super().__init__(num_tokens, (0,), **options)
        kept = ("num_tokens", "dropout", "init", "std", "placement")
        given = {key: self.options[key] for key in kept}  # type: ignore[call-overload,index]
        self.options = {"name": "vpt_gated", **given, "gate": gate}
        self.gamma = nn.Parameter(torch.full((depth - 1,), gate))
        self.log_temperature = None
        if temperature:
            self.options["temperature"] = True
            self.inside_layers = tuple(range(depth))
            self.log_temperature = nn.Parameter(torch.zeros(depth))

    def gate_of(self, layer: int) -> Tensor | None:
        """See `Prompt.gate_of`."""
        return self.gamma[layer].sigmoid().reshape(1, 1) if layer < len(self.gamma) else None

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`."""
        del batch_size
        if self.log_temperature is None:
            return None
        return Inside(temperature=self.log_temperature[layer].exp())


def build(
    at: Dimensions,
    *,
    init: Initializer | None = None,
    placement: PromptPlacement | None = None,
    temperature: bool = False,
    **options: Any,
) -> GatedPrompt:
    """The method from its checked options."""
    if temperature and at.attention is None:
        raise ConfigError(
            "prompt vpt_gated: this backbone's attention is of an unknown kind, or differs from "
            "block to block; leave temperature out"
        )
    return GatedPrompt(
        depth=at.depth,
        embed_dim=at.embed_dim,
        patch_size=at.patch_size,
        init=init or at.prompt_init,
        placement=placement or at.prompt_placement,
        temperature=temperature,
        **options,
    )
