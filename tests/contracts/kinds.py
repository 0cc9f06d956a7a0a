"""Tiny real backbones, one per kind that the adapters know, whose every parameter matters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip.transformer
import timm
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU
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

_clip = partial(
    open_clip.transformer.VisionTransformer,
    image_size=SIZE,
    patch_size=8,
    width=32,
    layers=3,
    heads=4,
    mlp_ratio=2.0,
    output_dim=24,
)
_pooled_by_attention = partial(
    _clip, attentional_pool=True, attn_pooler_queries=5, attn_pooler_heads=4, output_tokens=True
)


def _in_timm_model(trunk: nn.Module, **options: Any) -> TimmModel:
    """open_clip's own wrapper, around a trunk of width 64 instead of the `test_vit` it builds."""
    tower = TimmModel("test_vit", 24, SIZE, pool="token", **options)
    tower.trunk = trunk
    return tower


_vit_64 = partial(_vit, embed_dim=64)
_rope_64 = partial(_rope, embed_dim=64, ref_feat_shape=(4, 6))

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
    "clip_tok": lambda: _clip(act_layer=QuickGELU, patch_dropout=0.5),
    "clip_avg_no_ln_pre": lambda: _clip(
        pool_type="avg", no_ln_pre=True, final_ln_after_pool=True
    ),
    "clip_attn_pool": lambda: _pooled_by_attention(),
    "clip_coca_parallel": lambda: _pooled_by_attention(
        attentional_pool="parallel", output_dim=32
    ),
    "clip_coca_cascade": lambda: _pooled_by_attention(attentional_pool="cascade", output_dim=32),
    "clip_layer_scale": lambda: _clip(
        ls_init_value=0.1, output_tokens=True, pos_embed_type="sin_cos_2d", image_size=32
    ),
    "clip_custom": lambda: _clip(
        qk_norm=True, scale_heads=True, scale_attn_inner=True, scale_attn=True, scale_fc=True
    ),
    "clip_siglip": lambda: _in_timm_model(
        _vit_64(class_token=False, global_pool="map", num_classes=0), proj="none"
    ),
    "clip_linear": lambda: _in_timm_model(
        _vit_64(pre_norm=True, num_classes=0, global_pool="avg"), proj="linear"
    ),
    "clip_eva02": lambda: _in_timm_model(
        _rope_64(
            swiglu_mlp=True, scale_mlp=True, global_pool="token", num_classes=24,
            head_init_scale=1.0,
        ),
        proj="",
    ),
    "clip_pe": lambda: _in_timm_model(
        _rope_64(
            attn_type="rope", use_pre_transformer_norm=True, global_pool="map", num_classes=0,
            rope_grid_offset=1.0, rope_grid_indexing="xy", attn_pool_num_heads=4,
        ),
        proj="mlp",
    ),
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
    "clip_tok",
    "clip_layer_scale",
    "clip_custom",
    "clip_eva02",
}
WITH_PRE_NORM = {
    "clip_pre_norm",
    "clip_tok",
    "clip_attn_pool",
    "clip_coca_parallel",
    "clip_coca_cascade",
    "clip_layer_scale",
    "clip_custom",
    "clip_linear",
    "clip_pe",
}


_RANDOM = ("pos_embed", "positional_embedding", "token", "head_scale")


def make(kind: str) -> Any:
    """A native model in eval; layer scales, norms, biases and positions are random.

    Or anything would agree. Other weights are made larger; open_clip's are larger than timm's.
    """
    torch.manual_seed(len(kind))
    model = KINDS[kind]()
    gain = 2.0 if isinstance(model, open_clip.transformer.VisionTransformer) else 6.0
    if kind != "glyph_vit":
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 or any(word in name for word in _RANDOM):
                    is_norm = any(word in name for word in ("norm", "ln_", ".ln."))
                    is_scale = "_scale" in name or "gamma" in name
                    is_scale |= is_norm and name.endswith("weight")
                    base = 1.0 if is_scale else 0.0
                    parameter.copy_(base + 0.5 * torch.randn_like(parameter))
                else:
                    parameter.mul_(gain)
    return model.eval()


def native_features(native: Any, images: torch.Tensor) -> torch.Tensor:
    """(B, F): what the model computes itself, timm's without a classifier."""
    if is_timm(native):
        return native.forward_head(native.forward_features(images), pre_logits=True)
    features = native(images)
    return (features[0] if isinstance(features, tuple) else features).flatten(1)


def is_timm(native: Any) -> bool:
    """Whether it is timm's own, not an open_clip tower."""
    return isinstance(native, VisionTransformer | Eva)


def images_for(native: Any, batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) of the model's own size."""
    generator = torch.Generator().manual_seed(seed)
    size = native.patch_embed.img_size if is_timm(native) else native.image_size
    return torch.randn(batch_size, 3, *size, generator=generator)
