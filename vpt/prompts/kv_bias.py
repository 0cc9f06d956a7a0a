"""Freed biases of keys and values, for use beside prompts.

Ren et al., "DA-VPT: Semantic-Guided Visual Prompt Tuning for Vision Transformers", CVPR 2025: its
"+" variant also trains the biases b_k and b_v of K = W_k x + b_k, V = W_v x + b_v in every block.
Here they are what is added to the backbone's own, so that a shared backbone stays as it is, with
queries' biases never in reach, and that backbones without such biases get them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.prompts.options import LayerChoice, Target
from vpt.prompts.tokens import resolve_layers
from vpt.structures import AttentionShape, Dimensions, Inside


class BiasPrompt(Prompt):
    """What is added to the key and value biases of some layers' attention, zero at first.

    The keys' alone often does nothing: q . (k_i + b) = q . k_i + q . b shifts all scores of a query
    alike, which the softmax does not see, and prompt tokens pass the same projection, as context
    too. It has an effect where keys are normed or rotated after it, or stand beside others that it
    is not added to: the learned ones of `kv`.

    Parameters: per layer and target the width of the projection, kv heads * head_dim.

    Args:
        layers: ascending layer numbers.
        attention: its heads.
        targets: of 'key', 'value'.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        *,
        attention: AttentionShape,
        targets: Sequence[Target] = ("key", "value"),
    ):
        super().__init__()
        self.inside_layers = layers
        self.options = {"name": "kv_bias", "layers": list(layers), "targets": list(targets)}
        width = attention.kv_heads * attention.head_dim
        self.targets = tuple(targets)
        self.biases = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(len(layers), width)) for name in targets}
        )

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`."""
        del batch_size
        if layer not in self.inside_layers:
            return None
        place = self.inside_layers.index(layer)
        return Inside(deltas={name: _Constant(self.biases[name][place]) for name in self.targets})


class _Constant:
    """A change of a projection that is the same whatever goes in."""

    def __init__(self, row: Tensor):
        self.row = row

    def __call__(self, x: Tensor) -> Tensor:
        return self.row


def build(at: Dimensions, *, layers: LayerChoice, **options: Any) -> BiasPrompt:
    """The method from its checked options."""
    if at.attention is None:
        raise ConfigError(
            "prompt kv_bias: this backbone's attention is of an unknown kind, or differs from "
            "block to block; use tuning=bias"
        )
    return BiasPrompt(resolve_layers(layers, at.depth), attention=at.attention, **options)
