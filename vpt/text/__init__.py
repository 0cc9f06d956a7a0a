"""The text side of a CLIP: its frozen tower, the classifier built from names, learned contexts."""

from vpt.text.classifier import TextClassifier, build_classifier, default_cache
from vpt.text.context import LearnedContext
from vpt.text.templates import resolve_class_prompts, resolve_templates
from vpt.text.tower import TextTower, create_text_tower

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
