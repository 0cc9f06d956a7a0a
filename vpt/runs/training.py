"""One run, from its config to its result."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter
from rich.console import Console
from torch import Tensor

from vpt.api import save_prompt
from vpt.backbones import Backbone
from vpt.config import AnyRunConfig
from vpt.data import report_lines
from vpt.engine.checkpoint import Checkpoint, CheckpointStore
from vpt.engine.device import choose_device, peak_memory_bytes
from vpt.engine.distributed import (
    asked_to_stop,
    is_first,
    on_first,
    own_device,
    reporting_lost_partners,
    world_size,
)
from vpt.engine.energy import EnergyMeter, open_meter
from vpt.engine.events import Events
from vpt.engine.figures import draw_precision_recall
from vpt.engine.fit import FitState, OnValidation, Outputs, fit, format_metrics
from vpt.engine.interrupt import Interrupted, StopRequest, stop_request
from vpt.engine.progress import LeftOut, Log, loading_line, said_if_slow
from vpt.engine.prompt_file import read_prompt_file
from vpt.engine.run_dir import (
    OpenMode,
    RunDirectory,
    open_run_directory,
    write_json_atomic,
)
from vpt.errors import RunError
from vpt.evaluation.energy import Energy
from vpt.experiment import AnyExperiment, DetectionExperiment, build
from vpt.models import PromptedModel
from vpt.runs.advice import advice_lines
from vpt.runs.best import refuse_other_best, replace_best, restore_best
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.breakdown import Breakdown, Confused, breakdown_of
from vpt.runs.cost import flops_of
from vpt.runs.detection import show_validation
from vpt.runs.feeding import coco_eval_of, fit_data, start_prompts
from vpt.runs.inference import measure
from vpt.runs.showing import (
    harmless,
    show_errors,
    show_result,
    write_confusions,
    write_points,
)
from vpt.runs.start import (
    check_space,
    log_pooling,
    newest_checkpoint,
    refuse_other_config,
    refuse_other_data,
    refuse_other_model,
    scanned,
    show_start,
    warn_of_depth,
    write_start,
)

if TYPE_CHECKING:
    from vpt.text import TextTower


@dataclass(frozen=True)
class RunResult:
    """What a run measured; `result.json`.

    Attributes:
        test: metrics of the best epoch on the test split, read once; None without such a split.
        val: metrics of the best epoch on the validation split.
        best_epoch: 0-based.
        best_epoch_number: the same from 1 on, as the console counts; None: no epochs.
        steps: optimiser steps done.
        finished: 'done', or why the run stopped early.
        parameters: `count_parameters`, and 'trained'.
        prompt_bytes: size of the prompt file.
        seconds: spent training and validating.
        images_per_second: in training.
        peak_memory_bytes: of the GPU, or of the process on the CPU.
        seed: of the run.
        trained_parameters: `trained_counts`.
        left_out: images, boxes and entries of the data that were left out.
        test_per_class: share of each class's test images that is right, None where it has none;
            of boxes and of multi-label data the class's average precision.
        test_counts: each class's test images, or boxes.
        test_confused: the most frequent confusions of the test split, most first.
        forward_flops: floating-point operations per image in evaluation, see `count_flops`.
        step_flops: the same in training, forward and backward; None where there are no steps.
        val_images_per_second: in validation; None without such images.
        energy: of the time that `seconds` counts, by what counted it; each may be absent.
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
    trained_parameters: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    test_per_class: dict[str, float | None] | None = None
    forward_flops: int | None = None
    step_flops: int | None = None
    val_images_per_second: float | None = None
    energy: tuple[Energy, ...] = ()
    best_epoch_number: int | None = None
    test_counts: dict[str, int] | None = None
    test_confused: tuple[Confused, ...] = ()


@reporting_lost_partners()
def train(
    config: AnyRunConfig,
    *,
    mode: OpenMode = "new",
    read_test: bool = True,
    backbone: Backbone | None = None,
    text: TextTower | None = None,
    on_validation: OnValidation = lambda epoch, metrics: None,
    log: Log = lambda line: None,
    console: Console | None = None,
) -> RunResult:
    """Train as a config says, into its run directory.

    Everything is checked before the first image is read, every image before the first step.
    Several processes (`vpt.engine.distributed`) train one run when all of them call it: the first
    alone writes, logs and validates for `on_validation`, and all get its result.

    Args:
        config: checked.
        mode: 'new' wants an empty directory; 'resume' goes on exactly; 'overwrite' starts anew.
        read_test: False leaves the test split alone: the run is for choosing between configs.
        backbone: one in memory, to share between runs.
        text: its text tower, likewise.
        on_validation: called with the epoch (0-based) and its metrics; what it raises ends the run.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal; the run is saved.
    """
    device = own_device(choose_device(config.train.device))
    if not is_first():
        log, console, on_validation = _silent, None, lambda epoch, metrics: None
    record = config.backbone
    line = loading_line(record.name, record.weights, pretrained=record.pretrained)
    with said_if_slow(line, log):
        experiment = build(config, backbone=backbone, text=text)
    if not read_test:
        rest = replace(experiment.splits, test=None)
        experiment = experiment.with_splits(rest)  # type: ignore[arg-type] # of the same kind
    with _opened(config.run_dir, mode) as run:
        earlier = on_first(lambda: _earlier(run, experiment, log) if mode == "resume" else None)
        if isinstance(earlier, RunResult):
            return earlier
        resume = earlier
        on_first(lambda: check_space(run, experiment))
        for line in [*experiment.data_lines, *advice_lines(experiment)]:
            log(line)
        log(_trained_line(experiment.model))
        log_pooling(experiment.model, log)
        for note in experiment.notes if resume is None else ():
            log(note)
        if world_size() > 1:
            log(_processes_line(config.data.batch_size))
        left_out = LeftOut(log)
        if isinstance(experiment, DetectionExperiment):
            for line in report_lines(experiment.splits.findings):
                left_out(line)
        experiment = scanned(experiment, left_out)
        warn_of_depth(experiment, log)
        begin = write_start if resume is None else refuse_other_data
        on_first(lambda: begin(run, experiment))
        with _open_events(run, resume, log) as events:
            if resume is None and events is not None:
                show_start(events, experiment)
            keep = config.train.keep_checkpoints
            outputs = Outputs(
                events=events,
                checkpoints=CheckpointStore(run.checkpoints, keep=keep) if is_first() else None,
                on_validation=on_validation,
                log=log,
                console=console,
            )
            result = _train_in(run, experiment, outputs, resume, device, is_trial=not read_test)

        def finish() -> RunResult:
            whole = replace(result, left_out=len(left_out.lines))
            # Counted after the memory was read, for it takes some; trials differ in numbers alone.
            if read_test and (flops := flops_of(experiment, log)):
                whole = replace(whole, forward_flops=flops.forward, step_flops=flops.step)
            write_json_atomic(run.result, asdict(whole))
            run.previous_prompt.unlink(missing_ok=True)
            return whole

        return on_first(finish)


def _silent(line: str) -> None:
    del line


def _opened(path: Path, mode: OpenMode) -> RunDirectory:
    """The run directory; only the first process takes it."""
    opened: list[RunDirectory] = []
    on_first(lambda: opened.append(open_run_directory(path, mode=mode)))
    return opened[0] if opened else RunDirectory(path, None)


def _earlier(
    run: RunDirectory, experiment: AnyExperiment, log: Log
) -> Checkpoint | RunResult | None:
    """What there is to go on from: the newest checkpoint, the result of a finished run, nothing.

    Raises:
        VptError: the run is another one, or a file that it cannot go on without is damaged.
    """
    checkpoint = newest_checkpoint(run, log)
    result = _earlier_result(run, checkpoint, log)
    if checkpoint is None and result is None:
        if run.config.exists():
            refuse_other_config(run, experiment.config)
        log(f"{run.path} holds no checkpoint to go on from: starts anew")
        return None
    refuse_other_config(run, experiment.config)
    refuse_other_model(run, experiment)
    if result is None:
        assert checkpoint is not None
        restore_best(run, checkpoint)
        return checkpoint
    if not experiment.config.data.scan:  # else bad images may have been left out
        refuse_other_data(run, experiment)
    log(f"{run.path} is finished; its result stands")
    if checkpoint is not None and not run.best_prompt.exists():
        log(f"{run.best_prompt} is missing; --overwrite trains it anew")
    return result


def _earlier_result(run: RunDirectory, checkpoint: Checkpoint | None, log: Log) -> RunResult | None:
    """The result of a finished run; where it is damaged, the run's end is done once more."""
    if not run.result.exists():
        return None
    try:
        return _read_result(run.result)
    except (OSError, ValueError, TypeError) as error:
        if checkpoint is None:
            raise RunError(f"{run.result} is damaged; start anew with --overwrite") from error
        log(f"{run.result} is damaged; the end of the run is done again")
        return None


def _processes_line(batch_size: int) -> str:
    processes = world_size()
    idle = max(0, processes - batch_size)
    rest = f"; {idle} of them have no image in any, raise data.batch_size" if idle else ""
    return (
        f"{processes} processes share out every batch of {batch_size} images{rest}; energy is not "
        "counted"
    )


def _trained_line(model: PromptedModel) -> str:
    counts = model.trained_counts()
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    frozen = sum(model.parameter_counts().values()) - sum(counts.values())
    return f"trains {sum(counts.values()):,} parameters ({parts}); {frozen:,} stay as they are"


@dataclass(frozen=True)
class Tried:
    """What a training that leaves no file behind measured.

    Attributes:
        val: metrics of the best epoch on the validation split.
        seconds: spent training and validating.
        energy: of that time.
    """

    val: dict[str, float]
    seconds: float
    energy: tuple[Energy, ...] = ()


def try_with_cost(config: AnyRunConfig, *, backbone: Backbone | None = None) -> Tried:
    """A training that leaves no file behind: its best epoch in validation, and what it cost.

    The test split is not read: this is for choosing between configs. Images are not scanned first.

    Args:
        config: checked; its run directory is not used.
        backbone: one in memory, to share between runs.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal.
    """
    device = choose_device(config.train.device)
    experiment = build(config, backbone=backbone)
    experiment.model.to(device)
    start_prompts(experiment, device)
    data = fit_data(experiment, device)
    with open_meter(device) as meter:
        outputs = Outputs(meter=meter)
        state = fit(experiment.model, data, experiment.settings, device=device, outputs=outputs)
    assert state.best is not None
    return Tried(state.best, state.seconds, state.energy)


def _open_events(
    run: RunDirectory, resume: Checkpoint | None, log: Log
) -> AbstractContextManager[Events | None]:
    if not is_first():
        return nullcontext()
    if resume is None:
        return Events(run.path, resume_step=None, log=log)
    lines = resume.state["metrics_lines"]
    return Events(run.path, resume_step=resume.step, resume_lines=lines, log=log)


def _train_in(
    run: RunDirectory,
    experiment: AnyExperiment,
    outputs: Outputs,
    resume: Checkpoint | None,
    device: torch.device,
    *,
    is_trial: bool,
) -> RunResult:
    model, log, events = experiment.model.to(device), outputs.log, outputs.events
    if resume is None:
        start_prompts(experiment, device)
    else:
        log(f"going on from step {resume.step}")
    data = fit_data(experiment, device, results=run.val_results, log=log)
    # Validation, where no test follows; of a trial only its numbers are wanted.
    is_last_word = not is_trial and experiment.splits.get("test") is None

    def keep_best(metrics: dict[str, float]) -> str | None:
        if events is None:
            return None
        sha256 = replace_best(run, lambda path: _save(path, experiment, metrics))
        if isinstance(data.evaluator, BoxEvaluator):
            show_validation(events, data.evaluator)
        with harmless("errors", log):
            file = None if is_trial else run.worst_errors
            show_errors(events, experiment, data.evaluator, file=file)
        if (val := experiment.splits.get("val")) is not None and is_last_word:
            with harmless("confusions", log):
                write_confusions(run, events, val, data.evaluator)
        return sha256

    with stop_request() as stop, _open_meter(device) as meter:
        outputs = replace(outputs, on_best=keep_best, meter=meter)
        state = fit(model, data, experiment.settings, device=device, outputs=outputs, resume=resume)
        assert state.best is not None
        on_first(lambda: _save(run.last_prompt, experiment, {}))
        model.load_trained(on_first(lambda: _best_tensors(run, state)))
        test, breakdown = _test(run, experiment, outputs, state, device, stop)
        if events is not None:
            with harmless("settings", log):
                headline = data.evaluator.headline
                show_result(events, experiment, state.best, test, headline=headline)
            with harmless("tokens", log):
                write_points(run, model)
        result = on_first(lambda: _result(run, experiment, state, test, breakdown, device))
    found = {"test": test} if test is not None else {"val": state.best} if state.best else {}
    log("; ".join([f"{k}: {format_metrics(v)}" for k, v in found.items()] + [str(run.best_prompt)]))
    return result


def _best_tensors(run: RunDirectory, state: FitState) -> dict[str, Tensor]:
    """What the best epoch's prompt file holds, if it is the one that was validated."""
    refuse_other_best(run, state.best_sha256)
    return read_prompt_file(run.best_prompt)[1]


def _open_meter(device: torch.device) -> AbstractContextManager[EnergyMeter | None]:
    """A meter counts one GPU and one machine, so of several processes' energy a part."""
    return open_meter(device) if world_size() == 1 else nullcontext()


def _save(path: Path, experiment: AnyExperiment, metrics: dict[str, float]) -> None:
    config = experiment.config
    values = {f"val/{name}": value for name, value in metrics.items()}
    cut = experiment.splits.cut
    save_prompt(experiment.model, path, metrics=values, seed=config.seed, config=config, cut=cut)


def _test(
    run: RunDirectory,
    experiment: AnyExperiment,
    outputs: Outputs,
    state: FitState,
    device: torch.device,
    stop: StopRequest,
) -> tuple[dict[str, float] | None, Breakdown | None]:
    """Read the test split, once: its metrics, and what they are class by class.

    Of several processes only the first knows of the classes.
    """
    split, events, log = experiment.splits.get("test"), outputs.events, outputs.log
    if split is None:
        return None, None
    config = experiment.config

    def after_batch(images: int) -> None:
        if asked_to_stop(stop):
            raise Interrupted(f"stopped by {stop.signal_name} while testing; go on with --resume")

    metrics, evaluator = measure(
        experiment.model,
        split,
        experiment.eval_transform,
        device=device,
        batch_size=config.data.eval_batch_size or config.data.batch_size,
        num_workers=config.data.num_workers,
        precision=config.train.precision,
        after_batch=after_batch,
        results=run.test_results,
        coco_eval=coco_eval_of(config),
    )
    if events is None:
        return metrics, None
    events.record(state.step, {f"test/{name}": value for name, value in metrics.items()})
    if isinstance(evaluator, BoxEvaluator):
        with harmless("curves", log):
            pixels = draw_precision_recall(evaluator.coco.pr_curves())
            events.picture(state.step, "test/precision_recall", pixels)
    with harmless("confusions", log):
        write_confusions(run, events, split, evaluator)
    return metrics, breakdown_of(evaluator, split)


def _result(
    run: RunDirectory,
    experiment: AnyExperiment,
    state: FitState,
    test: dict[str, float] | None,
    breakdown: Breakdown | None,
    device: torch.device,
) -> RunResult:
    trained = sum(p.numel() for p in experiment.model.trainable_parameters())
    return RunResult(
        test=test,
        val=state.best or {},
        best_epoch=state.best_epoch,
        steps=state.step,
        finished=state.finished or "",
        parameters={**experiment.model.parameter_counts(), "trained": trained},
        prompt_bytes=run.best_prompt.stat().st_size,
        seconds=state.seconds,
        images_per_second=state.images / max(1e-9, state.train_seconds),
        peak_memory_bytes=peak_memory_bytes(device),
        seed=experiment.config.seed,
        trained_parameters=experiment.model.trained_counts(),
        test_per_class=None if breakdown is None else breakdown.values,
        val_images_per_second=state.val_images / state.val_seconds if state.val_images else None,
        energy=state.energy,
        best_epoch_number=state.best_epoch + 1,
        test_counts=None if breakdown is None else breakdown.counts,
        test_confused=() if breakdown is None else breakdown.confused,
    )


def _read_result(path: Path) -> RunResult:
    """What a run wrote when it ended.

    Raises:
        ValueError: the file is damaged.
    """
    return TypeAdapter(RunResult).validate_json(path.read_bytes())
