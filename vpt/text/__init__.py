"""The text side of a CLIP: its frozen tower, the classifier built from names, learned contexts."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.text.classifier import TextClassifier, build_classifier, default_cache
    from vpt.text.context import LearnedContext
    from vpt.text.templates import resolve_class_prompts, resolve_templates
    from vpt.text.tower import TextTower, create_text_tower
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "LearnedContext",
    "TextClassifier",
    "TextTower",
    "build_classifier",
    "create_text_tower",
    "default_cache",
    "resolve_class_prompts",
    "resolve_templates",
]
