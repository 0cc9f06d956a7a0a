"""One run and its directory: plan, train, and what is done with the prompt file afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vpt.backbones import Backbone
from vpt.config import RunConfig, dump, load_config
from vpt.data import (
    BadImage,
    EpochBatches,
    ImageDataset,
    Split,
    Splits,
    Transform,
    drop_bad,
    evaluation_transform,
    load_descriptor,
    make_loader,
    read_image,
    read_splits,
    scan_images,
)
from vpt.data.splits import SplitName
from vpt.engine.checkpoint import Checkpoint, CheckpointStore
from vpt.engine.device import choose_device, peak_memory_bytes
from vpt.engine.evaluate import evaluate
from vpt.engine.events import Events
from vpt.engine.fit import FitData, FitState, Outputs, fit, format_metrics, total_steps
from vpt.engine.interrupt import Interrupted, StopRequest, stop_request
from vpt.engine.prompt_file import read_prompt_file
from vpt.engine.run_dir import (
    OpenMode,
    RunDirectory,
    environment,
    free_bytes,
    open_run_directory,
    write_json_atomic,
    write_text_atomic,
)
from vpt.errors import ConfigError, DataError, PromptFileError, RunError
from vpt.evaluation import ClassificationEvaluator
from vpt.experiment import Experiment, build, load_prompt, save_prompt
from vpt.models import Classifier, start_from_patches
from vpt.seeding import derive_seed
from vpt.structures import Batch

Log = Callable[[str], None]

SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")

FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "data.root",
        "data.num_workers",
        "data.scan",
        "train.max_hours",
        "train.checkpoint_seconds",
        "train.keep_checkpoints",
    }
)
"""Config keys that may differ between the attempts at one run: they do not change its numbers."""


def _silent(line: str) -> None:
    del line


# -------------------------------------------------------------------------------------------- plan


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
        seconds: estimated from a few real steps; a validation image counts a third of a training
            image.
        peak_memory_bytes: after those steps.
    """

    images: dict[str, int]
    classes: int
    steps: int
    parameters: dict[str, int]
    trained: int
    checkpoint_bytes: int
    seconds: float
    peak_memory_bytes: int


def make_plan(experiment: Experiment) -> Plan:
    """A plan from a few real training steps; the experiment's model is used up by them."""
    config, splits = experiment.config, experiment.splits
    device = choose_device(config.train.device)
    _rehearse(experiment, device, steps=1)  # the first step also pays for warming up
    state = _rehearse(experiment, device, steps=3)
    per_image = state.train_seconds / state.images
    validations = -(-config.train.epochs // config.train.evaluate_every)
    val_images = len(splits.require("val")) * validations
    steps = total_steps(experiment.settings, experiment.batches_per_epoch)
    train_images = steps / state.step * state.images
    return Plan(
        images={
            name: len(split) for name in ("train", "val", "test") if (split := splits.get(name))
        },
        classes=len(splits.class_names),
        steps=steps,
        parameters=count_parameters(experiment.model),
        trained=sum(p.numel() for p in experiment.model.trainable_parameters()),
        checkpoint_bytes=_checkpoint_bytes(experiment),
        seconds=per_image * (train_images + val_images / 3),
        peak_memory_bytes=peak_memory_bytes(device),
    )


def _rehearse(experiment: Experiment, device: torch.device, *, steps: int) -> FitState:
    """A few training steps, and validation on one batch, without a trace."""
    settings = replace(experiment.settings, max_steps=steps)
    data = _fit_data(experiment, device)
    short = replace(data, val=lambda: islice(data.val(), 1))
    return fit(experiment.model.to(device), short, settings, device=device)


def count_parameters(model: Classifier) -> dict[str, int]:
    """Numbers of parameters: {'backbone': all of it, 'prompt': .., 'head': ..}."""
    return {
        "backbone": sum(p.numel() for p in model.backbone.parameters()),
        "prompt": sum(p.numel() for p in model.prompt.parameters()),
        "head": sum(p.numel() for p in model.head.parameters()) if model.head else 0,
    }


def _checkpoint_bytes(experiment: Experiment) -> int:
    moments = 2 if experiment.config.optim.name == "adamw" else 1
    return (
        sum(p.numel() * 4 for p in experiment.model.trainable_parameters()) * (1 + moments) + 2**16
    )


# ------------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class RunResult:
    """What a run measured; `result.json`.

    Attributes:
        test: metrics of the best epoch on the test split, read once; None without such a split.
        val: metrics of the best epoch on the validation split.
        best_epoch: 0-based.
        steps: optimiser steps done.
        finished: 'done', or why the run stopped early.
        parameters: `count_parameters`, and 'trained'.
        prompt_bytes: size of the prompt file.
        seconds: spent training and validating.
        images_per_second: in training.
        peak_memory_bytes: of the GPU, or of the process on the CPU.
        seed: of the run.
    """

    test: dict[str, float] | None
    val: dict[str, float]
    best_epoch: int
    steps: int
    finished: str
    parameters: dict[str, int]
    prompt_bytes: int
    seconds: float
    images_per_second: float
    peak_memory_bytes: int
    seed: int


def train(
    config: RunConfig,
    *,
    mode: OpenMode = "new",
    backbone: Backbone | None = None,
    log: Log = _silent,
    console: Console | None = None,
) -> RunResult:
    """Train as a config says, into its run directory.

    Everything is checked before the first image is read, every image before the first step.

    Args:
        config: checked.
        mode: 'new' wants an empty directory; 'resume' goes on exactly; 'overwrite' starts anew.
        backbone: one in memory, to share between runs.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        VptError: anything that a user can mend.
        Interrupted: a signal; the run is saved.
    """
    device = choose_device(config.train.device)
    experiment = build(config, backbone=backbone)
    with open_run_directory(config.run_dir, mode=mode) as run:
        resume = _newest_checkpoint(run, config, log) if mode == "resume" else None
        if mode == "resume" and run.result.exists():
            log(f"{run.path} is finished; its result stands")
            return _read_result(run.result)
        _check_space(run, experiment)
        experiment = _scanned(experiment, log)
        if resume is None:
            _write_start(run, experiment)
        else:
            _refuse_other_data(run, experiment)
        with _open_events(run, resume, log) as events:
            if resume is None:
                _show_start(events, experiment)
            return _train_in(run, experiment, events, resume, device, log, console)


def try_out(config: RunConfig, *, backbone: Backbone | None = None) -> dict[str, float]:
    """The best epoch's validation metrics of a training that leaves no file behind.

    The test split is not read: this is for choosing between configs. Images are not scanned first.

    Args:
        config: checked; its run directory is not used.
        backbone: one in memory, to share between runs.

    Raises:
        VptError: anything that a user can mend.
        Interrupted: a signal.
    """
    device = choose_device(config.train.device)
    experiment = build(config, backbone=backbone)
    experiment.model.to(device)
    _start_prompts(experiment, device)
    data = _fit_data(experiment, device)
    state = fit(experiment.model, data, experiment.settings, device=device)
    assert state.best is not None
    return state.best


def _open_events(run: RunDirectory, resume: Checkpoint | None, log: Log) -> Events:
    if resume is None:
        return Events(run.path, resume_step=None, log=log)
    lines = resume.state["metrics_lines"]
    return Events(run.path, resume_step=resume.step, resume_lines=lines, log=log)


def _train_in(
    run: RunDirectory,
    experiment: Experiment,
    events: Events,
    resume: Checkpoint | None,
    device: torch.device,
    log: Log,
    console: Console | None,
) -> RunResult:
    config, model = experiment.config, experiment.model.to(device)
    if resume is None:
        _start_prompts(experiment, device)
    else:
        log(f"going on from step {resume.step}")
    outputs = Outputs(
        events=events,
        checkpoints=CheckpointStore(run.checkpoints, keep=config.train.keep_checkpoints),
        on_best=lambda metrics: _save(run.best_prompt, experiment, metrics),
        log=log,
        console=console,
    )
    data = _fit_data(experiment, device)
    with stop_request() as stop:
        state = fit(model, data, experiment.settings, device=device, outputs=outputs, resume=resume)
        assert state.best is not None
        _save(run.last_prompt, experiment, {})
        model.load_trained(read_prompt_file(run.best_prompt)[1])
        test = _test(experiment, events, state, device, stop)
    result = _result(run, experiment, state, test, device)
    write_json_atomic(run.result, asdict(result))
    best = test if test is not None else state.best
    log(f"{'test' if test is not None else 'val'}: {format_metrics(best)}; {run.best_prompt}")
    return result


def _save(path: Path, experiment: Experiment, metrics: dict[str, float]) -> None:
    config = experiment.config
    values = {f"val/{name}": value for name, value in metrics.items()}
    save_prompt(experiment.model, path, metrics=values, seed=config.seed, config=config)


def _test(
    experiment: Experiment,
    events: Events,
    state: FitState,
    device: torch.device,
    stop: StopRequest,
) -> dict[str, float] | None:
    """Read the test split, once."""
    split = experiment.splits.test
    if split is None:
        return None
    config = experiment.config

    def after_batch(images: int) -> None:
        if stop:
            raise Interrupted(f"stopped by {stop.signal_name} while testing; go on with --resume")

    metrics, evaluator = evaluate_split(
        experiment.model,
        split,
        experiment.eval_transform,
        device=device,
        batch_size=config.data.eval_batch_size or config.data.batch_size,
        num_workers=config.data.num_workers,
        precision=config.train.precision,
        after_batch=after_batch,
    )
    events.scalars(state.step, {f"test/{name}": value for name, value in metrics.items()})
    counts = evaluator.confusion_matrix()
    events.confusion_matrix(
        state.step, "test/confusion_matrix", counts, experiment.splits.class_names
    )
    return metrics


def _result(
    run: RunDirectory,
    experiment: Experiment,
    state: FitState,
    test: dict[str, float] | None,
    device: torch.device,
) -> RunResult:
    trained = sum(p.numel() for p in experiment.model.trainable_parameters())
    return RunResult(
        test=test,
        val=state.best or {},
        best_epoch=state.best_epoch,
        steps=state.step,
        finished=state.finished or "",
        parameters={**count_parameters(experiment.model), "trained": trained},
        prompt_bytes=run.best_prompt.stat().st_size,
        seconds=state.seconds,
        images_per_second=state.images / max(1e-9, state.train_seconds),
        peak_memory_bytes=peak_memory_bytes(device),
        seed=experiment.config.seed,
    )


def _fit_data(experiment: Experiment, device: torch.device) -> FitData:
    config = experiment.config
    train_split, val_split = experiment.splits.require("train"), experiment.splits.require("val")
    dataset = ImageDataset(train_split, experiment.train_transform, config.seed)

    def train_batches(epoch: int, start_batch: int) -> Iterable[Batch]:
        batches = EpochBatches(
            len(dataset),
            config.data.batch_size,
            seed=config.seed,
            epoch=epoch,
            start_batch=start_batch,
        )
        pin = device.type == "cuda"
        return make_loader(dataset, batches, num_workers=config.data.num_workers, pin_memory=pin)

    def val_batches() -> Iterable[Batch]:
        return _in_order(
            val_split,
            experiment.eval_transform,
            batch_size=config.data.eval_batch_size or config.data.batch_size,
            num_workers=config.data.num_workers,
            device=device,
        )

    evaluator = ClassificationEvaluator(len(experiment.splits.class_names))
    return FitData(train_batches, experiment.batches_per_epoch, val_batches, evaluator)


def _in_order(
    split: Split, transform: Transform, *, batch_size: int, num_workers: int, device: torch.device
) -> Iterable[Batch]:
    batches = EpochBatches(len(split), batch_size, seed=0, epoch=0, shuffle=False)
    dataset = ImageDataset(split, transform, seed=0)
    return make_loader(dataset, batches, num_workers=num_workers, pin_memory=device.type == "cuda")


def _start_prompts(experiment: Experiment, device: torch.device) -> None:
    """Patch tokens of up to 64 training images, where the prompt's initialiser asks for them."""
    prompted = experiment.model.prompted
    if not prompted.prompt.wants_patches or experiment.config.train.init_from is not None:
        return
    config, split = experiment.config, experiment.splits.require("train")
    seed = derive_seed("init-patches", config.seed)
    batches = EpochBatches(len(split), min(64, len(split)), seed=seed, epoch=0)
    dataset = ImageDataset(split, experiment.eval_transform, seed=0)
    batch = next(iter(make_loader(dataset, batches, num_workers=0, pin_memory=False)))
    start_from_patches(prompted, batch.images.to(device), torch.Generator().manual_seed(seed))


def _scanned(experiment: Experiment, log: Log) -> Experiment:
    """The experiment without unreadable images, or one error that lists them all."""
    config, splits = experiment.config, experiment.splits
    if not config.data.scan:
        return experiment
    bad: dict[str, list[BadImage]] = {}
    for name in SPLIT_NAMES:
        split = splits.get(name)
        bad[name] = scan_images(split, config.data.num_workers) if split else []
    problems = [f"{image.path}: {image.reason}" for images in bad.values() for image in images]
    if not problems:
        return experiment
    if config.data.on_bad_image == "error":
        listing = "\n".join(problems)
        raise DataError(
            f"{len(problems)} unreadable images (data.on_bad_image=skip leaves them out):\n"
            f"{listing}"
        )
    for problem in problems:
        log(f"left out: {problem}")

    def kept(name: SplitName) -> Split | None:
        split = splits.get(name)
        return drop_bad(split, bad[name]) if split else None

    train, val, test = map(kept, SPLIT_NAMES)
    return experiment.with_splits(Splits(train, val, test, splits.class_names))


def _write_start(run: RunDirectory, experiment: Experiment) -> None:
    write_text_atomic(run.config, dump(experiment.config))
    write_json_atomic(run.environment, environment())
    write_json_atomic(run.split, _split_keys(experiment.splits))


def _split_keys(splits: Splits) -> dict[str, list[str]]:
    """Class names, and each split's images by their keys."""
    keys = {"class_names": list(splits.class_names)}
    for name in SPLIT_NAMES:
        split = splits.get(name)
        if split is not None:
            keys[name] = [sample.key for sample in split.samples]
    return keys


def _show_start(events: Events, experiment: Experiment) -> None:
    """What the network will see: 16 augmented training images, and the config."""
    split, preprocess = experiment.splits.require("train"), experiment.model.preprocess
    dataset = ImageDataset(split, experiment.train_transform, experiment.config.seed)
    order = EpochBatches(len(split), min(16, len(split)), seed=experiment.config.seed, epoch=0)
    images = torch.stack([dataset[item][0] for item in next(iter(order))])
    mean = torch.tensor(preprocess.mean).view(3, 1, 1)
    std = torch.tensor(preprocess.std).view(3, 1, 1)
    events.images(0, "train/inputs", (images * std + mean).clamp(0, 1))
    events.text("config", dump(experiment.config))


def _refuse_other_data(run: RunDirectory, experiment: Experiment) -> None:
    """A run goes on with the images that it began with."""
    before, now = json.loads(run.split.read_text()), _split_keys(experiment.splits)
    for name in before.keys() | now.keys():
        old, new = before.get(name, []), now.get(name, [])
        if old != new:
            changed = sorted(set(old) ^ set(new))
            what = f"{len(changed)} differ, e.g. {changed[0]}" if changed else "another order"
            raise DataError(
                f"{run.path} began with other data ('{name}': {what}); restore them, or start a "
                "new run_dir"
            )


def _read_result(path: Path) -> RunResult:
    return RunResult(**json.loads(path.read_text()))


def _newest_checkpoint(run: RunDirectory, config: RunConfig, log: Log) -> Checkpoint | None:
    if run.config.exists():
        _refuse_other_config(load_config(run.config), config, run.path)
    return CheckpointStore(run.checkpoints).load_newest(log) if run.checkpoints.exists() else None


def _refuse_other_config(before: RunConfig, now: RunConfig, path: Path) -> None:
    old, new = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    changed = [k for k in changed if k not in FREE_ON_RESUME]
    if changed:
        changes = ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in changed)
        raise ConfigError(
            f"{path} holds a run of another config ({changes}); use its own, or a new run_dir"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        k: v
        for key, value in values.items()
        for k, v in _flat(value, f"{prefix}.{key}".strip(".")).items()
    }


def _check_space(run: RunDirectory, experiment: Experiment) -> None:
    """Room for the checkpoints kept, the one being written, and two prompt files."""
    need = (
        _checkpoint_bytes(experiment) * (experiment.config.train.keep_checkpoints + 3) + 16 * 2**20
    )
    free = free_bytes(run.path)
    if free < need:
        raise RunError(
            f"{run.path} has {free / 2**20:.0f} MB of free disk space, the run needs about "
            f"{need / 2**20:.0f} MB; free some, or choose another run_dir"
        )


# ------------------------------------------------------------------------------ after the training


def evaluate_split(
    model: Classifier,
    split: Split,
    transform: Transform,
    *,
    device: torch.device,
    batch_size: int = 64,
    num_workers: int = 2,
    precision: str = "fp32",
    after_batch: Callable[[int], None] = lambda images: None,
) -> tuple[dict[str, float], ClassificationEvaluator]:
    """Metrics of a model on one split, and the evaluator for more."""
    batches = _in_order(
        split, transform, batch_size=batch_size, num_workers=num_workers, device=device
    )
    evaluator = ClassificationEvaluator(len(split.class_names))
    metrics = evaluate(
        model, batches, evaluator, device=device, precision=precision, after_batch=after_batch
    )
    return metrics, evaluator


def evaluate_prompt(
    path: Path,
    dataset: Path,
    *,
    root: Path | None = None,
    split: str = "test",
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int = 2,
    weights: Path | None = None,
) -> dict[str, float]:
    """Metrics of a prompt file on a split of a data set with the same classes.

    Raises:
        PromptFileError: the file, or its classes, do not fit.
        DataError: the data are missing or unreadable.
    """
    where = choose_device(device)
    splits = read_splits(load_descriptor(dataset), root)
    chosen = splits.require(split)  # type: ignore[arg-type]
    model = load_prompt(path, weights=weights).to(where)
    names = model.class_names
    if model.head is None or names is None:
        raise PromptFileError(f"{path} holds no head with class names: nothing to evaluate")
    if list(splits.class_names) != names:
        raise PromptFileError(
            f"{path} has other classes than {dataset}: {_difference(names, splits.class_names)}"
        )
    transform = evaluation_transform(model.preprocess)
    metrics, _ = evaluate_split(
        model, chosen, transform, device=where, batch_size=batch_size, num_workers=num_workers
    )
    return metrics


def _difference(file: Iterable[str], data: Iterable[str]) -> str:
    only_file, only_data = sorted(set(file) - set(data)), sorted(set(data) - set(file))
    if not only_file and not only_data:
        return "the same names in another order"
    return f"only in the file {only_file[:5]}, only in the data {only_data[:5]}"


@dataclass(frozen=True)
class Prediction:
    """The most likely class of one image.

    Attributes:
        image: its path.
        label: the class name, or its number where the file has no names.
        probability: of that class.
        error: why the image could not be read, or None.
        top: class to probability, the best `top_k`.
    """

    image: str
    label: str | None
    probability: float | None
    error: str | None = None
    top: dict[str, float] = field(default_factory=dict)


def predict_images(
    model: Classifier,
    paths: Iterable[Path],
    *,
    device: torch.device,
    batch_size: int = 32,
    top_k: int = 1,
) -> Iterator[Prediction]:
    """Predictions in the order of the paths.

    An unreadable image gives its error, and the rest goes on.
    """
    transform = evaluation_transform(model.preprocess)
    assert model.head is not None
    names = model.class_names or [str(number) for number in range(model.head.num_classes)]
    for group in _groups(paths, batch_size):
        read: list[tuple[Path, torch.Tensor | str]] = []
        for path in group:
            try:
                read.append((path, transform(read_image(path), 0)))
            except DataError as error:
                read.append((path, str(error)))
        tensors = [image for _, image in read if isinstance(image, torch.Tensor)]
        rows: Iterator[torch.Tensor] = iter(
            model.predict(torch.stack(tensors).to(device)).cpu() if tensors else []
        )
        for path, image in read:
            yield _prediction(path, image, rows, names, top_k)


def _prediction(
    path: Path,
    image: torch.Tensor | str,
    rows: Iterator[torch.Tensor],
    names: list[str],
    top_k: int,
) -> Prediction:
    if isinstance(image, str):
        return Prediction(str(path), None, None, error=image)
    values, indices = next(rows).topk(min(top_k, len(names)))
    top = {names[i]: float(p) for p, i in zip(values.tolist(), indices.tolist(), strict=True)}
    label, probability = next(iter(top.items()))
    return Prediction(str(path), label, probability, top=top)


def _groups(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    group: list[Path] = []
    for path in paths:
        group.append(path)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


__all__ = [
    "Plan",
    "Prediction",
    "RunResult",
    "evaluate_prompt",
    "evaluate_split",
    "make_plan",
    "predict_images",
    "train",
]
