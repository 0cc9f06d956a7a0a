"""Frozen vision transformers behind one contract; nothing else imports timm or open_clip."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.backbones.base import Backbone
    from vpt.backbones.create import (
        create_backbone,
        list_backbones,
        outline_backbone,
        wrap_backbone,
    )
    from vpt.backbones.names import is_clip_name
    from vpt.backbones.storage import stored_in
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "Backbone",
    "create_backbone",
    "is_clip_name",
    "list_backbones",
    "outline_backbone",
    "stored_in",
    "wrap_backbone",
]
