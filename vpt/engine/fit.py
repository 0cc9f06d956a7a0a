"""The training loop, as a story; a run goes on from any checkpoint bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from torch import Tensor
from torch.optim import Optimizer

from vpt.data import NO_MIXING, Mixing, mix
from vpt.engine.acceleration import (
    CUDA_GRAPH_MODES,
    CompileMode,
    accelerated,
    own_gradients,
)
from vpt.engine.checkpoint import Checkpoint, CheckpointStore
from vpt.engine.device import autocast
from vpt.engine.distributed import (
    asked_to_stop,
    is_first,
    on_first,
    rank,
    summed,
    world_size,
)
from vpt.engine.energy import EnergyMeter
from vpt.engine.evaluate import evaluate
from vpt.engine.interrupt import Interrupted, StopRequest, stop_request
from vpt.engine.optim import (
    OptimSettings,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
)
from vpt.engine.progress import TrainingProgress, format_seconds
from vpt.engine.shares import Share, shares_of, weight_of, weighted, weights_of
from vpt.engine.step import TrainingStep, blank_batch, over_all_processes, summing
from vpt.engine.throughput import DataWatch, Meter
from vpt.errors import DivergedError, RunError
from vpt.evaluation import Evaluator, is_better
from vpt.evaluation.energy import Energy, energies, total
from vpt.models import NO_CONSISTENCY, Classifier, Consistency, PromptedModel
from vpt.seeding import derive_seed
from vpt.structures import AnyBatch, Batch

if TYPE_CHECKING:
    from vpt.engine.events import Events

OnValidation = Callable[[int, dict[str, float]], None]

_ENERGY_SECONDS = 60  # between looks at the energy; a processor's counter begins anew within hours


@dataclass(frozen=True)
class FitSettings:
    """Plain numbers of a training run.

    Attributes:
        optim: optimiser and schedule.
        seed: of dropout; order and augmentation come with the batches.
        epochs: passes over the training set.
        max_steps: at most so many optimiser steps; the schedule ends there.
        max_hours: stop after so many hours, earlier attempts counted in.
        accumulation: batches per optimiser step.
        clip_grad_norm: largest norm of the whole gradient.
        label_smoothing: share of the target spread over all classes.
        class_weights: one per class, or None.
        precision: 'fp32', 'bf16' or 'fp16'.
        consistency: weights of the losses that keep the model near the frozen one.
        mixing: of training images with each other.
        select: validation metric that decides which epoch is best, ties by the validation loss;
            'last' takes the last.
        evaluate_every: epochs from one validation, and its checkpoint, to the next; the last is
            always validated.
        early_stopping: epochs without a better one, by the same rule, after which to stop.
        checkpoint_seconds: between checkpoints inside an epoch.
        log_every: optimiser steps between logged training values.
        compile_mode: of torch.compile; 'none' runs as it is written.
        grad_checkpointing: compute blocks again in the backward pass, for less memory.
    """

    optim: OptimSettings
    seed: int
    epochs: int
    max_steps: int | None = None
    max_hours: float | None = None
    accumulation: int = 1
    clip_grad_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    consistency: Consistency = NO_CONSISTENCY
    mixing: Mixing = NO_MIXING
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    select: str = "top1"
    evaluate_every: int = 1
    early_stopping: int | None = None
    checkpoint_seconds: float = 600.0
    log_every: int = 20
    compile_mode: CompileMode = "none"
    grad_checkpointing: bool = False


@dataclass(frozen=True)
class FitData:
    """Where batches come from.

    Attributes:
        train: (epoch, batches to skip) -> the rest of that epoch's batches, of each the part that
            this process has; None where that is empty.
        batches_per_epoch: of the training set.
        val: () -> the validation batches, of N processes every Nth; None: there are none, and
            `select` is 'last'.
        evaluator: of the validation batches.
        advice: gives what to change where training waits for its batches, see `DataWatch`.
    """

    train: Callable[[int, int], Iterable[AnyBatch | None]]
    batches_per_epoch: int
    val: Callable[[], Iterable[AnyBatch]] | None
    evaluator: Evaluator
    advice: Callable[[], Sequence[str]] | None = None


@dataclass(frozen=True)
class Outputs:
    """Where a run leaves its traces; each part may be missing.

    Attributes:
        events: curves.
        checkpoints: for `--resume`.
        on_best: called with the metrics of a new best epoch; the model holds its tensors. It gives
            the SHA-256 of the file that it wrote, if any.
        on_validation: called with the epoch (0-based) and its metrics, when they are saved; what it
            raises ends the run.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.
        meter: of the energy; what it has counted so far is the run's.
    """

    events: Events | None = None
    checkpoints: CheckpointStore | None = None
    on_best: Callable[[dict[str, float]], str | None] = lambda metrics: None
    on_validation: OnValidation = lambda epoch, metrics: None
    log: Callable[[str], None] = lambda line: None
    console: Console | None = None
    meter: EnergyMeter | None = None


@dataclass
class FitState:
    """What a run knows of its past; all JSON values, kept in every checkpoint.

    Attributes:
        step: optimiser steps done.
        evaluated: epochs done at the last validation.
        best: validation metrics of the best epoch.
        best_epoch: 0-based.
        best_sha256: of the prompt file of that epoch, if there is one.
        stale: epochs since.
        loss_sum: of the steps since the last log.
        loss_count: how many.
        images: trained on so far, over all epochs and attempts.
        train_seconds: spent in training steps and waiting for their data.
        seconds: spent training and validating, earlier attempts counted in.
        val_images: validated on so far, likewise.
        val_seconds: spent validating.
        energy: of the time up to this state, likewise; what is done after the last checkpoint of
            an attempt that is killed is in no state, neither its seconds nor its energy.
        finished: why the run is over, if it is.
    """

    step: int = 0
    evaluated: int = 0
    best: dict[str, float] | None = None
    best_epoch: int = -1
    best_sha256: str | None = None
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    images: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    val_images: int = 0
    val_seconds: float = 0.0
    energy: tuple[Energy, ...] = ()
    finished: str | None = None


def fit(
    model: PromptedModel,
    data: FitData,
    settings: FitSettings,
    *,
    device: torch.device,
    outputs: Outputs | None = None,
    resume: Checkpoint | None = None,
) -> FitState:
    """Train a model's prompt, head and selected backbone tensors.

    The model ends with the last step's. Several processes (`vpt.engine.distributed`) train it
    together and end alike; the first one's `outputs` are the run's.

    Args:
        model: on `device`.
        data: training and validation batches.
        settings: plain numbers.
        device: where to compute.
        outputs: curves, checkpoints, messages.
        resume: go on from here, exactly.

    Raises:
        Interrupted: SIGTERM or SIGINT; a checkpoint of this step is saved.
        DivergedError: the loss or the gradient is not finite.
        RunError: a file cannot be written.
    """
    loop = _Loop(model, data, settings, device, outputs or Outputs())
    if resume is not None:
        loop.restore(resume)
    state = loop.state
    with stop_request() as stop, loop.progress(state) as progress, loop.accelerated():
        while state.finished is None:
            if loop.is_validation_due():
                loop.evaluate_epoch(math.ceil(state.step / loop.steps_per_epoch) - 1, stop)
            else:
                loop.train_epoch(state.step // loop.steps_per_epoch, stop, progress)
    return state


def steps_per_epoch(batches: int, accumulation: int) -> int:
    """Optimiser steps of an epoch; the last may see fewer batches."""
    return math.ceil(batches / accumulation)


def total_steps(settings: FitSettings, batches_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    steps = settings.epochs * steps_per_epoch(batches_per_epoch, settings.accumulation)
    return min(steps, settings.max_steps or steps)


class _Loop:
    """The objects of one run and the three things done with them: train, evaluate, save."""

    def __init__(
        self,
        model: PromptedModel,
        data: FitData,
        settings: FitSettings,
        device: torch.device,
        outputs: Outputs,
    ):
        self.model, self.data, self.settings, self.device = model, data, settings, device
        self.outputs = outputs
        self.steps_per_epoch = steps_per_epoch(data.batches_per_epoch, settings.accumulation)
        self.total_steps = total_steps(settings, data.batches_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.optimizer: Optimizer = build_optimizer(
            model.trained_tensors(), settings.optim, scaled=self.scaler.is_enabled()
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        weights = settings.class_weights
        step = TrainingStep(
            model,
            label_smoothing=settings.label_smoothing,
            class_weights=None if weights is None else torch.tensor(weights, device=device),
            consistency=settings.consistency,
        )
        self.step = over_all_processes(step, device)
        self.state = FitState()
        self.watch = DataWatch(data.advice)
        self.parts: dict[str, float] = {}
        self.mean_loss: float | None = None  # since the last line of the log
        self.last_checkpoint = self.last_energy = time.monotonic()

    def progress(self, state: FitState) -> TrainingProgress:
        console = self.outputs.console or Console(quiet=True, force_terminal=False)
        return TrainingProgress(self.total_steps, state.step, console=console, log=self.outputs.log)

    def accelerated(self) -> AbstractContextManager[None]:
        return accelerated(
            self.model,
            self.settings.precision,
            compile_mode=self.settings.compile_mode,
            grad_checkpointing=self.settings.grad_checkpointing,
        )

    # ---------------------------------------------------------------------------------- training

    def train_epoch(self, epoch: int, stop: StopRequest, progress: TrainingProgress) -> None:
        """The rest of an epoch, from wherever the state is."""
        self.model.train()
        state, settings = self.state, self.settings
        done = state.step % self.steps_per_epoch
        batches = iter(self.data.train(epoch, done * settings.accumulation))
        meter = Meter()
        while group := meter.wait(_take(batches, settings.accumulation)):
            rates = set_learning_rates(self.optimizer, settings.optim, state.step, self.total_steps)
            loss, grad_norm, images = self._train_step(group, rates)
            state.step += 1
            state.loss_sum, state.loss_count = state.loss_sum + loss, state.loss_count + 1
            meter.count(images, state)
            self._watch_data(images, meter)
            self._share_clock()
            speed, wait = meter.speed(), meter.data_wait()
            self.mean_loss = mean_loss = state.loss_sum / state.loss_count
            progress.show(
                state.step, epoch=epoch, loss=mean_loss, images_per_second=speed, data_wait=wait
            )
            if state.step % settings.log_every == 0 or state.step == self.total_steps:
                timing = {"train/images_per_second": speed, "train/data_wait": wait}
                self._log_step(mean_loss, grad_norm, rates, timing)
                meter = Meter()
            self._stop_or_save(stop)
            meter.ask()
            if (
                self._is_late()
                or state.step >= self.total_steps
                or state.step % self.steps_per_epoch == 0
            ):
                return

    def _watch_data(self, images: int, meter: Meter) -> None:
        waited, seconds = meter.step_waited, meter.step_seconds
        if line := self.watch.after_step(images, waited=waited, seconds=seconds):
            self.outputs.log(line)

    def _train_step(
        self, group: list[AnyBatch | None], rates: dict[str, float]
    ) -> tuple[float, float, int]:
        """One optimiser step over a group of batches, of which other processes may have a part.

        Gives the mean loss over all their images, the gradient norm, and the number of images.
        """
        settings = self.settings
        group = [self._mixed(batch, number) for number, batch in enumerate(group)]
        shares, images = self._shares(group)
        self.parts = {}
        total = torch.zeros((), device=self.device)
        for number, (batch, share) in enumerate(zip(group, shares, strict=True)):
            torch.manual_seed(self._dropout_seed(number))
            with summing(self.step, now=number == len(group) - 1):
                loss = self._loss(batch, share)
                torch.autograd.backward(self.scaler.scale(loss))
            if number == 0 and len(group) > 1 and settings.compile_mode in CUDA_GRAPH_MODES:
                own_gradients(self.parameters)
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        limit = settings.clip_grad_norm or math.inf
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        mean_loss = self._sum_losses(float(total))
        self._check_finite(mean_loss, grad_norm, rates)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return mean_loss, grad_norm, images

    def _dropout_seed(self, number: int) -> int:
        """Another one for each step, batch of a step, and process."""
        process = (rank(),) if rank() else ()
        return derive_seed("dropout", self.settings.seed, self.state.step, number, *process)

    def _loss(self, batch: AnyBatch | None, share: Share) -> Tensor:
        """What a batch, or this process's part of it, adds to the step's loss."""
        batch = blank_batch(self.model, self.device) if batch is None else batch.to(self.device)
        with autocast(self.device, self.settings.precision):
            losses: dict[str, Tensor] = self.step(batch)
        weights = weights_of(losses, share)
        self._count_parts(losses, weights)
        return weighted(losses, weights)

    def _sum_losses(self, loss: float) -> float:
        """The loss of all processes; that of its parts takes the place of this one's."""
        loss, *parts = summed([loss, *self.parts.values()])
        self.parts = dict(zip(self.parts, parts, strict=True))
        return loss

    def _mixed(self, batch: AnyBatch | None, number: int) -> AnyBatch | None:
        """A batch with its images mixed, by numbers that the seed and the step alone decide.

        Of several processes each mixes its own part of the batch in itself.
        """
        if not self.settings.mixing or not isinstance(batch, Batch):
            return batch
        assert isinstance(self.model, Classifier)
        assert self.model.head is not None
        seed = derive_seed("mix", self.settings.seed, self.state.step, number)
        classes = self.model.head.num_classes
        return mix(batch.to(self.device), self.settings.mixing, num_classes=classes, seed=seed)

    def _shares(self, group: list[AnyBatch | None]) -> tuple[list[Share], int]:
        """Each batch's share in the mean over the group of all processes, and all its images.

        It goes by images, or by their class weights; a multi-label loss is a mean over images.
        """
        each_class = isinstance(self.model, Classifier) and self.model.multi_label
        class_weights = None if each_class else self.settings.class_weights
        return shares_of(
            [weight_of(batch, class_weights) for batch in group],
            [0 if batch is None else len(batch.images) for batch in group],
        )

    def _count_parts(self, losses: dict[str, Tensor], weights: dict[str, float]) -> None:
        """The parts of this step's loss, for the curves, where there are several."""
        for name, weight in weights.items() if len(weights) > 1 else ():
            self.parts[name] = self.parts.get(name, 0.0) + float(losses[name].detach()) * weight

    def _check_finite(self, loss: float, grad_norm: float, rates: dict[str, float]) -> None:
        scaled = self.scaler.is_enabled()
        if math.isfinite(loss) and (scaled or math.isfinite(grad_norm)):
            return
        raise self._diverged("loss" if not math.isfinite(loss) else "gradient", rates)

    def _diverged(self, what: str, rates: dict[str, float]) -> DivergedError:
        lr = max(rates.values(), default=0.0)
        return DivergedError(
            f"the {what} is not finite at step {self.state.step} (lr {lr:g}); lower optim.lr or "
            "set optim.clip_grad_norm; the last checkpoint and prompt file are as they were"
        )

    def _log_step(
        self, loss: float, grad_norm: float, rates: dict[str, float], timing: dict[str, float]
    ) -> None:
        self.state.loss_sum, self.state.loss_count = 0.0, 0
        if self.outputs.events is None:
            return
        values = {"train/loss": loss, "train/grad_norm": grad_norm, **timing}
        values |= {f"train/{part}": value for part, value in self.parts.items()}
        values |= {f"lr/{part}": rate for part, rate in rates.items()}
        for layer in self.model.prompt.layers:
            rows = self.model.prompt.rows(layer)
            if rows is not None:
                values[f"prompt_norm/layer_{layer:02d}"] = float(rows.detach().norm(dim=-1).mean())
        self.outputs.events.scalars(self.state.step, values)

    # -------------------------------------------------------------------------------- evaluation

    def evaluate_epoch(self, epoch: int, stop: StopRequest) -> None:
        """Validate after an epoch, keep the best, decide whether the run is over, save."""
        began = time.monotonic()
        metrics = self._validate(stop)
        state = self.state
        if not all(math.isfinite(value) for value in metrics.values()):
            rates = {group["part"]: group["lr"] for group in self.optimizer.param_groups}
            raise self._diverged("validation loss", rates)
        spent = time.monotonic() - began
        state.seconds, state.val_seconds = state.seconds + spent, state.val_seconds + spent
        self._share_clock()
        state.evaluated = epoch + 1
        is_best = self._note(metrics, epoch)
        self.outputs.log(self._epoch_line(metrics, epoch) + ("  best" if is_best else ""))
        if self.outputs.events is not None:
            self.outputs.events.scalars(state.step, {f"val/{k}": v for k, v in metrics.items()})
            headline = self.data.evaluator.headline
            self.outputs.events.curves(state.step, best_curves(state.best, headline))
        if is_best:
            state.best_sha256 = self.outputs.on_best(metrics)
        state.finished = self._finish_reason()
        self.save()
        if asked_to_stop(stop):
            self._save_and_stop(stop)
        self.outputs.on_validation(epoch, metrics)

    def _epoch_line(self, metrics: dict[str, float], epoch: int) -> str:
        """The losses, the metric that the best epoch is chosen by, the rate and the time so far."""
        parts = [f"epoch {epoch + 1}/{self.settings.epochs}"]
        if self.mean_loss is not None:
            parts.append(f"train loss {self.mean_loss:.4f}")
        if "loss" in metrics:
            parts.append(f"val loss {metrics['loss']:.4f}")
        named = [self.settings.select, *metrics]  # 'last' and 'loss' are none of a table's metrics
        chosen = next((name for name in named if name in metrics and name != "loss"), None)
        if chosen is not None:
            parts.append(f"{chosen} {metrics[chosen]:.1%}")
        parts.append(f"lr {self.optimizer.param_groups[0]['lr']:.1e}")
        return "  ".join([*parts, format_seconds(self.state.seconds)])

    def _validate(self, stop: StopRequest) -> dict[str, float]:
        """The metrics of the validation images; none where there are no such images."""
        if self.data.val is None:
            return {}
        seen = 0

        def after_batch(images: int) -> None:
            nonlocal seen
            seen += images
            if asked_to_stop(stop):
                self._save_and_stop(stop)

        metrics = evaluate(
            self.model,
            self.data.val(),
            self.data.evaluator,
            device=self.device,
            precision=self.settings.precision,
            after_batch=after_batch,
        )
        self.state.val_images += seen
        return metrics

    def _note(self, metrics: dict[str, float], epoch: int) -> bool:
        """Whether this epoch is the best so far, see `is_better`; it is all in the state."""
        state, select = self.state, self.settings.select
        if select != "last" and select not in metrics:
            raise RunError(
                f"validation has no {select} to choose the best epoch by (it has "
                f"{', '.join(metrics) or 'none'}); set train.select: last, or change the data"
            )
        better = is_better(metrics, state.best, select)
        if better:
            state.best, state.best_epoch, state.stale = metrics, epoch, 0
        else:
            state.stale = epoch - state.best_epoch
        return better

    def is_validation_due(self) -> bool:
        """Whether validation comes next: every so many epochs, and at the end."""
        done = self.state.step // self.steps_per_epoch
        return self.is_over() or done - done % self.settings.evaluate_every > self.state.evaluated

    def is_over(self) -> bool:
        """Whether no step is left to do, or no time."""
        return self.state.step >= self.total_steps or self._is_late()

    def _share_clock(self) -> None:
        """Go by the first process's clock, so that all of them find the run late at one step."""
        if world_size() == 1:
            return
        state = self.state
        times = [state.seconds, state.train_seconds, state.val_seconds]
        times = summed([seconds if is_first() else 0.0 for seconds in times])
        state.seconds, state.train_seconds, state.val_seconds = times

    def _is_late(self) -> bool:
        hours = self.settings.max_hours
        return (
            hours is not None and self.state.train_seconds > 0 and self.state.seconds > hours * 3600
        )

    def _finish_reason(self) -> str | None:
        state, settings = self.state, self.settings
        if state.step >= self.total_steps:
            return "done"
        if self._is_late():
            return f"max_hours {settings.max_hours:g} reached at step {state.step}"
        if settings.early_stopping is not None and state.stale >= settings.early_stopping:
            return f"no better {settings.select} in {state.stale} epochs"
        return None

    # ------------------------------------------------------------------------------------ saving

    def _stop_or_save(self, stop: StopRequest) -> None:
        if asked_to_stop(stop):
            self._save_and_stop(stop)
        now = time.monotonic()
        if now - self.last_checkpoint >= self.settings.checkpoint_seconds:
            self.save()
        elif now - self.last_energy >= _ENERGY_SECONDS:
            self._count_energy()

    def _save_and_stop(self, stop: StopRequest) -> None:
        on_first(self.save)
        raise Interrupted(on_first(lambda: self._stop_line(stop)))

    def _stop_line(self, stop: StopRequest) -> str:
        line = f"stopped by {stop.signal_name} at step {self.state.step}"
        return line if self.outputs.checkpoints is None else f"{line}; go on with --resume"

    def save(self) -> None:
        """A checkpoint of this step; the curves are on the disk before it is."""
        self.last_checkpoint = time.monotonic()
        self._count_energy()
        if self.outputs.events is not None:
            self.outputs.events.flush()
        if self.outputs.checkpoints is None:
            return
        tensors = dict(self.model.trained_tensors()) | optimizer_tensors(self.optimizer)
        state: dict[str, Any] = {
            "fit": asdict(self.state),
            "scaler": self.scaler.state_dict(),
            "backbone": self.model.backbone.sha256,
            "processes": world_size(),
            "metrics_lines": None if self.outputs.events is None else self.outputs.events.lines,
        }
        self.outputs.checkpoints.save(self.state.step, tensors, state)

    def _count_energy(self) -> None:
        self.last_energy = time.monotonic()
        if self.outputs.meter is not None:
            self.state.energy = total(self.state.energy, self.outputs.meter.take())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint as if the run had never stopped.

        Raises:
            RunError: it was trained on another backbone.
        """
        before, now = checkpoint.state["backbone"], self.model.backbone.sha256
        if before != now:
            raise RunError(
                f"{checkpoint.path} was trained on a backbone with weights {str(before)[:12]}, "
                f"not {str(now)[:12]}; give back the weights it had, or start a new run"
            )
        tensors = {
            name: t for name, t in checkpoint.tensors.items() if not name.startswith("optimizer.")
        }
        self.model.load_trained(tensors)
        load_optimizer_tensors(self.optimizer, checkpoint.tensors)
        self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.state.__dict__.update(checkpoint.state["fit"])
        self.state.energy = energies(checkpoint.state["fit"].get("energy", ()))
        processes = checkpoint.state.get("processes", 1)
        if processes != world_size():
            self.outputs.log(
                f"the run had processes: {processes}, and has now: {world_size()}; the training is "
                "the same, but for rounding, dropout and data.mix"
            )


def best_curves(best: Mapping[str, float] | None, headline: Sequence[str]) -> dict[str, float]:
    """The best epoch so far as points of curves, by the names that TensorBoard shows.

    Args:
        best: its metrics; None: there is none.
        headline: which of them; none: all.
    """
    best = best or {}
    return {f"best/{name}": best[name] for name in headline or best if name in best}


def format_metrics(metrics: dict[str, float]) -> str:
    """Metrics for one line: shares in percent, the loss as it is.

    The mean over the classes is left out where it says the same as the mean over the images.
    """
    if abs(metrics.get("mean_class_accuracy", -1.0) - metrics.get("top1", 1.0)) < 5e-4:
        metrics = {k: v for k, v in metrics.items() if k != "mean_class_accuracy"}
    return ", ".join(f"{k} {v:.4f}" if k == "loss" else f"{k} {v:.1%}" for k, v in metrics.items())


def _take(batches: Iterator[AnyBatch | None], count: int) -> list[AnyBatch | None]:
    return list(islice(batches, count))
