"""The small backbones that ship with the package; importing this registers them with timm."""

from vpt.backbones.bundled.glyph_vit import WEIGHTS, glyph_vit

__all__ = ["WEIGHTS", "glyph_vit"]
