"""Frozen vision transformers behind one contract; nothing else imports timm."""

from vpt.backbones.base import Backbone
from vpt.backbones.create import create_backbone, list_backbones, wrap_backbone

__all__ = ["Backbone", "create_backbone", "list_backbones", "wrap_backbone"]
