"""timm's VisionTransformer, with class token or none, registers, and every pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from timm.data import resolve_model_data_config
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vpt.backbones.attention import attend, is_known_attention, project_context
from vpt.backbones.base import Backbone, activation_of, run_mlp, weights_hash
from vpt.errors import BackboneError
from vpt.structures import Context, Inside, Preprocess, Tokens


class TimmViT(Backbone):
    """A timm `VisionTransformer` behind the backbone contract.

    The image tower keeps its own names under `body.`; its classifier is left out.

    Args:
        body: the model; its classifier is removed.
        name: of the backbone.
        projection: what follows the pooled feature, kept under `projection.`; None: nothing.
        tensors: the tower's weights by name, for its hash; None: those of the body.
    """

    def __init__(
        self,
        body: Any,
        name: str = "",
        *,
        projection: nn.Module | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        _check(body, name)
        body.reset_classifier(0)
        self.body = body
        self.projection = projection or nn.Identity()
        self.name = name
        self.in_channels = body.patch_embed.proj.in_channels
        self.embed_dim = body.embed_dim
        self.feature_dim = _width_after(self.projection, body.num_features)
        self.depth = len(body.blocks)
        self.patch_size = tuple(body.patch_embed.patch_size)
        self.num_prefix = body.num_prefix_tokens
        self.activation = activation_of(body.blocks[0], "act")
        self.own_pooling = body.global_pool
        self.preprocess = _preprocess(body)
        self.sha256 = weights_hash(dict(body.state_dict() if tensors is None else tensors))
        self.freeze()

    def resize(self, image_size: tuple[int, int]) -> None:
        """See `Backbone.resize`; positions are resampled by timm's rule."""
        self._check_multiple(image_size)
        self.body.set_input_size(img_size=image_size)
        self.preprocess = replace(self.preprocess, size=image_size)

    def embed_before_norm(self, images: Tensor) -> Tokens:
        """See `Backbone.embed_before_norm`."""
        if not self.body.dynamic_img_size:
            self._check_size(images)
        patches = self.body.patch_embed(images)
        values, rotary = self._positions(patches)
        grid = self.body.patch_embed.dynamic_feat_size(images.shape[-2:])
        return Tokens(values, grid, self.num_prefix, rotary=rotary)

    def pre_norm(self, rows: Tensor) -> Tensor:
        """See `Backbone.pre_norm`."""
        return self.body.norm_pre(rows)  # type: ignore[no-any-return]

    def attention(self, index: int) -> nn.Module:
        """See `Backbone.attention`."""
        return self.body.blocks[index].attn  # type: ignore[no-any-return]

    def takes_context(self, index: int) -> bool:
        """See `Backbone.takes_context`."""
        block = self.body.blocks[index]
        return type(block) is Block and is_known_attention(block.attn)

    def project_context(self, index: int, rows: Tensor, inside: Inside | None = None) -> Context:
        """See `Backbone.project_context`."""
        block = self.body.blocks[index]
        return project_context(block.attn, block.norm1(rows), inside)

    def run_block(
        self,
        index: int,
        tokens: Tokens,
        inside: Inside | None = None,
        keep: int | None = None,
    ) -> Tokens:
        """See `Backbone.run_block`."""
        block = self.body.blocks[index]
        if inside is None and keep is None:
            return replace(tokens, values=block(tokens.values))
        x = tokens.values
        attended = attend(block.attn, block.norm1(x), inside=inside, keep=keep)
        x = (x if keep is None else x[:, :keep]) + block.ls1(attended)
        return replace(tokens, values=x + block.ls2(run_mlp(block.mlp, block.norm2(x), inside)))

    def pool(self, tokens: Tokens) -> Tensor:
        """See `Backbone.pool`."""
        values = self.body.norm(tokens.without_prompts().values)
        return self.projection(self.body.forward_head(values, pre_logits=True))  # type: ignore[no-any-return]

    @property
    def pooling(self) -> str:
        """See `Backbone.pooling`; timm's `global_pool`."""
        return str(self.body.global_pool)

    @property
    def poolings(self) -> tuple[str, ...]:
        """See `Backbone.poolings`."""
        by_attention = () if self.body.attn_pool is None else (self.pooling,)
        token = ("token",) if self.body.cls_token is not None else ()
        return (*by_attention, *token, "avg", "avgmax", "max")

    def _set_pooling(self, pooling: str) -> None:
        """By timm's own function; the final norm stays where it is, before pooling or after."""
        self.body.reset_classifier(0, global_pool=pooling)

    @property
    def pooled_tokens(self) -> int | None:
        """See `Backbone.pooled_tokens`."""
        return 1 if self.body.global_pool == "token" and self.body.attn_pool is None else None

    def norm_dense(self, tokens: Tokens) -> Tokens:
        """See `Backbone.norm_dense`."""
        return replace(tokens, values=self.body.norm(tokens.values))

    def _positions(self, patches: Tensor) -> tuple[Tensor, Any]:
        return self.body.patch_drop(self.body._pos_embed(patches)), None


def _check(body: Any, name: str) -> None:
    called = name or type(body).__name__
    if not body.global_pool:
        raise BackboneError(
            f"'{called}' pools nothing; create it with global_pool='avg' or 'token'"
        )
    if not isinstance(body.patch_embed, PatchEmbed):
        raise BackboneError(
            f"'{called}' makes its patches with a {type(body.patch_embed).__name__}, which is not "
            "supported: a PatchEmbed is"
        )


def _width_after(projection: nn.Module, width: int) -> int:
    """F: the width of the projection's last Linear, or what goes in where it has none."""
    linears = [module for module in projection.modules() if isinstance(module, nn.Linear)]
    return linears[-1].out_features if linears else width


def _preprocess(body: Any) -> Preprocess:
    config = resolve_model_data_config(body)
    return Preprocess(
        size=tuple(body.patch_embed.img_size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )
