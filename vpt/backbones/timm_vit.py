"""timm's VisionTransformer, with class token or none, registers, and every pooling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.data import resolve_model_data_config
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vpt.backbones.attention import attend, is_known_attention, project_context
from vpt.backbones.base import Backbone, weights_hash
from vpt.errors import BackboneError
from vpt.structures import Context, Preprocess, Tokens


class TimmViT(Backbone):
    """A timm `VisionTransformer` behind the backbone contract.

    The image tower keeps its own names under `body.`; its classifier is left out.
    """

    def __init__(self, body: Any, name: str = ""):
        super().__init__()
        if not body.global_pool:
            raise BackboneError(
                f"'{name or type(body).__name__}' pools nothing; "
                "create it with global_pool='avg' or 'token'"
            )
        body.reset_classifier(0)
        self.body = body
        self.name = name
        self.embed_dim = body.embed_dim
        self.feature_dim = body.num_features
        self.depth = len(body.blocks)
        self.patch_size = tuple(body.patch_embed.patch_size)
        self.num_prefix = body.num_prefix_tokens
        self.activation = _activation(body.blocks[0])
        self.preprocess = _preprocess(body)
        self.sha256 = weights_hash(dict(body.state_dict()))
        self.freeze()

    def resize(self, image_size: tuple[int, int]) -> None:
        """Set the input size (H, W) in pixels; learned positions are resampled by timm's rule."""
        height, width = self.patch_size
        if image_size[0] % height or image_size[1] % width:
            raise BackboneError(
                f"image_size {image_size[0]}x{image_size[1]} is no multiple of the patch size "
                f"{height}x{width} of '{self.name}'"
            )
        self.body.set_input_size(img_size=image_size)
        self.preprocess = replace(self.preprocess, size=image_size)

    def embed(self, images: Tensor) -> Tokens:
        """See `Backbone.embed`."""
        self._check_size(images)
        patches = self.body.patch_embed(images)
        values, rotary = self._positions(patches)
        values = self.body.norm_pre(values)
        grid = self.body.patch_embed.dynamic_feat_size(images.shape[-2:])
        return Tokens(values, grid, self.num_prefix, rotary=rotary)

    def takes_context(self, index: int) -> bool:
        """See `Backbone.takes_context`."""
        block = self.body.blocks[index]
        return type(block) is Block and is_known_attention(block.attn)

    def project_context(self, index: int, rows: Tensor) -> Context:
        """See `Backbone.project_context`."""
        block = self.body.blocks[index]
        return project_context(block.attn, block.norm1(rows))

    def run_block(
        self, index: int, tokens: Tokens, context: Context | None = None, keep: int | None = None
    ) -> Tokens:
        """See `Backbone.run_block`."""
        block = self.body.blocks[index]
        if context is None and keep is None:
            return replace(tokens, values=block(tokens.values))
        x = tokens.values
        attended = attend(block.attn, block.norm1(x), context=context, keep=keep)
        x = (x if keep is None else x[:, :keep]) + block.ls1(attended)
        return replace(tokens, values=x + block.ls2(block.mlp(block.norm2(x))))

    def pool(self, tokens: Tokens) -> Tensor:
        """See `Backbone.pool`."""
        values = self.body.norm(tokens.without_prompts().values)
        return self.body.forward_head(values, pre_logits=True)  # type: ignore[no-any-return]

    @property
    def pooled_tokens(self) -> int | None:
        """See `Backbone.pooled_tokens`."""
        return 1 if self.body.global_pool == "token" and self.body.attn_pool is None else None

    def norm_dense(self, tokens: Tokens) -> Tokens:
        """See `Backbone.norm_dense`."""
        return replace(tokens, values=self.body.norm(tokens.values))

    def _positions(self, patches: Tensor) -> tuple[Tensor, Any]:
        return self.body.patch_drop(self.body._pos_embed(patches)), None

    def _check_size(self, images: Tensor) -> None:
        size = tuple(images.shape[-2:])
        if not self.body.dynamic_img_size and size != self.preprocess.size:
            expected = "x".join(map(str, self.preprocess.size))
            raise BackboneError(
                f"'{self.name}' takes images of {expected} pixels, not {size[0]}x{size[1]}; "
                "prepare them with its preprocess, or set image_size"
            )


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


def _activation(block: nn.Module) -> str:
    """Class name of the MLP's activation; '' for a block that has none of that name."""
    activation = getattr(getattr(block, "mlp", None), "act", None)
    return "" if activation is None else type(activation).__name__
