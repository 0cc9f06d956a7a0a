"""LoRA: low-rank changes of the attention's projections, for comparison with prompts.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3: W x becomes
W x + (alpha / r) B A x. The backbone's own weights stay as they are, so that it can be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vpt.choices import Projection
from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.prompts.options import LayerChoice
from vpt.prompts.tokens import resolve_layers
from vpt.structures import AttentionShape, Dimensions, Inside


class LowRank(nn.Module):
    """scale * up(down(x)); zero at first, for `up` is, and `down` is not.

    Args:
        dim: D.
        rank: r.
        width: of the projection's output.
        scale: alpha / r.
        dropout: of x, in training.
    """

    def __init__(self, dim: int, rank: int, width: int, *, scale: float, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.down, self.up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, width) of (B, S, D)."""
        return self.scale * self.up(self.down(self.dropout(x)))  # type: ignore[no-any-return]


class LoraPrompt(Prompt):
    """A low-rank change of some projections in the attention of some layers.

    Parameters: r (D + width) per layer and target; the width of queries is heads * head_dim.

    Args:
        rank: r.
        layers: ascending layer numbers.
        embed_dim: D.
        attention: its heads.
        alpha: what is added is scaled by alpha / r.
        targets: of 'query', 'key', 'value'.
        dropout: of what goes into A.
    """

    def __init__(
        self,
        rank: int,
        layers: tuple[int, ...],
        *,
        embed_dim: int,
        attention: AttentionShape,
        alpha: float = 8.0,
        targets: Sequence[Projection] = ("query", "value"),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.inside_layers = layers
        self.options = {
            "name": "lora",
            "rank": rank,
            "alpha": alpha,
            "layers": list(layers),
            "targets": list(targets),
            "dropout": dropout,
        }
        queries, others = (
            count * attention.head_dim for count in (attention.heads, attention.kv_heads)
        )
        self.changes = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: LowRank(
                        embed_dim,
                        rank,
                        queries if name == "query" else others,
                        scale=alpha / rank,
                        dropout=dropout,
                    )
                    for name in targets
                }
            )
            for _ in layers
        )

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`."""
        del batch_size
        if layer not in self.inside_layers:
            return None
        changes = self.changes[self.inside_layers.index(layer)]
        return Inside(deltas=dict(changes.items()))  # type: ignore[operator]


def build(at: Dimensions, *, layers: LayerChoice, **options: Any) -> LoraPrompt:
    """The method from its checked options."""
    if at.attention is None:
        raise ConfigError(
            "prompt lora: this backbone's attention is of an unknown kind, or differs from block "
            "to block; use vpt_deep, or tuning"
        )
    return LoraPrompt(
        layers=resolve_layers(layers, at.depth),
        embed_dim=at.embed_dim,
        attention=at.attention,
        **options,
    )
