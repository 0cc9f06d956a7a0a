"""open_clip's models by name, both towers, with the checks that open_clip leaves to its caller."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import (
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from timm.models import load_state_dict

from vpt.backbones.bundled import glyph_clip
from vpt.backbones.downloads import HUB, impatient, quiet, reason_of
from vpt.backbones.hints import key_difference
from vpt.backbones.names import BUNDLED_CLIP, OPEN_CLIP
from vpt.errors import BackboneError
from vpt.registry import nearest

_QUICK = "-quickgelu"
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class ClipName:
    """What a name stands for.

    Attributes:
        name: 'open_clip/<architecture>[:<tag>]' or 'bundled/glyph_clip'.
        architecture: of open_clip.
        tag: of the published weights, or None.
    """

    name: str
    architecture: str
    tag: str | None

    @property
    def is_bundled(self) -> bool:
        """Whether its weights come with the package."""
        return self.name == BUNDLED_CLIP


def parse_clip_name(name: str) -> ClipName:
    """The architecture and tag of a name.

    Raises:
        BackboneError: unknown architecture or tag (the nearest are named), or a tag whose weights
            were trained with another activation than the architecture has.
    """
    architecture = _architecture_of(name)
    tag = name.partition(":")[2]
    if not tag:
        return ClipName(name, architecture, None)
    tags = list_pretrained_tags_by_model(architecture)
    if not get_pretrained_cfg(architecture, tag):
        hint = _same_tag_elsewhere(architecture, tag) or nearest(tag, tags)
        raise BackboneError(
            f"unknown tag '{tag}' of '{architecture}'{hint} (known: {', '.join(tags) or 'none'})"
        )
    _check_activation(name, architecture, tag)
    return ClipName(name, architecture, tag)


def create_open_clip(
    name: str, *, pretrained: bool = True, weights: Path | str | None = None
) -> Any:
    """open_clip's own model: `CLIP`, `CustomTextCLIP` or `CoCa`, fp32, on the CPU, in eval.

    Args:
        name: see `ClipName`.
        pretrained: load the tag's weights (open_clip downloads them once); False: random ones.
        weights: a local safetensors file in open_clip's tensor names, instead of a download.

    Raises:
        BackboneError: unknown name or tag, an activation that does not match the tag, weights that
            are missing or do not fit.
    """
    clip = parse_clip_name(name)
    source = _weights_of(clip, pretrained, None if weights is None else Path(weights))
    on_meta = torch.get_default_device().type == "meta"  # where a copy to the CPU would fail
    downloading = weights is None and source is not None and not clip.is_bundled
    try:
        with quiet(), impatient(downloading=downloading):
            model = open_clip.create_model(
                clip.architecture,
                pretrained=source,
                force_preprocess_cfg=_preprocess_of(clip),
                pretrained_text=False,
                require_pretrained=source is not None,
                device="meta" if on_meta else "cpu",
            )
    except Exception as error:
        reason = reason_of(error, source=HUB if downloading else None)
        if weights is not None:
            raise BackboneError(
                f"weights {weights} do not fit '{name}': {_misfit(clip, Path(weights)) or reason}"
            ) from error
        raise BackboneError(f"cannot create '{name}': {reason}") from error
    return model.eval()


def _misfit(clip: ClipName, weights: Path) -> str | None:
    """In which tensors a file differs from what a model expects; None: it cannot be read."""
    try:
        found = load_state_dict(str(weights))
    except Exception:  # noqa: BLE001 - a damaged file may raise anything; its error is quoted
        return None
    with quiet(), torch.device("meta"):
        expected = open_clip.create_model(clip.architecture, device="meta").state_dict()
    return key_difference(expected, found)


def create_tokenizer(name: str) -> Any:
    """open_clip's tokenizer of a model: texts, context_length -> (texts, context_length) int64.

    Raises:
        BackboneError: its files cannot be loaded.
    """
    clip = parse_clip_name(name)
    try:
        with quiet():
            return open_clip.get_tokenizer(clip.architecture)
    except Exception as error:
        reason = reason_of(error, source=None)
        raise BackboneError(f"cannot load the tokenizer of '{name}': {reason}") from error


def clip_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model's architecture: 'vision_cfg', 'text_cfg', ..

    The tag is not looked at.
    """
    config: dict[str, Any] = open_clip.get_model_config(_architecture_of(name))
    return config


def list_clip_names() -> list[str]:
    """Names with a tag that `create_open_clip` takes."""
    pairs = [pair for pair in open_clip.list_pretrained() if _fits(*pair)]
    return [BUNDLED_CLIP, *(f"{OPEN_CLIP}{architecture}:{tag}" for architecture, tag in pairs)]


def imagenet_templates() -> dict[str, tuple[str, ...]]:
    """open_clip's sentences for ImageNet with {} for the class: all 80, and the 'simple' 7."""
    sets = {
        "openai_imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES,
        "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    }
    return {name: tuple(write("{}") for write in sentences) for name, sentences in sets.items()}


def _architecture_of(name: str) -> str:
    if name == BUNDLED_CLIP:
        return "glyph_clip"
    architecture = name.removeprefix(OPEN_CLIP).partition(":")[0]
    known = [each for each in open_clip.list_models() if each != "glyph_clip"]
    if not name.startswith(OPEN_CLIP) or architecture not in known:
        names = [BUNDLED_CLIP, *(OPEN_CLIP + each for each in known)]
        raise BackboneError(f"unknown CLIP '{name}'{nearest(name, names)}")
    return architecture


def _same_tag_elsewhere(architecture: str, tag: str) -> str:
    """A hint at the twin of an architecture with the other activation, if the tag is one of its."""
    twin = architecture.removesuffix(_QUICK)
    twin = twin if twin != architecture else f"{architecture}{_QUICK}"
    return f", use '{OPEN_CLIP}{twin}:{tag}'" if get_pretrained_cfg(twin, tag) else ""


def _fits(architecture: str, tag: str) -> bool:
    """Whether tag and architecture agree on QuickGELU (open_clip itself only warns)."""
    config = open_clip.get_model_config(architecture) or {}
    wanted = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu", False))
    return wanted == bool(config.get("quick_gelu", False))


def _check_activation(name: str, architecture: str, tag: str) -> None:
    if _fits(architecture, tag):
        return
    quick = bool(get_pretrained_cfg(architecture, tag).get("quick_gelu", False))
    right = f"{architecture}{_QUICK}" if quick else architecture.removesuffix(_QUICK)
    trained, built = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    way_out = f"use '{OPEN_CLIP}{right}:{tag}'"
    if right not in open_clip.list_models():
        way_out = "open_clip has no architecture that matches it"
    raise BackboneError(
        f"'{name}': the weights '{tag}' were trained with {trained}, '{architecture}' has "
        f"{built}; {way_out}"
    )


def _weights_of(clip: ClipName, pretrained: bool, weights: Path | None) -> str | None:
    """What open_clip's `pretrained` argument should be: a file, a tag or None."""
    if weights is not None:
        if weights.suffix != ".safetensors":
            raise BackboneError(
                f"weights {weights}: only .safetensors files are read; convert it first"
            )
        if not weights.is_file():
            raise BackboneError(f"weights {weights}: no such file")
        return str(weights)
    if not pretrained:
        return None
    if clip.is_bundled:
        return str(glyph_clip.WEIGHTS)
    if clip.tag is None:
        published = list_pretrained_tags_by_model(clip.architecture)
        tags = ", ".join(tag for tag in published if _fits(clip.architecture, tag))
        tags = tags or "none is published"
        raise BackboneError(
            f"'{clip.name}' names no weights; write '{clip.name}:<tag>' with a tag of: {tags}; "
            "or give backbone.weights=FILE.safetensors"
        )
    return clip.tag


def _preprocess_of(clip: ClipName) -> dict[str, Any]:
    """The tag's own preprocessing, which open_clip drops when the weights come from a file."""
    if clip.is_bundled:
        return dict(glyph_clip.PREPROCESS)
    config = get_pretrained_cfg(clip.architecture, clip.tag) if clip.tag else {}
    return {key: copy.copy(config[key]) for key in _PREPROCESS_KEYS if config.get(key) is not None}
