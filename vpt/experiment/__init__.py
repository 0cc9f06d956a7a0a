"""The composition of a run: a checked config becomes data, model and settings."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.experiment.caching import CachePlan, bytes_text, plan_cache
    from vpt.experiment.classification import (
        Experiment,
        head_with_templates,
        load_splits,
        preprocess_of,
    )
    from vpt.experiment.composition import AnyExperiment, build
    from vpt.experiment.detection import DetectionExperiment
    from vpt.experiment.settings import backbone_of
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AnyExperiment",
    "CachePlan",
    "DetectionExperiment",
    "Experiment",
    "backbone_of",
    "build",
    "bytes_text",
    "head_with_templates",
    "load_splits",
    "plan_cache",
    "preprocess_of",
]
