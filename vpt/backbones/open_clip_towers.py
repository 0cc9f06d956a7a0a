"""The image towers of open_clip's models, behind their adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from torch import nn

from vpt.backbones.base import Backbone
from vpt.backbones.names import SUPPORTED_BY_OPEN_CLIP
from vpt.backbones.open_clip_models import clip_config, create_open_clip, list_clip_names
from vpt.backbones.open_clip_vit import OpenClipViT
from vpt.backbones.timm_models import ADAPTERS, MODULES
from vpt.backbones.timm_vit import TimmViT
from vpt.choices import CropMode
from vpt.errors import BackboneError
from vpt.structures import Preprocess

_CROP_MODES: dict[str, CropMode] = {
    "shortest": "center",
    "squash": "squash",
    "longest": "border",
}


def create_image_tower(
    name: str, *, pretrained: bool = True, weights: Path | str | None = None
) -> Backbone:
    """The backbone of a name for which `is_clip_name` holds.

    Args:
        name: 'open_clip/<architecture>[:<tag>]' or 'bundled/glyph_clip'.
        pretrained: load the tag's weights (open_clip downloads them once); False: random ones.
        weights: a local safetensors file of the whole model, both towers, instead of a download.

    Raises:
        BackboneError: unknown name, a kind of tower that is not supported (before any download),
            weights that are missing or do not fit.
    """
    if reason := _unsupported(clip_config(name)["vision_cfg"]):
        raise BackboneError(f"'{name}' is not supported: {reason}; {SUPPORTED_BY_OPEN_CLIP} are")
    return wrap_image_tower(
        create_open_clip(name, pretrained=pretrained, weights=weights).visual, name
    )


def list_image_towers() -> list[str]:
    """Names with a tag that `create_image_tower` takes."""
    return sorted(
        name for name in list_clip_names() if not _unsupported(clip_config(name)["vision_cfg"])
    )


def image_tower_of(module: nn.Module) -> nn.Module | None:
    """The image tower that a module is or has, or None where it is nothing of open_clip's."""
    if isinstance(module, CLIP | CustomTextCLIP | CoCa):
        module = module.visual
    return module if type(module).__module__.startswith("open_clip.") else None


def wrap_image_tower(tower: Any, name: str = "") -> Backbone:
    """A backbone of the tower itself, not of a copy.

    Raises:
        BackboneError: its class is not supported.
    """
    if type(tower) is VisionTransformer:
        return OpenClipViT(tower, _preprocess(tower, tuple(tower.image_size)), name)
    if type(tower) is TimmModel and type(tower.trunk) in ADAPTERS:
        return _wrap_timm_tower(tower, name)
    inside = tower.trunk if type(tower) is TimmModel else tower
    raise BackboneError(
        f"{name or 'the image tower'} is a {type(inside).__name__}, which is not supported: "
        f"{SUPPORTED_BY_OPEN_CLIP} are"
    )


def _wrap_timm_tower(tower: Any, name: str) -> TimmViT:
    """The projection is the tower's head, or where that is empty the trunk's own."""
    if hasattr(tower.head, "pool"):
        raise BackboneError(f"{name or 'the image tower'} is not supported: {_POOLS_MAP}")
    trunk = tower.trunk
    backbone = ADAPTERS[type(trunk)](
        trunk,
        name,
        projection=nn.Sequential(trunk.head, *tower.head),
        tensors=tower.state_dict(),
    )
    backbone.preprocess = _preprocess(tower, backbone.preprocess.size)
    backbone.prompt_placement, backbone.prompt_init = "pre_norm", "normal"
    return backbone


def _preprocess(tower: Any, size: tuple[int, int]) -> Preprocess:
    """open_clip's preprocessing of a tower; its defaults where the tower carries none."""
    config = asdict(PreprocessCfg()) | getattr(tower, "preprocess_cfg", {})
    bilinear = config["interpolation"] == "bilinear"
    return Preprocess(
        size=size,
        mean=_per_channel(config["mean"]),
        std=_per_channel(config["std"]),
        interpolation="bilinear" if bilinear else "bicubic",
        crop_mode=_CROP_MODES[config["resize_mode"]],
        fill=(config["fill_color"],) * 3 if config["resize_mode"] == "longest" else None,
    )


def _per_channel(value: Any) -> tuple[float, float, float]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


_POOLS_MAP = "its head pools a feature map (abs_attn or rot_attn), not tokens"


def _unsupported(vision: Mapping[str, Any]) -> str | None:
    """Why the tower of a configuration's `vision_cfg` is none of tokens, or None where it is."""
    if model_name := vision.get("timm_model_name"):
        module = timm.model_entrypoint(model_name).__module__.rpartition(".")[2]
        if module not in MODULES:
            return f"its image tower is timm's '{model_name}' (of {module}), no sequence of tokens"
        return _POOLS_MAP if vision.get("timm_pool") in ("abs_attn", "rot_attn") else None
    if isinstance(vision.get("layers"), list | tuple):
        return "its image tower is a ModifiedResNet, which has no tokens"
    if vision.get("scaled_cosine_attn"):
        return "its image tower has scaled cosine attention, which open_clip cannot compute"
    return None
