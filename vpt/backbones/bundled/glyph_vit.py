"""`glyph_vit`, the small vision transformer that ships with the package, as a timm model.

A standard pre-norm ViT: 32 px input, patches of 8 px (a 4 by 4 grid), one class token, learned
positions, width 192, depth 6, three heads. `rendering.py` says what it has seen.
"""

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

WEIGHTS = Path(__file__).with_name("glyph_vit.safetensors")
"""The packaged weights, fp16."""

ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 192,
    "depth": 6,
    "num_heads": 3,
}
"""Arguments of timm's `VisionTransformer`; everything else is its default."""

default_cfgs = generate_default_cfgs(
    {
        "glyph_vit.rendered": {
            "file": str(WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)


@register_model  # type: ignore[untyped-decorator]
def glyph_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The bundled ViT; with `pretrained`, the packaged weights, resampled to any `img_size`."""
    return build_model_with_cfg(
        VisionTransformer,
        "glyph_vit",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{**ARCHITECTURE, **kwargs},
    )
