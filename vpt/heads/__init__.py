"""From features to what a task wants."""

from vpt.heads.base import Head, TextParts, build_head
from vpt.heads.linear import LinearHead
from vpt.heads.zero_shot import LinearFromTextHead, TextHead, TextOptions, ZeroShotHead

__all__ = [
    "Head",
    "LinearFromTextHead",
    "LinearHead",
    "TextHead",
    "TextOptions",
    "TextParts",
    "ZeroShotHead",
    "build_head",
]
