"""One CLIP on one data set under the protocols of its config, as one typed result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from vpt.data import read_splits, restrict_classes
from vpt.data.splits import SplitName
from vpt.engine.interrupt import Interrupted
from vpt.engine.run_dir import OpenMode, environment
from vpt.errors import ConfigError
from vpt.evaluation import ClipEvaluation
from vpt.experiment.classification import described
from vpt.models import Classifier
from vpt.protocols.base_to_new import run_base_to_new
from vpt.protocols.clip_setup import Bench, ClipEvalConfig, load_clip_eval, set_up
from vpt.protocols.few_shot import run_few_shot
from vpt.protocols.setup import cpu_threads, progress
from vpt.protocols.zero_shot import load_for, measure_prompt_file, measure_zero_shot

__all__ = ["ClipEvalConfig", "evaluate_clip", "load_clip_eval", "refuse_clashes"]


def refuse_clashes(configs: Sequence[ClipEvalConfig]) -> None:
    """Refuse several evaluations of which one would fail, or overwrite another, after hours.

    Raises:
        ConfigError: two have the same run_dir.
        DataError: the data of one are not there.
    """
    places: set[Path] = set()
    for config in configs:
        place = config.run_dir.resolve()
        if place in places:
            raise ConfigError(
                f"two evaluations have the run_dir {config.run_dir}; give each its own"
            )
        places.add(place)
        run = config.base_config()
        read_splits(described(run), run.data.root).require("test")


def evaluate_clip(
    config: ClipEvalConfig,
    *,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda line: None,
    console: Console | None = None,
) -> ClipEvaluation:
    """Run the protocols of a config; what has been trained before is read back, not repeated.

    Every run leaves a run directory with its prompt file and curves. The test split is read by
    zero-shot evaluation and, once, by each run when it has ended: nothing is chosen by it.

    Args:
        config: of `load_clip_eval`.
        overwrite: train every run anew.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal; the same call goes on where it stopped.
    """
    began = time.monotonic()
    with (
        cpu_threads(config.threads),
        progress(_count_runs(config), console) as advance,
        _going_on_by_the_same_command(),
    ):
        versions = environment()
        mode: OpenMode = "overwrite" if overwrite else "resume"
        bench = set_up(config, mode=mode, log=log, advance=advance)
        for path in config.prompt_files:  # refused before anything is computed
            load_for(bench, path)
        zero_shot = measure_zero_shot(bench, bench.splits)
        files = tuple(measure_prompt_file(bench, path) for path in config.prompt_files)
        shots = config.shots if "few_shot" in config.protocols else []
        few_shot = tuple(run_few_shot(bench, count) for count in shots)
        halves = run_base_to_new(bench) if "base_to_new" in config.protocols else None
        return ClipEvaluation(
            setting=_setting(bench),
            zero_shot=zero_shot,
            prompt_files=files,
            few_shot=few_shot,
            base_to_new=halves,
            versions=versions,
            seconds=time.monotonic() - began,
        )


@contextmanager
def _going_on_by_the_same_command() -> Iterator[None]:
    """A run that is stopped speaks of its own --resume; an evaluation goes on by itself."""
    try:
        yield
    except Interrupted as stop:
        reason = str(stop).partition(";")[0]
        raise Interrupted(f"{reason} of a run; the same command goes on from there") from stop


def _count_runs(config: ClipEvalConfig) -> int:
    per_seed = 0
    if "few_shot" in config.protocols:
        per_seed += len(config.shots) * (len(config.methods) + 1)
    if "base_to_new" in config.protocols:
        per_seed += len(config.methods)
    return per_seed * len(config.seeds)


def _setting(bench: Bench) -> dict[str, Any]:
    """Everything that a number depends on and a reader asks for."""
    splits, run = bench.splits, bench.run
    model: Classifier = bench.zero_shot_model(splits)
    assert model.head is not None
    name = bench.backbone.name.removeprefix("open_clip/")
    architecture, _, tag = name.partition(":")
    names: tuple[SplitName, ...] = ("train", "val", "test")
    return {
        "dataset": bench.descriptor.name,
        "images": {n: len(split) for n in names if (split := splits.get(n)) is not None},
        "classes": len(splits.class_names),
        "class_names": list(splits.class_names),
        "names_in_sentences": list(splits.text_names),
        "base_classes": len(restrict_classes(splits, "base").class_names),
        "templates": model.head.options["templates"],
        "class_prompts": model.head.options["class_prompts"],
        "backbone": bench.backbone.name,
        "model": architecture,
        "pretrained": tag,
        "image_tower_sha256": bench.backbone.sha256,
        "text_tower_sha256": bench.text.sha256,
        "activation": bench.backbone.activation,
        "context_length": bench.text.context_length,
        "logit_scale": bench.text.logit_scale,
        "logit_bias": bench.text.logit_bias,
        "preprocess": model.preprocess.to_dict(),
        "precision": run.train.precision,
        "methods": {name: _training(bench, name) for name in bench.config.methods},
        "seeds": list(bench.config.seeds),
        "sampling": run.data.sampling,
        "selection": _selection(bench),
    }


def _training(bench: Bench, method: str) -> dict[str, Any]:
    """How a method is trained, as its config says."""
    config = bench.config.run_config(method, place=Path(method), seed=0, shots=1)
    values = config.model_dump(mode="json")
    return {key: values[key] for key in ("prompt", "head", "tuning", "optim", "loss", "train")}


def _selection(bench: Bench) -> str:
    """Which model of a run is tested."""
    names = ("linear_from_text", *bench.config.methods)
    configs = (bench.config.run_config(n, place=Path(n), seed=0, shots=1) for n in names)
    rules = sorted({config.train.select or "top1" for config in configs})
    words = ["the last step's model" if r == "last" else f"best validation {r}" for r in rules]
    return f"{', or '.join(words)}; test read once per run"
