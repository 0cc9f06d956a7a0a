"""Adapters: a bottleneck beside or behind the MLP of each block, for comparison with prompts.

Behind it, Pfeiffer et al., "AdapterFusion", EACL 2021 (the Adapter rows of prompt papers): the
MLP's output h becomes h + U relu(D h). Beside it, Chen et al., "AdaptFormer", NeurIPS 2022,
equation 3: the MLP's output for y becomes MLP(y) + s U relu(D y).
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.prompts.options import LayerChoice
from vpt.prompts.tokens import resolve_layers
from vpt.structures import Dimensions, Inside


class Bottleneck(nn.Module):
    """s * up(relu(down(x))); it starts as zero, for `up` does, and `down` does not.

    Were both zero, neither would ever get a gradient.

    Args:
        dim: D.
        width: of the bottleneck.
        scale: s.
        dropout: after the ReLU, in training.
    """

    def __init__(self, dim: int, width: int, *, scale: float, dropout: float):
        super().__init__()
        self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)
        self.scale, self.dropout = scale, dropout
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) of (B, S, D)."""
        inside = F.dropout(self.down(x).relu(), self.dropout, self.training)
        return self.scale * self.up(inside)  # type: ignore[no-any-return]


class AdapterPrompt(Prompt):
    """A bottleneck at the MLP of some blocks; no prompt token anywhere.

    Parameters: 2 D width + width + D per adapted layer.

    Args:
        width: of the bottleneck.
        layers: ascending layer numbers.
        embed_dim: D.
        form: 'behind' the MLP or 'beside' it.
        scale: of what is added.
        dropout: inside the bottleneck.
    """

    def __init__(
        self,
        width: int,
        layers: tuple[int, ...],
        *,
        embed_dim: int,
        form: Literal["behind", "beside"] = "behind",
        scale: float = 1.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.inside_layers = layers
        self.form = form
        self.options = {
            "name": "adapter",
            "width": width,
            "layers": list(layers),
            "form": form,
            "scale": scale,
            "dropout": dropout,
        }
        self.bottlenecks = nn.ModuleList(
            Bottleneck(embed_dim, width, scale=scale, dropout=dropout) for _ in layers
        )

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`."""
        del batch_size
        if layer not in self.inside_layers:
            return None
        bottleneck = self.bottlenecks[self.inside_layers.index(layer)]
        if self.form == "behind":
            return Inside(adapt=lambda given, made: made + bottleneck(made))
        return Inside(adapt=lambda given, made: made + bottleneck(given))


def build(at: Dimensions, *, layers: LayerChoice, **options: Any) -> AdapterPrompt:
    """The method from its checked options."""
    if at.attention is None:
        raise ConfigError(
            "prompt adapter: this backbone's blocks are of an unknown kind; use vpt_deep, or tuning"
        )
    return AdapterPrompt(layers=resolve_layers(layers, at.depth), embed_dim=at.embed_dim, **options)
