"""`glyph_clip`, the small CLIP that ships with the package, as a model of open_clip.

Its image tower is `glyph_vit`'s architecture (32 px, patches of 8 px, width 192, depth 6) and began
as its weights; its text tower is a causal transformer of width 56 over open_clip's own tokenizer.
`captioned.py` says what it has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

CONFIG = Path(__file__).with_name("glyph_clip.json")
"""The model's configuration in open_clip's format."""

WEIGHTS = Path(__file__).with_name("glyph_clip.safetensors")
"""The packaged weights of both towers, fp16; words that no caption has are rows of zeros."""

PREPROCESS: dict[str, Any] = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
"""How its images are prepared, in open_clip's words."""

open_clip.add_model_config(CONFIG)


@torch.no_grad()
def start_from_glyph_vit(visual: Any, body: Any) -> None:
    """Make an open_clip tower compute what a timm `glyph_vit` does, up to the projection.

    The patch embedding's bias goes into the positions of the patches.

    Args:
        visual: open_clip's `VisionTransformer` of the same sizes, without a pre-norm; changed.
        body: timm's `VisionTransformer`.
    """
    positions = body.pos_embed[0].clone()
    positions[1:] += body.patch_embed.proj.bias
    visual.conv1.weight.copy_(body.patch_embed.proj.weight)
    visual.class_embedding.copy_(body.cls_token[0, 0])
    visual.positional_embedding.copy_(positions)
    for ours, theirs in zip(visual.transformer.resblocks, body.blocks, strict=True):
        ours.attn.in_proj_weight.copy_(theirs.attn.qkv.weight)
        ours.attn.in_proj_bias.copy_(theirs.attn.qkv.bias)
        pairs: list[tuple[Tensor, Tensor]] = []
        for own, other in (
            (ours.ln_1, theirs.norm1),
            (ours.attn.out_proj, theirs.attn.proj),
            (ours.ln_2, theirs.norm2),
            (ours.mlp.c_fc, theirs.mlp.fc1),
            (ours.mlp.c_proj, theirs.mlp.fc2),
        ):
            pairs += [(own.weight, other.weight), (own.bias, other.bias)]
        for target, source in pairs:
            target.copy_(source)
    visual.ln_post.weight.copy_(body.norm.weight)
    visual.ln_post.bias.copy_(body.norm.bias)
