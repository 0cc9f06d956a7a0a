"""What a sweep measured; JSON values in, JSON values out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vpt.evaluation.energy import Energy, energies, total

Value = bool | int | float | str | None


@dataclass(frozen=True)
class SweepTrial:
    """One parameter set tried.

    Attributes:
        params: keys of a run's config.
        value: of the metric on validation, in [0, 1], the mean over the trial seeds.
        pruned: given up early; the value is the last one it had.
        diverged: why it counts as 0, if the training went astray.
        seconds: of its runs.
        energy: of that time; of a trial that was given up or diverged it is not known.
    """

    params: Mapping[str, Value]
    value: float | None
    pruned: bool
    diverged: str | None
    seconds: float
    energy: tuple[Energy, ...] = ()


@dataclass(frozen=True)
class TestedRun:
    """One run with the chosen parameters, tested once.

    Attributes:
        seed: of the run.
        test: metrics on the test split, in [0, 1]; empty where the training diverged.
        details: what its result.json holds besides: parameters, prompt_bytes, seconds, ..
    """

    __test__ = False  # for pytest, which takes the name for a test's

    seed: int
    test: Mapping[str, float]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class UnitResult:
    """One method on one task.

    Attributes:
        sweep: name of the sweep.
        suite: as papers write it; None outside of one.
        group: of the suite.
        task: the data set.
        method: its name in the config.
        backbone: the checkpoint's full name: another tag is another row.
        metric: what validation chose by and test reports.
        train_on: 'train', or 'train_and_val' for the tested runs.
        planned_trials: how many the search is of.
        trials: those that are over.
        space: what could be chosen: lists, or {low, high}.
        chosen: the parameters of the tested runs; None while the search goes on.
        seeds: of the tested runs, all.
        runs: the tested runs that are over.
        planned_tasks: how many each group of the suite has; empty outside of one.
    """

    sweep: str
    suite: str | None
    group: str
    task: str
    method: str
    backbone: str
    metric: str
    train_on: str
    planned_trials: int
    trials: tuple[SweepTrial, ...]
    space: Mapping[str, Any]
    chosen: Mapping[str, Value] | None
    seeds: tuple[int, ...]
    runs: tuple[TestedRun, ...]
    planned_tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def tests(self) -> tuple[float, ...]:
        """The metric on test of each run; 0 where one diverged."""
        return tuple(run.test.get(self.metric, 0.0) for run in self.runs)

    @property
    def mean(self) -> float | None:
        """Over the seeds; None before the first is tested."""
        return statistics.fmean(self.tests) if self.runs else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(self.tests) if len(self.runs) > 1 else None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.seeds) and len(self.runs) == len(self.seeds)

    @property
    def search_seconds(self) -> float:
        """Of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def energy(self) -> tuple[Energy, ...]:
        """Of all tested runs and all trials."""
        runs = [energies(run.details.get("energy", ())) for run in self.runs]
        return total(*(trial.energy for trial in self.trials), *runs)

    def detail(self, name: str) -> Any:
        """A measurement of the first run that has it; None if none has."""
        return next((run.details[name] for run in self.runs if name in run.details), None)

    def mean_of(self, name: str) -> float | None:
        """The mean of a measurement over the runs that have it."""
        values = [run.details[name] for run in self.runs if name in run.details]
        return statistics.fmean(values) if values else None

    def at_edge(self) -> tuple[str, ...]:
        """Chosen parameters that are the least or the most of what could be chosen.

        A better one may lie beyond. Of a list of two numbers both are ends; words have no order,
        and nothing lies beyond 0.
        """
        return tuple(
            name
            for name, value in (self.chosen or {}).items()
            if value != 0 and (ends := _ends(self.space.get(name))) and value in ends
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with mean and spread."""
        more = {"mean": self.mean, "std": self.std, "at_edge": self.at_edge()}
        return {**asdict(self), **more, "energy": [asdict(energy) for energy in self.energy]}


def _ends(choices: Any) -> tuple[float, float] | None:
    if isinstance(choices, Mapping):
        return choices["low"], choices["high"]
    if not isinstance(choices, Sequence) or len(choices) < 2:
        return None
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in choices):
        return None
    return min(choices), max(choices)


ALL_TASKS, ALL_GROUPS = "Mean of tasks", "Mean of groups"


def suite_means(units: Sequence[UnitResult], tasks: Mapping[str, int]) -> dict[str, float | None]:
    """One method's mean in each group of tasks, over all tasks, and over the groups' means.

    Papers give the one or the other as their mean; where tasks are missing there is None.

    Args:
        units: of the method, as far as they have begun.
        tasks: how many each group has.
    """
    groups: dict[str, list[float | None]] = {}
    for name, count in tasks.items():
        found = [unit.mean for unit in units if unit.group == name]
        groups[name] = found + [None] * (count - len(found))
    means = {name: _mean(values) for name, values in groups.items()}
    over_tasks = _mean([value for values in groups.values() for value in values])
    return {**means, ALL_TASKS: over_tasks, ALL_GROUPS: _mean(list(means.values()))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
