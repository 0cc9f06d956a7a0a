"""open_clip's own VisionTransformer: OpenAI's CLIP, LAION's, DFN's, MetaCLIP's, CLIPA's, CoCa's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

import vpt.backbones.open_clip_attention  # noqa: F401 - registers its attention
from vpt.backbones.attention import attend, is_known_attention, project_context
from vpt.backbones.base import Backbone, activation_of, run_mlp, weights_hash
from vpt.backbones.storage import register_operands
from vpt.errors import BackboneError
from vpt.structures import Context, Inside, Preprocess, Tokens

_POOLINGS = {"tok": "token", "avg": "avg"}
"""open_clip's `pool_type` in timm's words."""

_BLOCKS = (ResidualAttentionBlock, CustomResidualAttentionBlock)
register_operands(VisionTransformer, ("proj",))


class OpenClipViT(Backbone):
    """An open_clip `VisionTransformer` behind the backbone contract.

    The image tower keeps its own names under `body.`. Its class token is there, and is the prefix,
    also where patches alone are pooled.

    Args:
        body: the tower.
        preprocess: how its images are prepared.
        name: of the backbone.
    """

    prompt_placement = "pre_norm"
    prompt_init = "normal"
    _after_blocks = frozenset({"body.proj"})

    def __init__(self, body: Any, preprocess: Preprocess, name: str = ""):
        super().__init__()
        _check(body, name)
        self.body = body
        self.name = name
        self.in_channels = body.conv1.in_channels
        self.embed_dim = body.conv1.out_channels
        self.feature_dim = self.embed_dim if body.proj is None else body.proj.shape[1]
        self.depth = len(body.transformer.resblocks)
        self.patch_size = tuple(body.patch_size)
        self.num_prefix = 1
        self.activation = activation_of(body.transformer.resblocks[0], "gelu")
        self.own_pooling = self.pooling
        self.preprocess = preprocess
        self.sha256 = weights_hash(dict(body.state_dict()))
        self.freeze()

    def resize(self, image_size: tuple[int, int]) -> None:
        """See `Backbone.resize`; positions are resampled by open_clip's rule."""
        self._check_multiple(image_size)
        grid = image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1]
        if grid != self.grid:
            positions = _resample(self.body.positional_embedding.detach(), self.grid, grid)
            self.body.positional_embedding = nn.Parameter(positions, requires_grad=False)
        self.body.image_size, self.body.grid_size = image_size, grid
        self.preprocess = replace(self.preprocess, size=image_size)

    def embed_before_norm(self, images: Tensor) -> Tokens:
        """See `Backbone.embed_before_norm`."""
        self._check_size(images)
        patches = self.body.conv1(images).flatten(2).transpose(1, 2)
        first = self.body.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        values = torch.cat([first, patches], dim=1)
        values = values + self.body.positional_embedding.to(values.dtype)
        return Tokens(values, self.grid, self.num_prefix)

    def pre_norm(self, rows: Tensor) -> Tensor:
        """See `Backbone.pre_norm`."""
        return self.body.ln_pre(rows)  # type: ignore[no-any-return]

    def attention(self, index: int) -> nn.Module:
        """See `Backbone.attention`."""
        return self.body.transformer.resblocks[index].attn  # type: ignore[no-any-return]

    def takes_context(self, index: int) -> bool:
        """See `Backbone.takes_context`."""
        block = self.body.transformer.resblocks[index]
        return type(block) in _BLOCKS and is_known_attention(block.attn)

    def project_context(self, index: int, rows: Tensor, inside: Inside | None = None) -> Context:
        """See `Backbone.project_context`."""
        block = self.body.transformer.resblocks[index]
        return project_context(block.attn, block.ln_1(rows), inside)

    def run_block(
        self,
        index: int,
        tokens: Tokens,
        inside: Inside | None = None,
        keep: int | None = None,
    ) -> Tokens:
        """See `Backbone.run_block`."""
        block = self.body.transformer.resblocks[index]
        if inside is None and keep is None:
            return replace(tokens, values=block(tokens.values))
        x = tokens.values
        attended = attend(block.attn, block.ln_1(x), inside=inside, keep=keep)
        if type(block) is CustomResidualAttentionBlock:
            attended = block.ln_attn(attended)
        x = (x if keep is None else x[:, :keep]) + block.ls_1(attended)
        return replace(tokens, values=x + block.ls_2(run_mlp(block.mlp, block.ln_2(x), inside)))

    def pool(self, tokens: Tokens) -> Tensor:
        """See `Backbone.pool`; open_clip's own pooling, of one feature per image."""
        pooled, _ = self.body._pool(tokens.without_prompts().values)
        if self.body.proj is not None:
            pooled = pooled @ self.body.proj
        return pooled.flatten(1)  # type: ignore[no-any-return]

    @property
    def pooling(self) -> str:
        """See `Backbone.pooling`."""
        return "map" if self.body.attn_pool is not None else _POOLINGS[self.body.pool_type]

    @property
    def poolings(self) -> tuple[str, ...]:
        """See `Backbone.poolings`; a projection was trained for the tower's own."""
        return ("map",) if self.body.attn_pool is not None else tuple(_POOLINGS.values())

    def _set_pooling(self, pooling: str) -> None:
        self.body.pool_type = next(own for own, name in _POOLINGS.items() if name == pooling)

    @property
    def pooled_tokens(self) -> int | None:
        """See `Backbone.pooled_tokens`."""
        return 1 if self.body.pool_type == "tok" and self.body.attn_pool is None else None

    def select(self, what: str) -> list[str]:
        """See `Backbone.select`; a pooling beside the feature's own, for captions, is left out."""
        names = super().select(what)
        if self.body.attn_pool is not None and self.body.attn_pool_type == "parallel":
            return [name for name in names if not name.startswith("body.attn_pool.")]
        return names

    def norm_dense(self, tokens: Tokens) -> Tokens:
        """See `Backbone.norm_dense`."""
        if self._norms_tokens:
            return replace(tokens, values=self.body.ln_post(tokens.values))
        return tokens

    @property
    def _norms_tokens(self) -> bool:
        """Whether the final norm is of the tokens, not of what was pooled from them."""
        if self.body.attn_pool is not None:
            return self.body.attn_pool_contrastive is not None
        return not self.body.final_ln_after_pool


def _check(body: Any, name: str) -> None:
    called = name or type(body).__name__
    blocks = body.transformer.resblocks
    if any(getattr(block.attn, "logit_scale", None) is not None for block in blocks):
        raise BackboneError(
            f"'{called}' has scaled cosine attention, which open_clip itself cannot compute"
        )
    pooler = body.attn_pool
    contrastive = pooler is not None and body.attn_pool_contrastive is not None
    one_query = pooler is not None and len(pooler.query) == 1
    if body.pool_type == "none" and not contrastive and not one_query:
        raise BackboneError(f"'{called}' pools nothing; create it with pool_type='tok' or 'avg'")


def _resample(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(1 + N, D) learned positions on another grid; that of the class token stays."""
    first, grid = positions[:1], positions[1:]
    grid = grid.reshape(*old, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, grid[0].flatten(1).T])
