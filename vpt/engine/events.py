"""What a run tells while it trains: TensorBoard events, and every scalar again in metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from vpt.errors import RunError
from vpt.storage.atomic_file import write_atomic, write_error

_MOST_TICKS = 30
"""Most classes whose names still fit beside a confusion matrix."""


class Events:
    """The one writer of a run's metrics.jsonl and of its TensorBoard folder.

    TensorBoard is a view: where it cannot be written, one warning is logged and the run goes on.
    metrics.jsonl is the record: where it cannot be written, `RunError` is raised.
    Call `flush` before a checkpoint, so that the record is never behind it.

    Attributes:
        step: of the newest scalars.
    """

    def __init__(
        self,
        run_dir_path: Path,
        *,
        resume_step: int | None,
        resume_lines: int | None = None,
        log: Callable[[str], None] = lambda line: None,
    ):
        """Open both for appending, without what was written after the step that is resumed.

        Args:
            run_dir_path: the run's directory, which exists.
            resume_step: optimiser steps done at the checkpoint that the run goes on from; None
                starts anew, and what an earlier attempt wrote is dropped.
            resume_lines: `lines` at that checkpoint; what was written at its step, but after it,
                is dropped too.
            log: takes one-line warnings.

        Raises:
            RunError: metrics.jsonl cannot be read or written.
        """
        self._log = log
        self.step = resume_step or 0
        self._metrics_path = run_dir_path / "metrics.jsonl"
        self._lines = cut_back_metrics(self._metrics_path, resume_step, resume_lines)
        if resume_lines is not None and self._lines < resume_lines:
            log(
                f"{self._metrics_path} has lost {resume_lines - self._lines} of the {resume_lines} "
                f"lines up to step {resume_step}; the run goes on, its curves have a gap"
            )
        self._metrics = self._open_metrics()
        self._writer: SummaryWriter | None = None
        purge_step = 0 if resume_step is None else resume_step + 1
        folder = run_dir_path / "tensorboard"
        if resume_step and not any(folder.glob("events.out.tfevents.*")):
            log(f"{folder} has lost its curves up to step {resume_step}; the run goes on")
        self._on_tensorboard(lambda: self._start_tensorboard(str(folder), purge_step))

    @property
    def lines(self) -> int:
        """Lines in metrics.jsonl."""
        return self._lines

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of one step, e.g. {"train/loss": 1.2}.

        metrics.jsonl gets one line {"step", "time" (Unix seconds), key: value}; a value that is
        not finite is null there.

        Raises:
            ValueError: a key is 'step' or 'time'.
            RunError: metrics.jsonl cannot be written; it holds no half line.
        """
        if "step" in values or "time" in values:
            raise ValueError("'step' and 'time' are fields of every line, not names of scalars")
        numbers = {key: float(value) for key, value in values.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite}, allow_nan=False)
        self._append(f"{line}\n".encode())
        self.step = step
        for key, value in numbers.items():
            self._draw("add_scalar", key, value, step)

    def images(self, step: int, tag: str, images: Tensor) -> None:
        """Show images as one grid.

        Args:
            step: optimiser steps done.
            tag: its name.
            images: (K, 3, H, W), uint8 or floats in [0, 1].
        """
        self._draw("add_images", tag, images.detach().cpu(), step)

    def confusion_matrix(
        self, step: int, tag: str, counts: Tensor, class_names: Sequence[str] | None = None
    ) -> None:
        """Show a confusion matrix.

        Args:
            step: optimiser steps done.
            tag: its name.
            counts: (C, C), rows are the true classes, columns the predicted ones.
            class_names: C names; written beside the matrix for up to 30 classes.
        """
        if self._writer is not None:
            pixels = draw_confusion_matrix(counts, class_names)
            self._draw("add_image", tag, pixels, step, dataformats="HWC")

    def precision_recall(self, step: int, tag: str, curves: Mapping[str, Sequence[float]]) -> None:
        """Show precision-recall curves.

        Args:
            step: optimiser steps done.
            tag: its name.
            curves: by class, precision at evenly spaced recalls 0..1; named for up to 30 classes.
        """
        if self._writer is not None:
            pixels = draw_precision_recall(curves)
            self._draw("add_image", tag, pixels, step, dataformats="HWC")

    def text(self, tag: str, text: str, *, step: int = 0) -> None:
        """Show a text as it is, in a fixed-width font."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._draw("add_text", tag, indented, step)

    def hparams(self, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Show a run's settings beside its final metrics, in this run's own file.

        The settings and the metrics are in TensorBoard alone: config.yaml and result.json hold
        them already.

        Args:
            step: optimiser steps done.
            settings: JSON values by dotted keys; None and lists are shown as text.
            metrics: by names that no curve has.
        """
        if self._writer is None:
            return
        shown = {key: _shown(value) for key, value in settings.items()}
        file: Any = self._writer.file_writer
        parts = hparams(shown, dict(metrics))  # type: ignore[no-untyped-call]
        for part in parts:  # add_hparams would make a run of its own
            self._on_tensorboard(partial(file.add_summary, part, step))
        for name, value in metrics.items():
            self._draw("add_scalar", name, value, step)

    def flush(self) -> None:
        """Bring everything written so far to the disk.

        Raises:
            RunError: metrics.jsonl cannot be written.
        """
        try:
            os.fsync(self._metrics)
        except OSError as error:
            raise write_error(self._metrics_path, error, 0) from error
        self._draw("flush")

    def close(self) -> None:
        """Flush and close both; closing twice does nothing more."""
        self._draw("close")
        self._writer = None
        if self._metrics >= 0:
            os.close(self._metrics)
            self._metrics = -1

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_metrics(self) -> int:
        if self._metrics_path.is_symlink():  # to a file of another place
            raise RunError(f"{self._metrics_path} is a link and is not written to; move it away")
        try:
            return os.open(self._metrics_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise write_error(self._metrics_path, error, 0) from error

    def _append(self, line: bytes) -> None:
        """Append a line or nothing: unbuffered, so that a killed process loses none."""
        size = os.fstat(self._metrics).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._metrics, line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._metrics, size)
            raise write_error(self._metrics_path, error, len(line)) from error
        self._lines += 1

    def _start_tensorboard(self, folder: str, purge_step: int) -> None:
        self._writer = SummaryWriter(folder, purge_step=purge_step)

    def _draw(self, method: str, *args: Any, **options: Any) -> None:
        writer = self._writer
        if writer is not None:
            self._on_tensorboard(lambda: getattr(writer, method)(*args, **options))

    def _on_tensorboard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            self._log(f"TensorBoard is off for the rest of this run, the run goes on: {error}")


def cut_back_metrics(path: Path, resume_step: int | None, resume_lines: int | None = None) -> int:
    """Keep the lines up to a step, in one atomic rewrite; a torn or unreadable line is dropped.

    Args:
        path: metrics.jsonl; nothing is done where it is missing.
        resume_step: last step to keep; None keeps nothing.
        resume_lines: most lines to keep, the first ones; None for any number.

    Returns:
        Lines kept.

    Raises:
        RunError: the file cannot be read or written.
    """
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    lines = old.splitlines(keepends=True)
    kept = [line for line in lines if _is_up_to(line, resume_step)][:resume_lines]
    if len(kept) < len(lines):
        write_atomic(path, [b"".join(kept)])
    return len(kept)


def draw_confusion_matrix(
    counts: Tensor, class_names: Sequence[str] | None = None
) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 picture of a (C, C) matrix, rows as shares of their class."""
    counts = counts.detach().cpu().to(torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    figure, axes = _new_figure()
    figure.colorbar(axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis"))
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if class_names is not None and len(class_names) <= _MOST_TICKS:
        names = [_plain(name) for name in class_names]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    return _pixels(figure)


def draw_precision_recall(curves: Mapping[str, Sequence[float]]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 picture of a curve per class, and of their mean in black."""
    figure, axes = _new_figure()
    for name, curve in curves.items():
        label = f" {_plain(name)}"  # matplotlib hides what begins with an underscore
        axes.plot(np.linspace(0, 1, len(curve)), curve, label=label, linewidth=1, alpha=0.7)
    if curves:
        mean = np.mean([list(curve) for curve in curves.values()], axis=0)
        axes.plot(np.linspace(0, 1, len(mean)), mean, label="mean", linewidth=2, color="black")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if 0 < len(curves) <= _MOST_TICKS:
        axes.legend(fontsize="small", loc="lower left")
    return _pixels(figure)


def _new_figure() -> tuple[Any, Any]:
    """Figure and axes without pyplot: no global state, no display, nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _shown(value: Any) -> str | float:
    """A setting as TensorBoard's table takes it: a number, or a text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number or isinstance(value, str) else json.dumps(value)


def _plain(name: str) -> str:
    """A class name as matplotlib writes it as it is: '$' starts mathematics there."""
    return name.replace("$", r"\$")


def _pixels(figure: Any) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()


def _is_up_to(line: bytes, resume_step: int | None) -> bool:
    if resume_step is None or not line.endswith(b"\n"):
        return False
    try:
        values = json.loads(line)
    except ValueError:
        return False
    step = values.get("step") if isinstance(values, dict) else None
    return isinstance(step, int) and step <= resume_step
