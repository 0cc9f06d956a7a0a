"""Which family a backbone's name belongs to, and what is supported; imports no library."""

from __future__ import annotations

OPEN_CLIP = "open_clip/"
"""Begins the names of open_clip's models."""

BUNDLED_CLIP = "bundled/glyph_clip"
"""The CLIP that ships with the package."""

SUPPORTED_BY_TIMM = "timm's VisionTransformer and Eva"
SUPPORTED_BY_OPEN_CLIP = (
    "open_clip's VisionTransformer and TimmModel (of timm's VisionTransformer or Eva)"
)


def is_clip_name(name: str) -> bool:
    """Whether a backbone's name is that of a CLIP, which has a text tower as well."""
    return name.startswith(OPEN_CLIP) or name == BUNDLED_CLIP
