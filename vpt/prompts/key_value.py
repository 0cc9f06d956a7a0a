"""Key-value prompts: learned keys and values inside the attention of chosen layers.

Han et al., "E2VPT: An Effective and Efficient Approach for Visual Prompt Tuning", ICCV 2023,
section 3.2: attention over [K, P_K] and [V, P_V]. With input tokens beside them, `[vpt_deep, kv]`,
it is that paper's method without its pruning.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.prompts.options import LayerChoice
from vpt.prompts.tokens import resolve_layers
from vpt.structures import Context, Dimensions, Inside


class KeyValuePrompt(Prompt):
    """T learned keys and values in each head of some layers; the sequence stays as it is.

    Parameters: `keys` and, unless tied, `values`, each (layers, heads, T, head_dim); from Kaiming's
    uniform distribution with the attention's width as fan-in.

    Args:
        num_tokens: T.
        layers: ascending layer numbers.
        heads: (heads, head_dim) of the attention.
        tied: keys are the values too.
        dropout: of prompt values, with an own mask per image.
    """

    def __init__(
        self,
        num_tokens: int,
        layers: tuple[int, ...],
        *,
        heads: tuple[int, int],
        tied: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.inside_layers = layers
        self.dropout = dropout
        self.options = {
            "name": "kv",
            "num_tokens": num_tokens,
            "layers": list(layers),
            "tied": tied,
            "dropout": dropout,
        }
        shape = (len(layers), heads[0], num_tokens, heads[1])
        bound = (6.0 / (heads[0] * heads[1])) ** 0.5
        self.keys = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.values = None if tied else nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`."""
        if layer not in self.inside_layers:
            return None
        place = self.inside_layers.index(layer)
        keys = self.keys[place : place + 1]
        values = keys if self.values is None else self.values[place : place + 1]
        if self.training and self.dropout > 0.0:
            shape = (batch_size, -1, -1, -1)
            keys = F.dropout(keys.expand(shape), self.dropout)
            values = F.dropout(values.expand(shape), self.dropout)
        return Inside(Context(keys, values))


def build(at: Dimensions, *, layers: LayerChoice, **options: Any) -> KeyValuePrompt:
    """The method from its checked options."""
    if at.attention is None:
        raise ConfigError(
            "prompt kv: this backbone's attention is of an unknown kind, or differs from block to "
            "block; use vpt_deep"
        )
    return KeyValuePrompt(
        layers=resolve_layers(layers, at.depth), heads=at.attention[:2], **options
    )
