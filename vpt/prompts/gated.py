"""Gated prompts, for self-supervised backbones: each block passes on what a gate lets through.

Yoo et al., "Improving Visual Prompt Tuning for Self-supervised Vision Transformers", ICML 2023,
section 4.1: P_l = g_l * B_l(P_(l-1)) + (1 - g_l) * P_(l-1) with g_l = sigmoid(gamma_l) per block.
Section 4.2, "adaptive attention shaping": softmax(Q K^T / (sqrt(d) tau_l)) with tau_l per block.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vpt.config import Schema
from vpt.errors import ConfigError
from vpt.prompts.tokens import Initializer, StartSpread, TokenCount, TokenPrompt
from vpt.registry import PROMPTS
from vpt.structures import Dimensions, Inside, PromptPlacement


class GatedOptions(Schema):
    """Options of `vpt_gated`."""

    num_tokens: TokenCount = Field(
        10, gt=0, description="prompt tokens T, which flow through all blocks"
    )
    gate: float = Field(
        -5.0, ge=-100.0, le=100.0, description="start value of every gamma: sigmoid(-5) is 0.007"
    )
    temperature: bool = Field(
        False, description="learn a temperature of each block's attention as well"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of prompt values zeroed, per image"
    )
    init: Initializer | None = Field(None, description="start values; null: the family's")
    std: StartSpread = Field(0.02, description="standard deviation of init: normal")
    placement: PromptPlacement | None = Field(
        None, description="before or after the pre-norm; null: the family's"
    )


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


def _build(
    at: Dimensions,
    *,
    init: Initializer | None = None,
    placement: PromptPlacement | None = None,
    temperature: bool = False,
    **options: Any,
) -> GatedPrompt:
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


PROMPTS.register("vpt_gated", GatedOptions, _build)
