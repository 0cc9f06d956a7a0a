"""Backbone, prompt and head as one module."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.models.bank import BankTask, TaskBank
    from vpt.models.base import PromptedModel, model_in
    from vpt.models.classifier import Classifier
    from vpt.models.consistency import NO_CONSISTENCY, Consistency
    from vpt.models.detector import Detector
    from vpt.models.flops import Flops, count_flops
    from vpt.models.prompted import PromptedBackbone, start_from_patches
    from vpt.models.saved import Saved, count_saved
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "NO_CONSISTENCY",
    "BankTask",
    "Classifier",
    "Consistency",
    "Detector",
    "Flops",
    "PromptedBackbone",
    "PromptedModel",
    "Saved",
    "TaskBank",
    "count_flops",
    "count_saved",
    "model_in",
    "start_from_patches",
]
