"""The simple feature pyramid of ViTDet: from patch tokens to maps at several strides.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vpt.errors import ConfigError
from vpt.heads.options import NormKind, check_scales
from vpt.structures import Dimensions, Features

GROUPS = 32
"""Of every group norm, as in the papers."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every cell of a map (B, channels, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        """The map, normed."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Maps (B, channels, h * scale, w * scale) of tapped patch tokens.

    Each tap is layer-normed, all are concatenated and projected to the width by a 1x1 convolution;
    from there transposed convolutions go up and max pooling goes down, and every map ends in a
    3x3 convolution. No batch norm: an image's maps do not depend on its neighbours.

    Args:
        embed_dim: D.
        patch_size: (height, width) of a patch in pixels; must be square.
        taps: the layers that are read, as in `Features.taps`.
        channels: width of every map.
        scales: of 4, 2, 1, 0.5, 0.25, descending.
        norm: 'layer' or 'group'.

    Attributes:
        strides: pixels per cell of each map, exact; they may be fractions (3.5 at patch size 14).
        options: for `build_pyramid`, as they go into the prompt file.

    Raises:
        ConfigError: a scale is unknown, patches are not square, or groups do not divide the width.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_size: tuple[int, int],
        taps: Sequence[int],
        *,
        channels: int = 256,
        scales: Sequence[float] = (2.0, 1.0, 0.5),
        norm: NormKind = "layer",
    ):
        super().__init__()
        try:
            check_scales(scales)
        except ValueError as error:
            raise ConfigError(f"pyramid.scales {list(scales)}: {error}") from error
        if patch_size[0] != patch_size[1]:
            raise ConfigError(
                f"detection needs square patches, not {patch_size[0]}x{patch_size[1]}"
            )
        if norm == "group":
            check_groups(channels)
        self.taps, self.channels, self.scales = tuple(taps), channels, tuple(scales)
        self.strides = tuple(patch_size[0] / scale for scale in scales)
        self.options = {"scales": list(self.scales), "norm": norm, "taps": len(self.taps)}
        make_norm = ChannelNorm if norm == "layer" else partial(nn.GroupNorm, GROUPS)
        self.tap_norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in self.taps)
        self.project = nn.Sequential(
            nn.Conv2d(embed_dim * len(self.taps), channels, 1, bias=False), make_norm(channels)
        )
        self.levels = nn.ModuleList(_level(scale, channels, make_norm) for scale in self.scales)

    def forward(self, features: Features) -> list[Tensor]:
        """One map per scale, finest first.

        Args:
            features: with the taps; the grid's sides must be multiples of what the coarsest map
                divides them by.
        """
        maps = self.project(self.patch_map(features))
        return [level(maps) for level in self.levels]

    def patch_map(self, features: Features) -> Tensor:
        """(B, taps * D, h, w): the normed taps, each token in its own cell."""
        height, width = features.grid
        tokens = [features.taps[layer] for layer in self.taps]
        for each in tokens:
            # A prompt or prefix token among the patches would shift every cell.
            assert each.shape[1] == height * width, (tuple(each.shape), features.grid)
        normed = [norm(each) for norm, each in zip(self.tap_norms, tokens, strict=True)]
        columns = torch.cat(normed, dim=-1).transpose(1, 2)
        return columns.reshape(*columns.shape[:2], height, width)


def even_taps(depth: int, count: int) -> tuple[int, ...]:
    """`count` evenly spaced layers of `depth`, the last of them the last one.

    Raises:
        ConfigError: more taps than layers, or none.
    """
    if not 1 <= count <= depth:
        raise ConfigError(f"taps {count}: the backbone has {depth} blocks; use 1..{depth}")
    return tuple(depth * (place + 1) // count - 1 for place in range(count))


def check_groups(channels: int) -> None:
    """Refuse a width that group norm cannot split.

    Raises:
        ConfigError: naming it and the nearest allowed ones.
    """
    if channels < GROUPS or channels % GROUPS:
        below, above = channels // GROUPS * GROUPS, (channels // GROUPS + 1) * GROUPS
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"channels {channels} do not split into the {GROUPS} groups of the group norm; "
            f"use a multiple of {GROUPS}, e.g. {nearest}"
        )


def build_pyramid(
    options: Mapping[str, Any], at: Dimensions, channels: int
) -> SimpleFeaturePyramid:
    """A pyramid from checked options.

    Args:
        options: of `PyramidOptions`, every one filled in.
        at: of the backbone that the pyramid is for.
        channels: the width that the head takes.
    """
    return SimpleFeaturePyramid(
        at.embed_dim,
        at.patch_size,
        even_taps(at.depth, options["taps"]),
        channels=channels,
        scales=tuple(options["scales"]),
        norm=options["norm"],
    )


class _Halve(nn.Module):
    """2x2 max pooling, which refuses a side that it cannot halve."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        assert height % 2 == width % 2 == 0, (height, width)
        return F.max_pool2d(maps, 2)


def _level(scale: float, channels: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    steps: list[nn.Module] = []
    reached = 1.0
    while reached < scale:
        if steps:
            steps += [norm(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
        reached *= 2
    while reached > scale:
        steps.append(_Halve())
        reached /= 2
    return nn.Sequential(
        *steps, nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)
    )
