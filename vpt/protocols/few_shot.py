"""Every method at every number of shots, over seeds; each run tests once, when it has ended."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.config import RunConfig
from vpt.engine.run_dir import RESULT_NAME
from vpt.evaluation import FewShot, Measured, MethodRuns
from vpt.evaluation.energy import total
from vpt.protocols.clip_setup import Bench, Part, without_scan
from vpt.runs import RunResult, train


def run_few_shot(bench: Bench, shots: int) -> FewShot:
    """All methods, the free linear baseline first, with `shots` images per class."""
    methods = {
        name: _summary(name, shots, bench, train_method(bench, name, shots=shots))
        for name in ("linear_from_text", *bench.config.methods)
    }
    return FewShot(shots, methods)


def train_method(
    bench: Bench, method: str, *, shots: int, part: Part = "all", place: str = "few_shot"
) -> list[RunResult]:
    """One run per seed; a run that has ended already is read back, and counted aloud."""
    results, kept = [], 0
    for seed in bench.config.seeds:
        bench.advance(f"{place} {method}, {in_words(shots)}, seed {seed}")
        config = method_config(bench, method, seed=seed, shots=shots, part=part, place=place)
        kept += bench.mode == "resume" and (config.run_dir / RESULT_NAME).exists()
        results.append(
            train(without_scan(config), mode=bench.mode, backbone=bench.backbone, text=bench.text)
        )
    if kept:
        bench.log(f"{method}, {in_words(shots)}: {kept} of {len(results)} runs were there already")
    return results


def method_config(
    bench: Bench, method: str, *, seed: int, shots: int, part: Part, place: str
) -> RunConfig:
    """The config of one run, in <place>/<method>/<shots>_shots/seed_<seed>."""
    folder = Path(place) / method / f"{shots}_shots"
    return bench.config.run_config(method, place=folder, seed=seed, shots=shots, part=part)


def in_words(shots: int) -> str:
    """'1 shot', '4 shots'."""
    return f"{shots} shot{'' if shots == 1 else 's'}"


def measured_of(result: RunResult, images: int) -> Measured:
    """What a run measured on the test split."""
    assert result.test is not None
    return Measured(result.test, result.test_per_class or {}, images)


def mean_seconds(results: Sequence[RunResult]) -> float:
    """Of training and validation, mean over the runs."""
    return statistics.fmean(result.seconds for result in results)


def costs_of(results: Sequence[RunResult]) -> dict[str, Any]:
    """The operations of one run, and the energy of all."""
    return {
        "forward_flops": results[0].forward_flops,
        "step_flops": results[0].step_flops,
        "energy": total(*(result.energy for result in results)),
    }


def _summary(name: str, shots: int, bench: Bench, results: Sequence[RunResult]) -> MethodRuns:
    images = len(bench.splits.require("test"))
    runs = MethodRuns(
        method=name,
        shots=shots,
        seeds=tuple(bench.config.seeds),
        runs=tuple(measured_of(result, images) for result in results),
        trained_parameters=results[0].parameters["trained"],
        file_bytes=results[0].prompt_bytes,
        seconds=mean_seconds(results),
        **costs_of(results),
    )
    bench.log(
        f"{name}, {in_words(shots)}: top-1 {runs.top1_mean:.1%} +- {runs.top1_std:.1%}, "
        f"{runs.seconds:.1f} s a run"
    )
    return runs
