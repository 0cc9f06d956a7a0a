"""What a run would do and cost, before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import torch

from vpt.engine.device import choose_device, peak_memory_bytes
from vpt.engine.fit import FitState, fit, total_steps
from vpt.engine.progress import Log
from vpt.experiment import AnyExperiment, Experiment
from vpt.runs.cost import flops_of
from vpt.runs.feeding import fit_data


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        images: per split.
        classes: C.
        steps: optimiser steps at most.
        parameters: by part, trained ones; 'backbone' counts all of the backbone's.
        trained: how many are trained in all.
        checkpoint_bytes: of one checkpoint, about.
        seconds: estimated from a few real steps, without a cache; a validation image counts a third
            of a training image.
        peak_memory_bytes: after those steps.
        forward_flops: floating-point operations per image in evaluation; None: not counted.
        step_flops: the same in training.
    """

    images: dict[str, int]
    classes: int
    steps: int
    parameters: dict[str, int]
    trained: int
    checkpoint_bytes: int
    seconds: float
    peak_memory_bytes: int
    forward_flops: int | None = None
    step_flops: int | None = None


def make_plan(experiment: AnyExperiment, *, log: Log = lambda line: None) -> Plan:
    """A plan from a few real training steps; the experiment's model is used up by them."""
    config, splits = experiment.config, experiment.splits
    for line in experiment.data_lines if isinstance(experiment, Experiment) else ():
        log(line)
    device = choose_device(config.train.device)
    _rehearse(experiment, device, steps=1)  # the first step also pays for warming up
    state = _rehearse(experiment, device, steps=3)
    per_image = state.train_seconds / state.images
    validations = -(-config.train.epochs // config.train.evaluate_every)
    val_images = 0 if splits.val is None else len(splits.val) * validations
    steps = total_steps(experiment.settings, experiment.batches_per_epoch)
    train_images = steps / state.step * state.images
    memory, flops = peak_memory_bytes(device), flops_of(experiment, log)
    return Plan(
        images={
            name: len(split) for name in ("train", "val", "test") if (split := splits.get(name))
        },
        classes=len(splits.class_names),
        steps=steps,
        parameters=experiment.model.parameter_counts(),
        trained=sum(p.numel() for p in experiment.model.trainable_parameters()),
        checkpoint_bytes=checkpoint_bytes(experiment),
        seconds=per_image * (train_images + val_images / 3),
        peak_memory_bytes=memory,
        forward_flops=flops.forward if flops else None,
        step_flops=flops.step if flops else None,
    )


def _rehearse(experiment: AnyExperiment, device: torch.device, *, steps: int) -> FitState:
    """A few training steps, and validation on one batch, without a trace."""
    settings = replace(experiment.settings, max_steps=steps)
    data = fit_data(experiment, device, cached=False)
    if (val := data.val) is not None:
        data = replace(data, val=lambda: islice(val(), 1))
    return fit(experiment.model.to(device), data, settings, device=device)


def checkpoint_bytes(experiment: AnyExperiment) -> int:
    """Size of one checkpoint, about: trained tensors, the optimiser's moments, the state."""
    moments = 2 if experiment.config.optim.name == "adamw" else 1
    return (
        sum(p.numel() * 4 for p in experiment.model.trainable_parameters()) * (1 + moments) + 2**16
    )
