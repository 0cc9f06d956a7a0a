"""Methods side by side, a few images per class: learning rates by validation, test read last.

Each method tries the same number of learning rates, on draws of training images that are used for
nothing else. The rate with the best validation top-1 then trains once per seed; the seed draws the
images of each class, the initialisation, the order and the augmentation. Of each run the epoch
with the best validation top-1 is tested, and the test split is read that one time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vpt.backbones import Backbone
from vpt.config import RunConfig, load_yaml, validate
from vpt.engine.run_dir import OpenMode, environment
from vpt.evaluation.comparison import Comparison, MethodResult, Trial, best_trial, chosen_rate
from vpt.evaluation.energy import total
from vpt.experiment import backbone_of, load_splits
from vpt.protocols.methods import Log, RatesConfig, prepare_run_dir, trial_of
from vpt.protocols.setup import (
    Advance,
    cpu_threads,
    laid_over,
    progress,
)
from vpt.runs import RunResult, train, try_with_cost


class ComparisonConfig(RatesConfig):
    """Which methods are compared, from which learning rates and on which seeds."""

    def run_config(self, method: str, *, lr: float, seed: int) -> RunConfig:
        """The config of one run, in run_dir/<method>/seed_<seed>.

        Raises:
            ConfigError: base and method together are no valid run.
        """
        values = laid_over(self.base, self.methods[method])
        values = laid_over(values, {"optim": {"lr": lr}, "seed": seed})
        values["run_dir"] = str(self.run_dir / method / f"seed_{seed}")
        return validate(RunConfig, values, f"method {method}")


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> ComparisonConfig:
    """The comparison that a YAML file and `key=value` overrides describe, every run checked.

    Raises:
        ConfigError: one line per problem.
    """
    config = validate(ComparisonConfig, load_yaml(path, overrides), str(path))
    for method, rates in config.learning_rates.items():
        for rate in rates:
            config.run_config(method, lr=rate, seed=config.seeds[0])
    return config


def compare(
    config: ComparisonConfig,
    *,
    overwrite: bool = False,
    log: Log = lambda line: None,
    console: Console | None = None,
) -> Comparison[MethodResult]:
    """Try the learning rates of every method, train the chosen ones, test once per run.

    Every tested run leaves a run directory with its prompt file and curves.

    Args:
        config: of `load_comparison`.
        overwrite: replace the runs of an earlier comparison in the same run_dir.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal.
    """
    began = time.monotonic()
    any_run = _first_run(config)
    load_splits(any_run)[1].require_single_label("a comparison by top-1")
    prepare_run_dir(config.run_dir, overwrite=overwrite)
    backbone = backbone_of(any_run)
    methods = {}
    with cpu_threads(config.threads), progress(_total(config), console) as advance:
        versions = environment()
        for name in config.methods:
            tools = _Tools(backbone, "overwrite" if overwrite else "new", log, advance)
            methods[name] = _run_method(config, name, tools)
    return Comparison(
        setting=_setting(config, any_run),
        seeds=tuple(config.seeds),
        trial_seeds=tuple(config.trial_seeds),
        methods=methods,
        versions=versions,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Tools:
    """What all runs of a comparison share."""

    backbone: Backbone
    mode: OpenMode
    log: Log
    advance: Advance


def _run_method(config: ComparisonConfig, name: str, tools: _Tools) -> MethodResult:
    """Choose a method's learning rate on the trial seeds, then train and test on the others."""
    trials = tuple(_try_rate(config, name, lr, tools) for lr in config.rates_to_try.get(name, ()))
    lr = chosen_rate(trials, config.learning_rates[name])
    if trials:
        tools.log(f"{name}: lr {lr:g} has the best validation top-1, {best_trial(trials).mean:.1%}")
    results = [_run_seed(config, name, lr, seed, tools) for seed in config.seeds]
    tests = tuple(result.test["top1"] for result in results if result.test is not None)
    method = MethodResult(
        trials=trials,
        lr=lr,
        val_top1=tuple(result.val["top1"] for result in results),
        test_top1=tests,
        trained_parameters=results[0].parameters["trained"],
        file_bytes=results[0].prompt_bytes,
        seconds=statistics.fmean(result.seconds for result in results),
        forward_flops=results[0].forward_flops,
        step_flops=results[0].step_flops,
        energy=total(*(result.energy for result in results)),
    )
    spread = f" +- {method.test_top1_std:.1%}" if len(tests) > 1 else ""
    tools.log(
        f"{name}: test top-1 {method.test_top1_mean:.1%}{spread}, {method.seconds:.1f} s a run"
    )
    return method


def _try_rate(config: ComparisonConfig, name: str, lr: float, tools: _Tools) -> Trial:
    tried = []
    for seed in config.trial_seeds:
        tools.advance(f"{name}, lr {lr:g}, trial seed {seed}")
        run = config.run_config(name, lr=lr, seed=seed)
        tried.append(try_with_cost(run, backbone=tools.backbone))
    return trial_of(lr, tried, "top1")


def _run_seed(
    config: ComparisonConfig, name: str, lr: float, seed: int, tools: _Tools
) -> RunResult:
    tools.advance(f"{name}, lr {lr:g}, seed {seed}")
    run = config.run_config(name, lr=lr, seed=seed)
    return train(run, mode=tools.mode, backbone=tools.backbone)


def _first_run(config: ComparisonConfig) -> RunConfig:
    """Any run of the comparison: backbone and data are the same in all."""
    name = next(iter(config.methods))
    return config.run_config(name, lr=config.learning_rates[name][0], seed=config.seeds[0])


def _total(config: ComparisonConfig) -> int:
    trials = sum(len(rates) for rates in config.rates_to_try.values()) * len(config.trial_seeds)
    return trials + len(config.methods) * len(config.seeds)


def _setting(config: ComparisonConfig, run: RunConfig) -> dict[str, Any]:
    descriptor, splits = load_splits(run)
    return {
        "dataset": descriptor.name,
        "backbone": run.backbone.name,
        "image_size": run.backbone.image_size,
        "classes": len(splits.class_names),
        "shots": run.data.shots,
        "images": {
            "train": len(splits.require("train")),
            "val": len(splits.require("val")),
            "test": len(splits.require("test")),
        },
        "trials_per_method": config.trials_per_method,
        "selection": "learning rate and epoch by validation top-1; test read once per run",
    }
