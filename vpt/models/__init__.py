"""Backbone, prompt and head as one module."""

from vpt.models.base import PromptedModel
from vpt.models.classifier import Classifier
from vpt.models.consistency import NO_CONSISTENCY, Consistency
from vpt.models.detector import Detector
from vpt.models.prompted import PromptedBackbone, start_from_patches

__all__ = [
    "NO_CONSISTENCY",
    "Classifier",
    "Consistency",
    "Detector",
    "PromptedBackbone",
    "PromptedModel",
    "start_from_patches",
]
