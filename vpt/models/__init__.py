"""Backbone, prompt and head as one module."""

from vpt.models.classifier import Classifier
from vpt.models.prompted import PromptedBackbone, start_from_patches

__all__ = ["Classifier", "PromptedBackbone", "start_from_patches"]
