"""timm's models by name, behind their adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vpt.backbones.bundled  # noqa: F401 - registers its models with timm
from vpt.backbones.downloads import HUB, impatient, quiet, reason_of
from vpt.backbones.hints import key_difference, transformer_of_size
from vpt.backbones.names import SUPPORTED_BY_TIMM
from vpt.backbones.timm_eva import TimmEva
from vpt.backbones.timm_vit import TimmViT
from vpt.errors import BackboneError

ADAPTERS: dict[type[nn.Module], type[TimmViT]] = {VisionTransformer: TimmViT, Eva: TimmEva}
BUNDLED = ("glyph_vit",)
MODULES = ("vision_transformer", "eva")
"""timm's modules whose models are of the supported classes."""


def timm_model_name(name: str) -> str | None:
    """The name that timm has for a backbone, or None where it has none."""
    family, _, model = name.partition("/")
    if family == "bundled" and model in BUNDLED:
        return model
    if family == "timm" and timm.is_model(model.split(".")[0]):
        return model
    return None


def create_timm_backbone(name: str, *, pretrained: bool, weights: Path | None) -> TimmViT:
    """The backbone of a name for which `timm_model_name` gives one.

    Raises:
        BackboneError: its class is not supported, or its weights are missing or do not fit.
    """
    model_name = timm_model_name(name)
    assert model_name is not None
    refuse_other_network(name)
    if weights is not None:
        body = _create_with_weights(name, model_name, weights)
    else:
        body = _create(name, model_name, pretrained=pretrained)
    return ADAPTERS[type(body)](body, name)


def list_timm_backbones() -> list[str]:
    """Names that `create_timm_backbone` takes."""
    names = [f"bundled/{name}" for name in BUNDLED]
    for module in MODULES:
        with quiet():
            tagged = timm.list_models(module=module, pretrained=True)
            plain = timm.list_models(module=module)
        names += sorted(f"timm/{name}" for name in {*tagged, *plain} if name not in BUNDLED)
    return names


def name_of(body: Any) -> str:
    """The name under which timm knows a model, or ''."""
    config = getattr(body, "pretrained_cfg", None) or {}
    tag = f".{config['tag']}" if config.get("tag") else ""
    return f"timm/{config['architecture']}{tag}" if config.get("architecture") else ""


def refuse_other_network(name: str) -> None:
    """Refuse a model of timm's that is no supported transformer; of other names nothing is said.

    By its class, before any weight is downloaded.

    Raises:
        BackboneError: naming a vision transformer of about its size.
    """
    model_name = timm_model_name(name)
    if model_name is None:
        return
    outline = _outline(name, model_name)
    if type(outline) not in ADAPTERS:
        like = transformer_of_size(sum(p.numel() for p in outline.parameters()))
        raise BackboneError(
            f"'{name}' is a {type(outline).__name__}, which is not supported: "
            f"{SUPPORTED_BY_TIMM} are, e.g. '{like}' of about its size"
        )


def _outline(name: str, model_name: str, **options: Any) -> Any:
    """The model on the meta device: its class, names and shapes, and no memory."""
    with torch.device("meta"):
        return _create(name, model_name, pretrained=False, **options)


def _create(name: str, model_name: str, **options: Any) -> Any:
    downloading = options["pretrained"] and name.removeprefix("bundled/") not in BUNDLED
    try:
        with quiet(), impatient(downloading=downloading):
            return timm.create_model(model_name, **options)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = reason_of(error, source=HUB if downloading else None)
        raise BackboneError(f"cannot create '{name}': {reason}") from error


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
        # timm may rename tensors as it loads them; where that did not help, the names say most.
        expected = _outline(name, model_name, num_classes=num_classes).state_dict()
        reason = key_difference(expected, state)
        raise BackboneError(f"weights {weights} do not fit '{name}': {reason}") from error
