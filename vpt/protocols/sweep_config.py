"""A sweep's config: methods, tasks, what each method may choose, and the runs it stands for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vpt.config import AtMost, RunConfig, Schema, load_yaml, validate
from vpt.config.run import Positive
from vpt.data import load_descriptor
from vpt.errors import ConfigError
from vpt.protocols.methods import MethodsConfig
from vpt.protocols.setup import OWN_KEYS, Name, Seed, laid_over
from vpt.protocols.study import Params, Range, Space, Value
from vpt.runs import FREE_ON_RESUME

SWEEP_FILE = "sweep.yaml"
"""A sweep's resolved config, in its run_dir."""

_IMAGES = tuple(
    f"data.{key}"
    for key in ("dataset", "root", "shots", "sampling", "selection", "classes", "train_on")
)
"""Keys that say which images are learned from and judged by: no setting of a method."""

Choice = bool | int | float | str | None
Metric = Literal["top1", "mean_class_accuracy", "mAP"]


End = Annotated[int, Field(ge=-(10**12), le=10**12)] | Annotated[float, Field(ge=-1e12, le=1e12)]
Trials = Annotated[int, Field(ge=1), AtMost(100_000, "each one is a run")]


class RangeConfig(Schema):
    """Numbers to draw from; whole ones if both ends are whole."""

    low: End = Field(description="the least")
    high: End = Field(description="the most")
    log: bool = Field(False, description="draw evenly in the logarithm")

    @model_validator(mode="after")
    def _check(self) -> RangeConfig:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} has no logarithm; raise it above 0")
        return self


class PruneConfig(Schema):
    """Trials given up early: those below the median of earlier ones at the same epoch."""

    startup_trials: Trials = Field(5, description="trials of a method that are never given up")
    warmup_epochs: Annotated[int, Field(ge=0), AtMost(10**6, "no run is as long")] = Field(
        5, description="epochs before which no trial is given up"
    )


class SearchConfig(Schema):
    """How each method's settings are chosen, by validation alone."""

    sampler: Literal["grid", "tpe"] = Field(
        "grid",
        description="grid: every combination of the lists; tpe: `trials` draws, later ones where "
        "earlier ones were good",
    )
    trials: Trials | None = Field(
        None, description="of each method, for tpe; a grid's follow from its lists"
    )
    seed: Seed = Field(0, description="of tpe's draws")
    prune: PruneConfig | None = Field(None, description="give up poor trials early; null: never")
    space: Annotated[
        dict[str, dict[str, Annotated[list[Choice], Field(min_length=1)] | RangeConfig]],
        Field(min_length=1),
    ] = Field(
        description="of each method: {optim.lr: [1e-3, 1e-2], ..}, keys of a run's config; a list, "
        "or for tpe {low, high, log}"
    )

    @field_validator("space")
    @classmethod
    def _check_lists(cls, space: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for method, choices in space.items():
            for key, values in choices.items():
                if key.split(".")[0] in (*OWN_KEYS, "backbone") or key in _IMAGES:
                    raise ValueError(f"{method}: {key} is the same for all runs; leave it out")
                if isinstance(values, list) and len(set(values)) < len(values):
                    raise ValueError(f"{method}: {key} {values} repeat a value; give each once")
        return space

    @model_validator(mode="after")
    def _check_budget(self) -> SearchConfig:
        if self.sampler == "tpe":
            if self.trials is None:
                raise ValueError("tpe needs trials, how many each method tries")
            return self
        for method, choices in self.space.items():
            for key, values in choices.items():
                if isinstance(values, RangeConfig):
                    raise ValueError(
                        f"space.{method}.{key} is a range, which a grid cannot try out; give a "
                        "list, or sampler: tpe"
                    )
        for method, choices in self.space.items():
            size = math.prod(len(values) for values in choices.values() if isinstance(values, list))
            if size > 100_000:
                raise ValueError(f"space.{method} has {size:,} combinations; at most 100,000 run")
        sizes = {method: len(_grid(choices)) for method, choices in self.space.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"the methods' grids differ in size ({sizes}); give every method equally many"
            )
        if self.trials not in (None, size := next(iter(sizes.values()))):
            raise ValueError(f"trials {self.trials} is not the grid's size, {size}; leave it out")
        return self

    @property
    def trials_per_method(self) -> int:
        """The same number for all."""
        return self.trials or len(_grid(next(iter(self.space.values()))))

    def points(self, method: str) -> list[dict[str, Choice]]:
        """What is fixed of each of a method's points: everything in a grid, nothing for tpe."""
        if self.sampler == "tpe":
            return [{} for _ in range(self.trials_per_method)]
        return _grid(self.space[method])

    def examples(self, method: str) -> list[dict[str, Choice]]:
        """Parameter sets that together hold every value of a list and both ends of a range."""
        values = {
            key: choices if isinstance(choices, list) else [choices.low, choices.high]
            for key, choices in self.space[method].items()
        }
        longest = max(map(len, values.values()), default=1)
        return [
            {key: each[min(index, len(each) - 1)] for key, each in values.items()}
            for index in range(longest)
        ]

    def space_of(self, method: str) -> Space:
        """What a method may choose from."""
        return {
            key: values if isinstance(values, list) else Range(values.low, values.high, values.log)
            for key, values in self.space[method].items()
        }


def _grid(choices: Mapping[str, Any]) -> list[dict[str, Choice]]:
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


class SuiteConfig(Schema):
    """Tasks that are reported together, in groups whose means papers give."""

    name: str = Field(description="as papers write it")
    groups: Annotated[dict[str, list[Path]], Field(min_length=1)] = Field(
        description="of each group: the descriptors of its data sets"
    )


@dataclass(frozen=True)
class Task:
    """One data set of a sweep.

    Attributes:
        name: of its folder and column, the descriptor file's; '' outside of a suite.
        group: of a suite.
        dataset: its descriptor; None: the base config's.
    """

    name: str = ""
    group: str = ""
    dataset: Path | None = None


@dataclass(frozen=True)
class Unit:
    """One method on one task: what is searched and tested on its own."""

    task: Task
    method: str

    def __str__(self) -> str:
        return f"{self.task.name}/{self.method}" if self.task.name else self.method


class SweepConfig(MethodsConfig):
    """Methods with what each may choose, on one data set or a suite of them."""

    name: Name | None = Field(
        None, description="of the sweep in its storage; null: the name of run_dir's last folder"
    )
    storage: str | None = Field(
        None,
        description="URL of the database that workers share, e.g. postgresql://user@host/studies; "
        "null: an SQLite file in run_dir, for workers on one machine",
    )
    suite: Path | None = Field(
        None, description="a YAML file with groups of descriptors, e.g. configs/suites/vtab.yaml"
    )
    search: SearchConfig = Field(description="how each method's settings are chosen")
    metric: Metric = Field(
        "top1", description="what validation chooses by, and test reports; of multi-label data mAP"
    )
    train_on: Literal["train", "train_and_val"] = Field(
        "train",
        description="what the tested runs learn from; train_and_val: both, after everything was "
        "chosen; trials are then judged by their last epoch (train.select: last)",
    )
    patience: Positive = Field(
        60, description="seconds without a sign of life after which a worker's trial is another's"
    )

    @model_validator(mode="after")
    def _check_sweep(self) -> SweepConfig:
        if self.search.space.keys() != self.methods.keys():
            raise ValueError(
                f"search.space is of {sorted(self.search.space)}, methods are "
                f"{sorted(self.methods)}; give a space for each method"
            )
        if not self.trial_seeds:
            raise ValueError("trial_seeds are missing: seeds of the runs that choose")
        if self.search.prune is not None and len(self.trial_seeds) > 1:
            raise ValueError(
                f"search.prune needs a single trial seed, not {self.trial_seeds}: a trial is given "
                "up in its first run"
            )
        if self.suite is not None and "dataset" in self.base.get("data", {}):
            raise ValueError("base.data.dataset is set by the suite; leave it out")
        return self

    @property
    def title(self) -> str:
        """The sweep's name in its storage."""
        return self.name or self.run_dir.resolve().name

    @property
    def storage_url(self) -> str:
        """Where the studies are."""
        return self.storage or f"sqlite:///{(self.run_dir / 'study.db').resolve()}"

    def tasks(self) -> list[Task]:
        """The data sets, in the suite's order.

        Raises:
            ConfigError: the suite's file is none, or names a task twice.
        """
        if self.suite is None:
            return [Task()]
        suite = load_suite(self.suite)
        tasks = [
            Task(path.stem, group, path) for group, paths in suite.groups.items() for path in paths
        ]
        names = [task.name for task in tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"{self.suite}: two tasks are called '{twice}'; rename one's file")
        return tasks

    def units(self) -> Iterator[Unit]:
        """Every method on every task."""
        for task in self.tasks():
            for method in self.methods:
                yield Unit(task, method)

    def trial_config(self, unit: Unit, params: Params, *, point: int, seed: int) -> RunConfig:
        """The config of one run of a trial, in run_dir/[<task>/]<method>/trial_<point>/seed_<seed>.

        Raises:
            ConfigError: base, method and parameters together are no valid run.
        """
        folder = self._folder(unit) / f"trial_{point:03d}" / f"seed_{seed}"
        return self._run_config(unit, params, seed, folder)

    def tested_config(self, unit: Unit, params: Params, *, seed: int) -> RunConfig:
        """The config of one run that is tested, in run_dir/[<task>/]<method>/seed_<seed>.

        Raises:
            ConfigError: base, method and parameters together are no valid run.
        """
        folder = self._folder(unit) / f"seed_{seed}"
        return self._run_config(unit, params, seed, folder, train_on=self.train_on)

    def _folder(self, unit: Unit) -> Path:
        return self.run_dir / str(unit)

    def _run_config(
        self, unit: Unit, params: Params, seed: int, folder: Path, train_on: str = "train"
    ) -> RunConfig:
        values = laid_over(self.base, self.methods[unit.method])
        data: dict[str, Any] = {"train_on": train_on}
        if unit.task.dataset is not None:
            data["dataset"] = str(unit.task.dataset)
        values = laid_over(values, {"data": data, "seed": seed, "run_dir": str(folder)})
        for key, value in params.items():
            values = with_value(values, key.split("."), value)
        return validate(RunConfig, values, f"method {unit.method}")

    def about(self, unit: Unit) -> dict[str, Any]:
        """Where a unit belongs, for reports; JSON values."""
        run = self.tested_config(unit, self.search.examples(unit.method)[0], seed=self.seeds[0])
        tasks = self.tasks()
        names, groups = [task.name for task in tasks], [task.group for task in tasks]
        suite = None if self.suite is None else load_suite(self.suite).name
        return {
            "sweep": self.title,
            "suite": suite,
            "planned_tasks": {} if suite is None else dict(Counter(groups)),
            "group": unit.task.group,
            "task": load_descriptor(run.data.dataset).name,
            "method": unit.method,
            "backbone": _checkpoint(run),
            "place": [names.index(unit.task.name), list(self.methods).index(unit.method)],
        }

    def setting(self, unit: Unit) -> dict[str, Any]:
        """All that a unit's values depend on; JSON values."""
        base = {key: value for key, value in self.base.items() if key != "data"}
        data = dict(self.base.get("data", {}))
        for section, values in (("data", data), ("train", dict(base.get("train", {})))):
            base[section] = {
                key: value
                for key, value in values.items()
                if f"{section}.{key}" not in FREE_ON_RESUME
            }
        search = self.search.model_dump(mode="json")
        return {
            "dataset": None if unit.task.dataset is None else str(unit.task.dataset),
            "base": base,
            "method": self.methods[unit.method],
            "search": {**search, "space": search["space"][unit.method]},
            "trials": self.search.trials_per_method,
            "trial_seeds": self.trial_seeds,
            "metric": self.metric,
            "train_on": self.train_on,
        }


def _checkpoint(run: RunConfig) -> str:
    """The backbone's full name, and what its weights are if not the name's."""
    backbone = run.backbone
    if backbone.weights is not None:
        return f"{backbone.name} ({backbone.weights.name})"
    return backbone.name if backbone.pretrained else f"{backbone.name} (random weights)"


def load_suite(path: Path) -> SuiteConfig:
    """The suite in a YAML file.

    Raises:
        ConfigError: one line per problem.
    """
    return validate(SuiteConfig, load_yaml(path), str(path))


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep that a YAML file and `key=value` overrides describe, every run checked.

    Of a range both ends are checked, of tpe's lists every value.

    Raises:
        ConfigError: one line per problem.
    """
    config = validate(SweepConfig, load_yaml(path, overrides), str(path))
    for unit in config.units():
        for params in config.search.examples(unit.method):
            config.trial_config(unit, params, point=0, seed=config.trial_seeds[0])
            run = config.tested_config(unit, params, seed=config.seeds[0])
        load_descriptor(run.data.dataset)
    return config


def sweep_in(folder: Path) -> SweepConfig:
    """The sweep whose run_dir a folder is, wherever it was when the sweep began.

    Raises:
        ConfigError: it is none's.
    """
    file = folder / SWEEP_FILE
    if not file.is_file():
        raise ConfigError(f"{folder} holds no sweep ({SWEEP_FILE} is missing); give its run_dir")
    config = validate(SweepConfig, load_yaml(file), str(file))
    return config.model_copy(update={"name": config.title, "run_dir": folder})


def with_value(values: Mapping[str, Any], keys: Sequence[str], value: Value) -> dict[str, Any]:
    """The mapping with a value at a path of keys; a section that is a bare name becomes a mapping.

    Raises:
        ConfigError: the path goes through something that has no keys.
    """
    key, *rest = keys
    if not rest:
        return {**values, key: value}
    section = values.get(key, {})
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping):
        raise ConfigError(f"search.space: '{'.'.join(keys)}' is no key, for '{key}' is a list")
    return {**values, key: with_value(section, rest, value)}


def best_of(done: Sequence[tuple[Params, float]]) -> Params:
    """The parameters with the best value; of equal ones those of the lowest rate, or the first."""

    def rank(index: int) -> tuple[float, float, int]:
        params, value = done[index]
        rate = params.get("optim.lr")
        return (-value, rate if isinstance(rate, int | float) else math.inf, index)

    return done[min(range(len(done)), key=rank)][0]
