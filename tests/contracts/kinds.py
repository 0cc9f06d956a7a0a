"""Tiny real backbones, one per kind that the adapters know, whose every parameter matters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn

SIZE = (32, 48)

_vit = partial(
    VisionTransformer,
    img_size=SIZE,
    patch_size=8,
    embed_dim=32,
    depth=3,
    num_heads=4,
    num_classes=5,
)
_eva = partial(Eva, img_size=SIZE, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=5)
_rope = partial(_eva, use_rot_pos_emb=True)

KINDS: dict[str, Callable[[], nn.Module]] = {
    "test_vit": lambda: timm.create_model("test_vit", img_size=SIZE, patch_size=8),
    "test_vit2": lambda: timm.create_model("test_vit2", img_size=SIZE, patch_size=8),
    "test_vit3": lambda: timm.create_model("test_vit3", img_size=SIZE, patch_size=8),
    "test_vit4": lambda: timm.create_model("test_vit4", img_size=SIZE, patch_size=8),
    "siglip": lambda: _vit(class_token=False, global_pool="map"),
    "clip_pre_norm": lambda: _vit(pre_norm=True, reg_tokens=2, no_embed_class=True),
    "qk_norm": lambda: _vit(
        qk_norm=True, init_values=0.1, scale_attn_norm=True, scale_mlp_norm=True
    ),
    "avg_no_fc_norm": lambda: _vit(global_pool="avg", fc_norm=False, qkv_bias=False),
    "res_post": lambda: _vit(block_fn=ResPostBlock, init_values=0.1),
    "parallel": lambda: _vit(block_fn=ParallelScalingBlock),
    "eva02": lambda: _rope(swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(4, 6)),
    "eva02_unfused": lambda: _rope(
        qkv_fused=False, scale_attn_inner=True, global_pool="token", init_values=0.1
    ),
    "dinov3": lambda: _rope(
        attn_type="rope", rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=4,
        qkv_bias=False, use_abs_pos_emb=False, init_values=0.1, global_pool="avg",
        use_fc_norm=False, dynamic_img_size=True,
    ),
    "rope_mixed": lambda: _rope(
        attn_type="rope", rope_type="mixed", use_abs_pos_emb=False, init_values=0.1,
        global_pool="token",
    ),
    "rope_grouped": lambda: _rope(
        attn_type="rope", qkv_fused=False, num_kv_heads=2, global_pool="token"
    ),
    "eva_post_norm": lambda: _eva(use_post_norm=True, global_pool="token"),
    "eva_post_norm_rope": lambda: _rope(use_post_norm=True, global_pool="token"),
    "glyph_vit": lambda: timm.create_model("glyph_vit", pretrained=True),
}  # fmt: skip

BY_INSERTION = {"res_post", "parallel", "eva_post_norm", "eva_post_norm_rope"}
TOKEN_POOLED = {
    "test_vit",
    "clip_pre_norm",
    "qk_norm",
    "eva02_unfused",
    "rope_mixed",
    "rope_grouped",
    "glyph_vit",
}


def make(kind: str) -> Any:
    """A native model in eval; layer scales, norms, biases and positions are random.

    Or anything would agree.
    """
    torch.manual_seed(len(kind))
    model = KINDS[kind]()
    if kind != "glyph_vit":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 or "pos_embed" in name or "token" in name:
                    is_scale = "gamma" in name or ("norm" in name and name.endswith("weight"))
                    base = 1.0 if is_scale else 0.0
                    parameter.copy_(base + 0.5 * torch.randn_like(parameter))
                else:
                    parameter.mul_(6.0)
    return model.eval()


def images_for(model: Any, batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) of the model's own size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 3, *model.patch_embed.img_size, generator=generator)
