"""timm's Eva: EVA-02, DINOv3 and RoPE-ViT, with rotary positions of the patch tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.models.eva import EvaBlock, EvaBlockPostNorm
from torch import Tensor

from vpt.backbones.attention import attend, is_known_attention
from vpt.backbones.base import run_mlp
from vpt.backbones.timm_vit import TimmViT
from vpt.errors import BackboneError
from vpt.structures import Inside, Tokens


class TimmEva(TimmViT):
    """A timm `Eva` behind the backbone contract.

    Prompts have no place in the image, so they are never rotated: where prompts are in the
    sequence, or as context, the block's attention is computed here, both ways.
    """

    def takes_context(self, index: int) -> bool:
        """See `Backbone.takes_context`; post-norm blocks go by insertion."""
        block = self.body.blocks[index]
        return type(block) is EvaBlock and is_known_attention(block.attn)

    def run_block(
        self,
        index: int,
        tokens: Tokens,
        inside: Inside | None = None,
        keep: int | None = None,
    ) -> Tokens:
        """See `Backbone.run_block`."""
        block = self.body.blocks[index]
        x, rotary = tokens.values, self._rotary_of(index, tokens)
        native = tokens.num_prompts == 0 or rotary is None
        if native and inside is None and keep is None:
            return replace(tokens, values=block(x, rope=rotary))
        num_unrotated = tokens.num_prefix + tokens.num_prompts
        options: dict[str, Any] = {"rotary": rotary, "num_unrotated": num_unrotated}
        if type(block) is EvaBlockPostNorm and is_known_attention(block.attn):
            x = x + block.norm1(attend(block.attn, x, **options))
            return replace(tokens, values=x + block.norm2(block.mlp(x)))
        if not self.takes_context(index):
            raise BackboneError(
                f"block {index} of '{self.name}' ({type(block).__name__}) is unknown: "
                "prompts cannot pass its rotary attention"
            )
        attended = attend(block.attn, block.norm1(x), inside=inside, keep=keep, **options)
        x = (x if keep is None else x[:, :keep]) + _scale(block.gamma_1, attended)
        made = run_mlp(block.mlp, block.norm2(x), inside)
        return replace(tokens, values=x + _scale(block.gamma_2, made))

    def _positions(self, patches: Tensor) -> tuple[Tensor, Any]:
        return self.body._pos_embed(patches)  # type: ignore[no-any-return]

    def _rotary_of(self, index: int, tokens: Tokens) -> Tensor | None:
        """RoPE-Mixed has one embedding per block."""
        if tokens.rotary is None:
            return None
        return tokens.rotary[index] if self.body.rope_mixed else tokens.rotary  # type: ignore[no-any-return]


def _scale(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x
