"""The composition of a run of either task: a checked config becomes data, model and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from vpt.backbones import Backbone
from vpt.config import AnyRunConfig, DetectionRunConfig, RunConfig
from vpt.experiment.classification import Experiment, build_classification
from vpt.experiment.detection import DetectionExperiment, build_detection

if TYPE_CHECKING:
    from vpt.text import TextTower

AnyExperiment = Experiment | DetectionExperiment
"""Of either task."""


@overload
def build(
    config: RunConfig, *, backbone: Backbone | None = ..., text: TextTower | None = ...
) -> Experiment: ...


@overload
def build(
    config: AnyRunConfig, *, backbone: Backbone | None = ..., text: TextTower | None = ...
) -> AnyExperiment: ...


def build(
    config: AnyRunConfig, *, backbone: Backbone | None = None, text: TextTower | None = None
) -> AnyExperiment:
    """Objects from a config of either task.

    Args:
        config: checked.
        backbone: one in memory, to share between runs, instead of the config's.
        text: its text tower, likewise, for heads of texts.

    Raises:
        VptError: anything in the config that does not fit together.
    """
    if isinstance(config, DetectionRunConfig):
        return build_detection(config, backbone=backbone)
    return build_classification(config, backbone=backbone, text=text)
