"""Visual prompt tuning: learned tokens beside the patches, shallow, deep, or at any layers.

Jia et al., "Visual Prompt Tuning", ECCV 2022: equations 4-5 (shallow) and 6-7 (deep).
For CLIP, Khattak et al., "MaPLe", CVPR 2023: layer 0's tokens join before the pre-norm, and start
from N(0, 0.02).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.choices import PromptPlacement
from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.prompts.initializers import paper_uniform_bound
from vpt.prompts.options import Initializer, LayerChoice
from vpt.structures import Dimensions


class TokenPrompt(Prompt):
    """Prompt tokens of T rows at a set of layers; shallow is {0}, deep is all.

    Parameters: `tokens` (len(layers), T, d), or (1, T, d) when shared, with d = D or the
    projection's width; `project` d -> D, one for all layers.

    Args:
        num_tokens: T; zero leaves the backbone as it is.
        layers: ascending layer numbers.
        embed_dim: D.
        patch_size: (height, width) in pixels, for the paper's initialiser.
        shared: one set of tokens for all layers.
        dropout: of prompt values, with an own mask per image.
        projection: d, or None for d = D without a projection.
        init: 'uniform' (paper), 'normal', 'patches' (waits for `set_patch_rows`), 'zeros'.
        std: of 'normal'.
        placement: see `Prompt.placement`.
    """

    def __init__(
        self,
        num_tokens: int,
        layers: tuple[int, ...],
        *,
        embed_dim: int,
        patch_size: tuple[int, int],
        shared: bool = False,
        dropout: float = 0.0,
        projection: int | None = None,
        init: Initializer = "uniform",
        std: float = 0.02,
        placement: PromptPlacement = "post_norm",
    ):
        super().__init__()
        self.num_tokens = num_tokens
        self.layers = layers if num_tokens else ()
        self.shared = shared
        self.dropout = dropout
        self.init = init
        self.placement = placement
        self.options = {
            "name": "vpt_deep",
            "num_tokens": num_tokens,
            "layers": list(layers),
            "shared": shared,
            "dropout": dropout,
            "projection": projection,
            "init": init,
            "std": std,
            "placement": placement,
        }
        self._check(init, projection)
        width = projection or embed_dim
        self.tokens = nn.Parameter(torch.empty(1 if shared else len(layers), num_tokens, width))
        self.project = nn.Linear(projection, embed_dim) if projection else nn.Identity()
        self._start(paper_uniform_bound(patch_size, width), std)

    def rows(self, layer: int) -> Tensor | None:
        """See `Prompt.rows`."""
        if layer not in self.layers:
            return None
        place = 0 if self.shared else self.layers.index(layer)
        return self.project(self.tokens[place : place + 1])  # type: ignore[no-any-return]

    def sample(self, layer: int, batch_size: int) -> Tensor | None:
        """See `Prompt.sample`; each image has a dropout mask of its own."""
        rows = self.rows(layer)
        if rows is None or not self.training or self.dropout == 0.0:
            return rows
        return F.dropout(rows.expand(batch_size, -1, -1), self.dropout)

    def set_patch_rows(self, layer: int, patches: Tensor) -> None:
        """See `Prompt.set_patch_rows`; shared tokens take those of the first prompted layer."""
        place = self.layers.index(layer)
        if place < len(self.tokens):
            with torch.no_grad():
                self.tokens[place].copy_(patches)

    @property
    def wants_patches(self) -> int:
        """See `Prompt.wants_patches`."""
        return self.num_tokens if self.init == "patches" else 0

    def _check(self, init: str, projection: int | None) -> None:
        if init == "zeros" and self.num_tokens > 1:
            raise ConfigError(
                f"prompt.init zeros: {self.num_tokens} equal tokens get equal gradients "
                "and stay one; use uniform"
            )
        if init in ("patches", "zeros") and projection:
            raise ConfigError(
                f"prompt.init {init} does not go with prompt.projection; use uniform or normal"
            )

    def _start(self, bound: float, std: float) -> None:
        if self.init in ("uniform", "patches"):
            nn.init.uniform_(self.tokens, -bound, bound)
        elif self.init == "normal":
            nn.init.normal_(self.tokens, std=std)
        else:
            nn.init.zeros_(self.tokens)
        if isinstance(self.project, nn.Linear):
            nn.init.kaiming_normal_(self.project.weight, mode="fan_out")
            nn.init.zeros_(self.project.bias)


def resolve_layers(choice: LayerChoice, depth: int) -> tuple[int, ...]:
    """Layer numbers, ascending, of a backbone with `depth` blocks.

    Raises:
        ConfigError: a layer that does not exist, twice the same, or none.
    """
    if choice == "all":
        return tuple(range(depth))
    if isinstance(choice, dict):
        (word, count) = next(iter(choice.items()))
        if count > depth:
            raise ConfigError(f"prompt.layers {choice}: the backbone has {depth} blocks")
        numbers = list(range(count) if word == "first" else range(depth - count, depth))
    else:
        numbers = [int(number) for number in choice]
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= n < depth for n in numbers):
        raise ConfigError(
            f"prompt.layers {choice}: use different layers of 0..{depth - 1} (depth {depth})"
        )
    return tuple(sorted(numbers))


def build(
    at: Dimensions,
    *,
    num_tokens: int,
    layers: LayerChoice,
    init: Initializer | None = None,
    placement: PromptPlacement | None = None,
    **options: Any,
) -> TokenPrompt:
    """The method from its checked options."""
    return TokenPrompt(
        num_tokens,
        resolve_layers(layers, at.depth),
        embed_dim=at.embed_dim,
        patch_size=at.patch_size,
        init=init or at.prompt_init,
        placement=placement or at.prompt_placement,
        **options,
    )
