"""Backbone, prompt and head as one module."""

from vpt.models.classifier import Classifier
from vpt.models.consistency import NO_CONSISTENCY, Consistency
from vpt.models.prompted import PromptedBackbone, start_from_patches

__all__ = ["NO_CONSISTENCY", "Classifier", "Consistency", "PromptedBackbone", "start_from_patches"]
