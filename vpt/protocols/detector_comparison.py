"""Tunings of a detector side by side at equal head, on pictures composed from real digit scans.

Each method tries the same number of learning rates on seeds that are used for nothing else. The
rate with the best validation AP then trains once per seed, and of each run the epoch with the best
validation AP is tested.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from vpt.config import AtMost, DetectionRunConfig, Schema, load_yaml, validate
from vpt.config.run import Count, Pixels, Processes
from vpt.data import SceneSettings, load_descriptor, read_detection, read_splits, write_scenes
from vpt.engine.interrupt import Interrupted
from vpt.engine.run_dir import OpenMode, environment
from vpt.errors import ConfigError
from vpt.evaluation.comparison import Comparison, DetectorResult, Trial, chosen_rate
from vpt.evaluation.energy import total
from vpt.limits import MAX_SIDE
from vpt.protocols.methods import Log, RatesConfig, prepare_run_dir, trial_of
from vpt.protocols.setup import cpu_threads, laid_over
from vpt.protocols.workers import run_apart
from vpt.runs import RunResult, train, truth_and_found, try_with_cost

Result = TypeVar("Result")

_PICTURES, _MIN_SCORE = 6, 0.5  # drawn of each method; of the detections in them


Height = Annotated[float, Field(ge=8), AtMost(MAX_SIDE, "no picture is as high")]


class ScenesConfig(Schema):
    """The pictures: digit scans of one split only, several per picture, on rendered backgrounds."""

    digits: Path = Field(description="the descriptor of the scans")
    side: Pixels = Field(description="pixels of a picture's side")
    per_picture: tuple[Count, Count] = Field(description="least and most digits")
    heights: tuple[Height, Height] = Field(description="least and most pixels of a scan's height")
    counts: dict[Literal["train", "val", "test"], Count] = Field(
        description="pictures of each split"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of everything random")

    def settings(self) -> SceneSettings:
        """What the composer takes."""
        return SceneSettings(
            self.side, self.per_picture, self.heights, dict(self.counts), self.seed
        )


class DetectorComparisonConfig(RatesConfig):
    """Which tunings are compared, from which learning rates, on which seeds and pictures."""

    scenes: ScenesConfig = Field(description="the pictures, written to run_dir/scenes")
    processes: Processes = Field(
        1, description="runs at once, each in a process of its own; 0: all in this one"
    )

    def run_config(self, method: str, *, lr: float, seed: int) -> DetectionRunConfig:
        """The config of one run, in run_dir/<method>/seed_<seed>.

        Raises:
            ConfigError: base and method together are no valid run.
        """
        values = laid_over(self.base, self.methods[method])
        values = laid_over(values, {"optim": {"lr": lr}, "seed": seed})
        values = laid_over(values, {"data": {"dataset": str(self.run_dir / "scenes/scenes.yaml")}})
        values["run_dir"] = str(self.run_dir / method / f"seed_{seed}")
        return validate(DetectionRunConfig, values, f"method {method}")


def load_detector_comparison(path: Path, overrides: Sequence[str] = ()) -> DetectorComparisonConfig:
    """The comparison that a YAML file and `key=value` overrides describe, every run checked.

    Raises:
        ConfigError: one line per problem.
    """
    config = validate(DetectorComparisonConfig, load_yaml(path, overrides), str(path))
    scenes = config.scenes
    for name, (low, high) in (("per_picture", scenes.per_picture), ("heights", scenes.heights)):
        if low > high:
            raise ConfigError(f"{path}: scenes.{name}: {low} is above {high}; swap them")
    if 1.1 * scenes.heights[1] > scenes.side:
        raise ConfigError(
            f"{path}: scenes.heights: {scenes.heights[1]:g} px with up to a tenth "
            f"more in width do not fit a side of {scenes.side} px"
        )
    if set(scenes.counts) != {"train", "val", "test"}:
        raise ConfigError(f"{path}: scenes.counts: give train, val and test")
    for method, rates in config.learning_rates.items():
        for rate in rates:
            config.run_config(method, lr=rate, seed=config.seeds[0])
    return config


def compare_detectors(
    config: DetectorComparisonConfig, *, mode: OpenMode = "new", log: Log = lambda line: None
) -> Comparison[DetectorResult]:
    """Compose the pictures, try the learning rates of every method, train and test the chosen ones.

    Every tested run leaves a run directory, and every method pictures of its first run's test
    detections beside the truth in run_dir/pictures.

    Args:
        config: of `load_detector_comparison`.
        mode: 'new' wants an empty run_dir; 'resume' goes on with the tested runs that are there,
            exactly, and tries rates anew; 'overwrite' starts anew.
        log: takes plain lines.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal.
    """
    began = time.monotonic()
    prepare_run_dir(config.run_dir, overwrite=mode == "overwrite", resume=mode == "resume")
    digits = read_splits(load_descriptor(config.scenes.digits))
    write_scenes(digits, config.scenes.settings(), config.run_dir / "scenes")
    log(f"{sum(config.scenes.counts.values())} pictures in {config.run_dir / 'scenes'}")
    try:
        trials = _try_rates(config, log)
        chosen = {
            name: chosen_rate(trials[name], rates) for name, rates in config.learning_rates.items()
        }
        runs = _test(config, chosen, mode, log)
    except Interrupted as stop:
        raise Interrupted(f"{stop}; the same command with --resume goes on") from stop
    for name in config.methods:
        _draw(config, name)
    return Comparison(
        setting=_setting(config),
        seeds=tuple(config.seeds),
        trial_seeds=tuple(config.trial_seeds),
        methods={name: _summary(trials[name], chosen[name], runs[name]) for name in config.methods},
        versions=environment(),
        seconds=time.monotonic() - began,
    )


def _try_rates(config: DetectorComparisonConfig, log: Log) -> dict[str, tuple[Trial, ...]]:
    """Every method's learning rates on the trial seeds."""
    jobs = {
        (name, lr, seed): partial(
            _with_threads, config.threads, try_with_cost, config.run_config(name, lr=lr, seed=seed)
        )
        for seed in config.trial_seeds
        for name, rates in config.rates_to_try.items()
        for lr in rates
    }
    found = run_apart(
        jobs,
        processes=config.processes,
        done=lambda key, tried: log(
            f"{key[0]}, lr {key[1]:g}: validation AP {tried.val['AP']:.1%}"
        ),
    )
    return {
        name: tuple(
            trial_of(lr, [found[name, lr, seed] for seed in config.trial_seeds], "AP")
            for lr in config.rates_to_try.get(name, ())
        )
        for name in config.methods
    }


def _test(
    config: DetectorComparisonConfig, chosen: dict[str, float], mode: OpenMode, log: Log
) -> dict[str, list[RunResult]]:
    """Every method's runs at its chosen learning rate, one per seed."""
    jobs = {
        (name, seed): partial(
            _with_threads,
            config.threads,
            partial(train, mode=mode),
            config.run_config(name, lr=lr, seed=seed),
        )
        for seed in config.seeds
        for name, lr in chosen.items()
    }
    found = run_apart(
        jobs, processes=config.processes, done=lambda key, result: log(_line(*key, result))
    )
    return {name: [found[name, seed] for seed in config.seeds] for name in chosen}


def _with_threads(
    threads: int | None, work: Callable[[DetectionRunConfig], Result], run: DetectionRunConfig
) -> Result:
    with cpu_threads(threads):
        return work(run)


def _summary(trials: tuple[Trial, ...], lr: float, results: Sequence[RunResult]) -> DetectorResult:
    tests = [result.test for result in results if result.test is not None]
    return DetectorResult(
        trials=trials,
        lr=lr,
        val_ap=tuple(result.val["AP"] for result in results),
        test_ap=tuple(test["AP"] for test in tests),
        test_ap50=tuple(test["AP50"] for test in tests),
        parameters=results[0].parameters,
        file_bytes=results[0].prompt_bytes,
        seconds=statistics.fmean(result.seconds for result in results),
        peak_memory_bytes=max(result.peak_memory_bytes for result in results),
        forward_flops=results[0].forward_flops,
        step_flops=results[0].step_flops,
        energy=total(*(result.energy for result in results)),
    )


def _draw(config: DetectorComparisonConfig, name: str) -> None:
    """Test pictures of the method's first run, the truth beside what was found."""
    run = config.run_config(name, lr=config.learning_rates[name][0], seed=config.seeds[0])
    split = read_detection(load_descriptor(run.data.dataset)).require("test")
    results = json.loads((run.run_dir / "test_results.json").read_text())
    folder = config.run_dir / "pictures"
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(truth_and_found(split, results, _PICTURES, _MIN_SCORE), 1):
        picture.save(folder / f"{name}_{number}.png")


def _line(name: str, seed: int, result: RunResult) -> str:
    test = result.test or {}
    return (
        f"{name}, seed {seed}: test AP {test['AP']:.1%}, AP50 {test['AP50']:.1%}, "
        f"{result.seconds:.0f} s"
    )


def _setting(config: DetectorComparisonConfig) -> dict[str, Any]:
    name = next(iter(config.methods))
    rates = config.learning_rates[name]
    run = config.run_config(name, lr=rates[0], seed=config.seeds[0])
    what = "learning rate and epoch" if config.trials_per_method else "epoch"
    return {
        "dataset": "Scenes of digits",
        "backbone": run.backbone.name,
        "image_size": run.backbone.image_size,
        "images": dict(config.scenes.counts),
        "trials_per_method": config.trials_per_method,
        "processes": config.processes,
        "selection": f"{what} by validation AP; test read once per run",
    }
