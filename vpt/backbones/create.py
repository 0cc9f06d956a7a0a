"""From a name, or a module that a user built, to a backbone."""

from __future__ import annotations

import copy
import sys
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

from vpt.backbones import timm_models
from vpt.backbones.base import Backbone
from vpt.backbones.hints import similar_names
from vpt.backbones.names import SUPPORTED_BY_OPEN_CLIP, SUPPORTED_BY_TIMM, is_clip_name
from vpt.backbones.timm_models import (
    create_timm_backbone,
    list_timm_backbones,
    refuse_other_network,
    timm_model_name,
)
from vpt.backbones.wrappers import unwrapped
from vpt.errors import BackboneError

SUPPORTED = f"{SUPPORTED_BY_TIMM}, {SUPPORTED_BY_OPEN_CLIP}"


def create_backbone(
    name: str,
    *,
    pretrained: bool = True,
    weights: Path | str | None = None,
    image_size: int | tuple[int, int] | None = None,
    pool: str | None = None,
) -> Backbone:
    """A frozen backbone by name.

    Args:
        name: 'timm/<model>[.tag]', 'open_clip/<architecture>:<tag>' or 'bundled/<model>'.
        pretrained: load the weights of the tag (downloaded once); False gives random ones.
        weights: a local safetensors file in timm's or open_clip's tensor names, instead of a
            download; of open_clip, the whole model's.
        image_size: pixels, or (H, W); None keeps the backbone's own.
        pool: what the feature is made of, one of `Backbone.poolings`; None: as timm or open_clip
            do it for this model.

    Raises:
        BackboneError: unknown or unsupported name or pooling, weights that are missing or do not
            fit.
    """
    file = None if weights is None else Path(weights)
    if pool is not None and (pretrained or file is not None):  # before weights are loaded
        with torch.device("meta"):
            create_backbone(name, pretrained=False, pool=pool)
    backbone: Backbone
    if is_clip_name(name):
        from vpt.backbones.open_clip_towers import create_image_tower

        backbone = create_image_tower(name, pretrained=pretrained, weights=file)
    elif timm_model_name(name) is not None:
        backbone = create_timm_backbone(name, pretrained=pretrained, weights=file)
    else:
        refuse_other_network(f"timm/{name.rpartition('/')[2]}")
        raise BackboneError(f"unknown backbone '{name}'{similar_names(name, list_backbones())}")
    backbone.pretrained = pretrained
    backbone.weights = None if weights is None else str(weights)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = (size[0], size[1])
        if size != backbone.preprocess.size:
            backbone.resize(size)
    if pool is not None:
        backbone.set_pooling(pool)
    return backbone


def outline_backbone(name: str, image_size: tuple[int, int], pool: str | None = None) -> Backbone:
    """A backbone of a name on the meta device: all of its shapes, none of its memory.

    Nothing is downloaded.

    Raises:
        BackboneError: unknown or unsupported name, or a size that does not fit.
    """
    with torch.device("meta"):
        return create_backbone(name, pretrained=False, image_size=image_size, pool=pool)


def wrap_backbone(module: nn.Module) -> Backbone:
    """A backbone around a timm model, or an open_clip model or image tower, that a user built.

    What torch put around it (compile, DataParallel) is taken off. It is made from a copy of the
    image tower; a timm model's classifier is dropped from it.

    Raises:
        BackboneError: its class is not supported.
    """
    module = unwrapped(module)
    if isinstance(module, Backbone):
        return module
    if (wrapped := _wrap_open_clip(module)) is not None:
        return wrapped
    adapter = timm_models.ADAPTERS.get(type(module))
    if adapter is None:
        inside = getattr(module, "backbone", None)
        hint = "; pass its .backbone" if isinstance(inside, Backbone) else ""
        raise BackboneError(
            f"a {type(module).__name__} is not supported as backbone: {SUPPORTED} are{hint}"
        )
    return adapter(copy.deepcopy(module), timm_models.name_of(module))


def _wrap_open_clip(module: nn.Module) -> Backbone | None:
    """A backbone of a copy of a module's image tower; None: it is nothing of open_clip's.

    Where open_clip was never imported, no module can be of its classes.
    """
    if "open_clip" not in sys.modules:
        return None
    from vpt.backbones.open_clip_towers import image_tower_of, wrap_image_tower

    tower = image_tower_of(module)
    return None if tower is None else wrap_image_tower(copy.deepcopy(tower))


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that `create_backbone` takes, the bundled ones first.

    Args:
        pattern: shell-style filter of the name or of its part after '/', e.g. '*dinov3*'.
    """
    from vpt.backbones.open_clip_towers import list_image_towers

    names = [
        name
        for name in (*list_timm_backbones(), *list_image_towers())
        if fnmatch(name, pattern) or fnmatch(name.partition("/")[2], pattern)
    ]
    return sorted(names, key=lambda name: not name.startswith("bundled/"))
