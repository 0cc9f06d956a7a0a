"""From a name, or a module that a user built, to a backbone."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vpt.backbones.bundled  # noqa: F401 - registers its models with timm
from vpt.backbones.base import Backbone
from vpt.backbones.timm_eva import TimmEva
from vpt.backbones.timm_vit import TimmViT
from vpt.errors import BackboneError
from vpt.registry import nearest

ADAPTERS: dict[type[nn.Module], type[TimmViT]] = {VisionTransformer: TimmViT, Eva: TimmEva}
SUPPORTED = "timm VisionTransformer and Eva"
BUNDLED = ("glyph_vit",)


def create_backbone(
    name: str,
    *,
    pretrained: bool = True,
    weights: Path | str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Backbone:
    """A frozen backbone by name.

    Args:
        name: 'timm/<model>[.tag]' or 'bundled/<model>'.
        pretrained: load the weights of the tag (timm downloads them once); False gives random ones.
        weights: a local safetensors file in timm's tensor names, instead of a download.
        image_size: pixels, or (H, W); None keeps the backbone's own.

    Raises:
        BackboneError: unknown or unsupported name, weights that are missing or do not fit.
    """
    model_name = _timm_name(name)
    _refuse_unsupported(name, model_name)
    if weights is not None:
        body = _create_with_weights(name, model_name, Path(weights))
    else:
        body = _create(name, model_name, pretrained=pretrained)
    backbone = ADAPTERS[type(body)](body, name)
    backbone.pretrained = pretrained
    backbone.weights = None if weights is None else str(weights)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = (size[0], size[1])
        if size != backbone.preprocess.size:
            backbone.resize(size)
    return backbone


def wrap_backbone(module: nn.Module) -> Backbone:
    """A backbone around a timm module that a user built.

    Its classifier is dropped from a copy, not from it.

    Raises:
        BackboneError: its class is not supported.
    """
    if isinstance(module, Backbone):
        return module
    adapter = ADAPTERS.get(type(module))
    if adapter is None:
        raise BackboneError(
            f"a {type(module).__name__} is not supported as backbone: {SUPPORTED} are"
        )
    config = getattr(module, "pretrained_cfg", None) or {}
    tag = f".{config['tag']}" if config.get("tag") else ""
    name = f"timm/{config['architecture']}{tag}" if config.get("architecture") else ""
    return adapter(copy.deepcopy(module), name)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that `create_backbone` takes, the bundled ones first.

    Args:
        pattern: shell-style filter of the part after '/', e.g. '*dinov3*'.
    """
    names = [f"bundled/{name}" for name in timm.list_models(pattern) if name in BUNDLED]
    for module in ("vision_transformer", "eva"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tagged = timm.list_models(pattern, module=module, pretrained=True)
            plain = timm.list_models(pattern, module=module)
        names += sorted(f"timm/{name}" for name in {*tagged, *plain} if name not in BUNDLED)
    return names


def _timm_name(name: str) -> str:
    family, _, model = name.partition("/")
    if family == "bundled" and model in BUNDLED:
        return model
    if family == "timm" and timm.is_model(model.split(".")[0]):
        return model
    raise BackboneError(f"unknown backbone '{name}'{nearest(name, list_backbones())}")


def _refuse_unsupported(name: str, model_name: str) -> None:
    """Refuse by class before any weight is downloaded."""
    with torch.device("meta"):
        kind = type(_create(name, model_name, pretrained=False))
    if kind not in ADAPTERS:
        raise BackboneError(
            f"'{name}' is a {kind.__name__}, which is not supported: {SUPPORTED} are"
        )


def _create(name: str, model_name: str, **options: Any) -> Any:
    try:
        return timm.create_model(model_name, **options)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        hint = (
            "; without network give backbone.weights=FILE.safetensors"
            if options["pretrained"]
            else ""
        )
        raise BackboneError(f"cannot create '{name}': {reason}{hint}") from error


def _create_with_weights(name: str, model_name: str, weights: Path) -> Any:
    """Load strictly: the file's own head size is used.

    So not one other tensor may be missing.
    """
    if weights.suffix != ".safetensors":
        raise BackboneError(
            f"weights {weights}: only .safetensors files are read; convert it first"
        )
    if not weights.is_file():
        raise BackboneError(f"weights {weights}: no such file")
    try:
        state = load_state_dict(str(weights))
    except Exception as error:
        raise BackboneError(
            f"weights {weights}: not a readable safetensors file ({error})"
        ) from error
    head = state.get("head.weight")
    num_classes = 0 if head is None else head.shape[0]
    overlay = {"state_dict": state, "num_classes": num_classes, "custom_load": False}
    try:
        return timm.create_model(
            model_name, pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"weights {weights} do not fit '{name}': {reason}") from error
