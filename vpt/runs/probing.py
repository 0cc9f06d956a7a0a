"""The linear probe without a loop: features once, then logistic regression by L-BFGS.

The protocol of Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021, appendix A.3: the regularisation is chosen on validation, over a grid.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from vpt.api import save_prompt
from vpt.backbones import Backbone
from vpt.config import RunConfig
from vpt.data import Split
from vpt.engine.device import choose_device, peak_memory_bytes
from vpt.engine.energy import open_meter
from vpt.engine.fit import format_metrics
from vpt.engine.progress import Log, images_progress, loading_line, said_if_slow
from vpt.engine.run_dir import open_run_directory, write_json_atomic
from vpt.errors import ConfigError, DataError
from vpt.evaluation import ClassificationEvaluator, is_better
from vpt.experiment import Experiment, build
from vpt.heads import LinearHead
from vpt.runs.advice import advice_lines
from vpt.runs.breakdown import breakdown_of
from vpt.runs.cache import Start
from vpt.runs.cost import flops_of
from vpt.runs.early import check_empty
from vpt.runs.feeding import in_order
from vpt.runs.inference import evaluate_split
from vpt.runs.start import log_pooling, scanned, warn_of_depth, write_start
from vpt.runs.training import RunResult
from vpt.structures import Batch

STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-8, 9))
"""Of the inverse regularisation C, 1e-4 to 1e4, on standardised features."""

_MOST_ITERATIONS = 2000


@dataclass(frozen=True)
class Features:
    """What a frozen backbone makes of a split.

    Attributes:
        values: (N, F) float32.
        labels: (N,).
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A linear classifier: one row of weights (C, F) and one bias (C,) per class."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


def probe(
    config: RunConfig,
    *,
    mode: Literal["new", "overwrite"] = "new",
    backbone: Backbone | None = None,
    log: Log = lambda line: None,
    console: Console | None = None,
) -> RunResult:
    """Fit a linear head to a frozen backbone's features; a run directory like any other's.

    Images are seen once, as in evaluation: `optim`, `loss`, augmentation and the schedule have no
    effect. `train.select` is the validation metric that chooses the regularisation, ties by the
    loss. The prompt file is that of a linear head, and loads as any.

    Args:
        config: with `prompt: none`, `tuning: frozen` and `head: linear`.
        mode: 'new' wants an empty directory; 'overwrite' starts anew.
        backbone: one in memory, to share between runs.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        VptError: anything that a user can fix.
    """
    _check(config)
    if mode == "new":
        check_empty(config.run_dir)
    device = choose_device(config.train.device)
    record = config.backbone
    line = loading_line(record.name, record.weights, pretrained=record.pretrained)
    with said_if_slow(line, log):
        experiment = build(config, backbone=backbone)
    experiment.splits.require_single_label("a probe")
    with open_run_directory(config.run_dir, mode=mode) as run, open_meter(device) as meter:
        for line in experiment.data_lines:
            log(line)
        kept = scanned(experiment, log)
        warn_of_depth(kept, log)
        log_pooling(kept.model, log)
        assert isinstance(kept, Experiment)
        write_start(run, kept)
        for line in advice_lines(kept):
            log(line)
        began = time.monotonic()
        meter.take()
        kept.model.to(device).eval()
        train, val = (
            _features(kept, kept.splits.require(name), device, console) for name in ("train", "val")
        )
        read_seconds = time.monotonic() - began
        chosen = _fit_head(kept, train, val, log)
        seconds, energy = time.monotonic() - began, meter.take()
        log(
            f"C {chosen:g} has the best validation {kept.settings.select}, of {len(STRENGTHS)} "
            "from 1e-4 to 1e4"
        )
        found = {
            split.name: evaluate_split(
                kept.model,
                split,
                kept.eval_transform,
                device=device,
                batch_size=config.data.eval_batch_size or config.data.batch_size,
                num_workers=config.data.num_workers,
                precision=config.train.precision,
            )
            for split in (kept.splits.require("val"), kept.splits.test)
            if split is not None
        }
        metrics = {name: values for name, (values, _) in found.items()}
        saved = {f"val/{name}": value for name, value in metrics["val"].items()}
        save_prompt(
            kept.model,
            run.best_prompt,
            metrics=saved,
            seed=config.seed,
            config=config,
            cut=kept.splits.cut,
        )
        trained = kept.model.trained_counts()
        breakdown = None
        if kept.splits.test is not None:
            breakdown = breakdown_of(found["test"][1], kept.splits.test)
        result = RunResult(
            test=metrics.get("test"),
            val=metrics["val"],
            best_epoch=0,
            steps=0,
            finished="done",
            parameters={**kept.model.parameter_counts(), "trained": sum(trained.values())},
            prompt_bytes=run.best_prompt.stat().st_size,
            seconds=seconds,
            images_per_second=(len(train.labels) + len(val.labels)) / max(1e-9, read_seconds),
            peak_memory_bytes=peak_memory_bytes(device),
            seed=config.seed,
            trained_parameters=trained,
            test_per_class=None if breakdown is None else breakdown.values,
            test_counts=None if breakdown is None else breakdown.counts,
            test_confused=() if breakdown is None else breakdown.confused,
            energy=energy,
        )
        if flops := flops_of(kept, log):
            result = replace(result, forward_flops=flops.forward)
        write_json_atomic(run.result, asdict(result))
        name = "test" if "test" in metrics else "val"
        log(f"{name}: {format_metrics(metrics[name])}; {run.best_prompt}")
        return result


def _check(config: RunConfig) -> None:
    wanted = {"prompt": "none", "head": "linear"}
    given = {
        "prompt": config.prompt["name"] if isinstance(config.prompt, dict) else "a list",
        "head": config.head["name"],
    }
    for key, name in wanted.items():
        if given[key] != name:
            raise ConfigError(f"a probe is of features as they are: set {key}={name}")
    if config.tuning != "frozen":
        raise ConfigError("a probe is of features as they are: set tuning=frozen")
    if config.train.select == "last":
        raise ConfigError(
            "a probe has no last epoch: it chooses C by a validation metric; set "
            "train.select=top1, mean_class_accuracy or loss"
        )
    if config.data.train_on != "train":
        raise ConfigError("a probe chooses C on the validation split: set data.train_on=train")


@torch.no_grad()
def _features(
    experiment: Experiment, split: Split, device: torch.device, console: Console | None
) -> Features:
    """The pooled features of a split, each image seen as in evaluation."""
    config, rows, labels = experiment.config, [], []
    start = Start(experiment.model, device, config.train.precision)
    batches = in_order(
        split,
        experiment.eval_transform,
        batch_size=config.data.eval_batch_size or config.data.batch_size,
        num_workers=config.data.num_workers,
        device=device,
    )
    with images_progress(len(split), console) as advance:
        for batch in batches:
            assert isinstance(batch, Batch)
            assert isinstance(batch.images, torch.Tensor)
            rows.append(start(batch.images).values.float().cpu())
            labels.append(batch.labels.cpu())
            advance(len(batch.labels))
    return Features(torch.cat(rows).numpy(), torch.cat(labels).numpy())


def _fit_head(experiment: Experiment, train: Features, val: Features, log: Log) -> float:
    """Put the best classifier on validation into the head; its C. See `is_better`."""
    names = experiment.splits.class_names
    _check_classes(names, train.labels, log)
    mean, deviation = train.values.mean(axis=0), train.values.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    standardised = (train.values - mean) / deviation
    head = experiment.model.head
    assert isinstance(head, LinearHead)
    best: tuple[dict[str, float], float, Rows] | None = None
    for strength in STRENGTHS:
        rows = _logistic(standardised, train.labels, strength, classes=len(names))
        weight = rows.weight / deviation  # of the features as they are
        rows = Rows(weight, rows.bias - weight @ mean)
        metrics = _measured(rows, val)
        if best is None or is_better(metrics, best[0], experiment.settings.select):
            best = (metrics, strength, rows)
    assert best is not None
    _, strength, rows = best
    assert rows.weight.shape == head.weight.shape
    assert rows.bias.shape == head.bias.shape
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rows.weight))
        head.bias.copy_(torch.from_numpy(rows.bias))
    return strength


def _check_classes(names: Sequence[str], labels: NDArray[np.int64], log: Log) -> None:
    """Say which classes have nothing to learn from; one class alone is no classifier."""
    present = set(np.unique(labels).tolist())
    if len(present) < 2:
        raise DataError(
            f"all {len(labels):,} training images are of class '{names[labels[0]]}': a probe tells "
            "classes apart; add images of another one"
        )
    missing = [name for label, name in enumerate(names) if label not in present]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5]) + ", ..." * (len(missing) > 5)
        log(
            f"{len(missing)} of {len(names)} classes have no training image ({shown}): the probe "
            "never predicts them"
        )


def _measured(rows: Rows, split: Features) -> dict[str, float]:
    """The metrics that an evaluation of the head would give, in its arithmetic."""
    weight, bias = (torch.from_numpy(each).float() for each in (rows.weight, rows.bias))
    evaluator = ClassificationEvaluator(len(bias))
    logits = torch.nn.functional.linear(torch.from_numpy(split.values), weight, bias)
    evaluator.update(logits, torch.from_numpy(split.labels))
    return evaluator.compute()


def _logistic(
    features: NDArray[np.float32], labels: NDArray[np.int64], strength: float, *, classes: int
) -> Rows:
    """Multinomial logistic regression over the classes that have images, at least two of them.

    The rows sum to zero, so the largest logit is never below that. A class without images gets no
    weights and a bias that makes it rarer than one image of all: it is never the first.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row, of the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    assert len(weight) == len(model.classes_)
    whole = Rows(
        np.zeros((classes, features.shape[1])), np.full(classes, -math.log(1 + len(labels)))
    )
    whole.weight[model.classes_] = weight - weight.mean(axis=0)
    whole.bias[model.classes_] = bias - bias.mean()
    return whole
