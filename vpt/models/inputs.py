"""What a model refuses to take for images, and what to pass instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.backbones import Backbone
from vpt.errors import ConfigError

_HOW = "vpt.create_transform(model.preprocess)"


def check_images(images: Any, backbone: Backbone) -> None:
    """Refuse what are no preprocessed images (B, 3, H, W); the size is the backbone's to check.

    Shapes and types alone are looked at, so compiled and exported models check nothing at run time.

    Raises:
        ConfigError: naming what was given and what to pass.
    """
    channels = backbone.in_channels
    shape = f"(B, {channels}, H, W)"
    if not isinstance(images, Tensor):
        raise ConfigError(f"a model takes a tensor of images {shape}, not {_described(images)}")
    if images.ndim == 3 and images.shape[0] == channels:
        raise ConfigError(
            f"a model takes a batch of images {shape}, and this is one of "
            f"{_size(images)}; pass image[None]"
        )
    if images.ndim != 4 or images.shape[1] != channels:
        raise ConfigError(
            f"a model takes images {shape}, not a tensor of {_size(images)}"
            f"{_hint(images, channels)}"
        )
    if not images.is_floating_point():
        raise ConfigError(
            f"a model takes normalised floating-point images, and these are {images.dtype}; make "
            f"them with {_HOW}"
        )
    weights = next(backbone.parameters()).dtype
    if images.dtype == torch.float64 and weights != torch.float64:
        raise ConfigError(f"a model of {weights} takes no float64 images; pass images.float()")


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape))


def _hint(images: Tensor, channels: int) -> str:
    if images.ndim in (3, 4) and images.shape[-1] == channels:
        axes = (2, 0, 1) if images.ndim == 3 else (0, 3, 1, 2)
        return f"; the channels come first: images.permute{axes}, normalised as {_HOW} does"
    if images.ndim == 4 and images.shape[1] in (1, 4):
        return f"; make images of any mode with {_HOW}, which gives RGB"
    return f"; make each image with {_HOW} and stack them"


def _described(given: Any) -> str:
    if isinstance(given, str | Path):
        return f"the path '{given}'; pass {_HOW}(vpt.read_image(path))[None]"
    if isinstance(given, list | tuple):
        inside = f" of {type(given[0]).__name__}" if given else ""
        return (
            f"a {type(given).__name__}{inside}; make each image with {_HOW}, and torch.stack them"
        )
    if hasattr(given, "getbands"):  # PIL's, which is not imported for this
        return f"a PIL image; pass {_HOW}(image)[None]"
    if hasattr(given, "__array_interface__"):
        return (
            f"an array; pass {_HOW}(PIL.Image.fromarray(array))[None] of uint8 pixels (H, W, 3), "
            "or torch.from_numpy(array) of what is normalised already"
        )
    return f"a {type(given).__name__}; make each image with {_HOW}, and torch.stack them"
