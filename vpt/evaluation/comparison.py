"""What a comparison of methods measured; JSON values in, JSON values out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from vpt.evaluation.energy import Energy, total


@dataclass(frozen=True)
class Trial:
    """One learning rate tried.

    Attributes:
        lr: peak rate, per optimiser step.
        val: validation top-1 (or AP) of the best epoch, in [0, 1], for each trial seed.
        seconds: of training and validation, of all trial seeds.
        energy: of that time.
    """

    lr: float
    val: tuple[float, ...]
    seconds: float = 0.0
    energy: tuple[Energy, ...] = ()

    @property
    def mean(self) -> float:
        """The mean over the trial seeds, which the choice goes by."""
        return statistics.fmean(self.val)


@dataclass(frozen=True)
class MethodResult:
    """One method at its chosen learning rate.

    Attributes:
        trials: every learning rate tried; none where there was a single one.
        lr: the chosen one.
        val_top1: validation top-1 of the best epoch, in [0, 1], for each seed.
        test_top1: test top-1 of that epoch, in [0, 1], for each seed.
        trained_parameters: numbers that are trained, head included.
        file_bytes: size of the prompt file.
        seconds: of training and validation in one run, mean over the seeds.
        forward_flops: floating-point operations per image in evaluation; None: not counted.
        step_flops: the same in training.
        energy: of training and validation, of all its tested runs.
    """

    trials: tuple[Trial, ...]
    lr: float
    val_top1: tuple[float, ...]
    test_top1: tuple[float, ...]
    trained_parameters: int
    file_bytes: int
    seconds: float
    forward_flops: int | None = None
    step_flops: int | None = None
    energy: tuple[Energy, ...] = ()

    @property
    def test_top1_mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.test_top1)

    @property
    def test_top1_std(self) -> float:
        """The sample standard deviation over the seeds; 0 for a single one."""
        return statistics.stdev(self.test_top1) if len(self.test_top1) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with mean and spread."""
        means = {"test_top1_mean": self.test_top1_mean, "test_top1_std": self.test_top1_std}
        return {**means, **asdict(self)}


@dataclass(frozen=True)
class DetectorResult:
    """One tuning of a detector at its chosen learning rate.

    Attributes:
        trials: every learning rate tried; none where there was a single one.
        lr: the chosen one.
        val_ap: validation AP of the best epoch, in [0, 1], for each seed.
        test_ap: test AP of that epoch, in [0, 1], for each seed.
        test_ap50: the same at IoU 0.5.
        parameters: trained numbers of each part, and 'trained' in all.
        file_bytes: size of the prompt file.
        seconds: of training and validation in one run, mean over the seeds.
        peak_memory_bytes: of a process that did nothing but one run, the most of all runs.
        forward_flops: floating-point operations per image in evaluation; None: not counted.
        step_flops: the same in training.
        energy: of training and validation, of all its tested runs.
    """

    trials: tuple[Trial, ...]
    lr: float
    val_ap: tuple[float, ...]
    test_ap: tuple[float, ...]
    test_ap50: tuple[float, ...]
    parameters: Mapping[str, int]
    file_bytes: int
    seconds: float
    peak_memory_bytes: int
    forward_flops: int | None = None
    step_flops: int | None = None
    energy: tuple[Energy, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


AnyResult = TypeVar("AnyResult", MethodResult, DetectorResult)


@dataclass(frozen=True)
class Cost:
    """What several runs cost.

    Attributes:
        seconds: of training and validation.
        energy: of that time.
    """

    seconds: float
    energy: tuple[Energy, ...]


@dataclass(frozen=True)
class Comparison(Generic[AnyResult]):
    """Methods side by side on the same backbone, images and seeds.

    Attributes:
        setting: data set, backbone, shots, numbers of images, how was chosen.
        seeds: of the runs that were tested.
        trial_seeds: of the runs that chose the learning rates.
        methods: by name, in the order of the config.
        versions: packages, machine, threads.
        seconds: of the whole comparison.
    """

    setting: Mapping[str, Any]
    seeds: tuple[int, ...]
    trial_seeds: tuple[int, ...]
    methods: Mapping[str, AnyResult]
    versions: Mapping[str, Any]
    seconds: float

    @property
    def tested(self) -> Cost:
        """Of the runs that were tested."""
        methods = self.methods.values()
        seconds = sum(method.seconds for method in methods) * len(self.seeds)
        return Cost(seconds, total(*(method.energy for method in methods)))

    @property
    def tried(self) -> Cost:
        """Of the runs that chose the learning rates."""
        trials = [trial for method in self.methods.values() for trial in method.trials]
        energy = total(*(trial.energy for trial in trials))
        return Cost(sum(trial.seconds for trial in trials), energy)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, and the cost of tested runs and of trials."""
        methods = {name: method.to_dict() for name, method in self.methods.items()}
        costs = {"tested_runs": asdict(self.tested), "trials": asdict(self.tried)}
        return {**asdict(self), "methods": methods, "cost": costs}


def chosen_rate(trials: Sequence[Trial], rates: Sequence[float]) -> float:
    """The best trial's rate; without trials the only one there is."""
    if trials:
        return best_trial(trials).lr
    (rate,) = rates
    return rate


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the best mean on validation; of equal ones the lowest rate."""
    return min(trials, key=lambda trial: (-trial.mean, trial.lr))
