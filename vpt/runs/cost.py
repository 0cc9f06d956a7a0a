"""What a run costs in operations."""

from __future__ import annotations

from vpt.engine.progress import Log
from vpt.experiment import AnyExperiment, Experiment
from vpt.models import NO_CONSISTENCY, Flops, count_flops


def flops_of(experiment: AnyExperiment, log: Log) -> Flops | None:
    """FLOPs per image of an experiment's batches; None, and a line to `log`, where it fails."""
    config, is_classifier = experiment.config, isinstance(experiment, Experiment)
    try:
        return count_flops(
            experiment.model,
            config.data.batch_size,
            consistency=experiment.settings.consistency if is_classifier else NO_CONSISTENCY,
        )
    except Exception as error:  # noqa: BLE001 - a number less is no reason to lose a run
        log(f"FLOPs are not counted: {type(error).__name__}: {error}".splitlines()[0])
        return None
