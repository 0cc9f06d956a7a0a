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
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard.summary import hparams, image, scalar
from torch.utils.tensorboard.summary import text as text_summary

from vpt.engine.event_file import EventFile
from vpt.errors import RunError
from vpt.storage.atomic_file import write_atomic, write_error


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
        self._file: EventFile | None = None
        purge_step = 0 if resume_step is None else resume_step + 1
        folder = run_dir_path / "tensorboard"
        if resume_step and not any(folder.glob("events.out.tfevents.*")):
            log(f"{folder} has lost its curves up to step {resume_step}; the run goes on")
        self._on_tensorboard(lambda: self._start_tensorboard(folder, purge_step))

    @property
    def lines(self) -> int:
        """Lines in metrics.jsonl."""
        return self._lines

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of one step, e.g. {"train/loss": 1.2}, and draw their curves.

        metrics.jsonl gets one line {"step", "time" (Unix seconds), key: value}; a value that is
        not finite is null there.

        Raises:
            ValueError: a key is 'step' or 'time'.
            RunError: metrics.jsonl cannot be written; it holds no half line.
        """
        self.record(step, values)
        self.curves(step, values)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers that are measured once, so that they are no curves: metrics.jsonl alone.

        Otherwise as `scalars`.
        """
        if "step" in values or "time" in values:
            raise ValueError("'step' and 'time' are fields of every line, not names of scalars")
        numbers = {key: float(value) for key, value in values.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **finite}, allow_nan=False)
        self._append(f"{line}\n".encode())
        self.step = step

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Draw numbers that follow from others in metrics.jsonl: TensorBoard alone."""
        for key, value in values.items():
            self._draw(step, partial(scalar, key, float(value)))

    def images(self, step: int, tag: str, images: Tensor) -> None:
        """Show images as one grid.

        Args:
            step: optimiser steps done.
            tag: its name.
            images: (K, 3, H, W), uint8 or floats in [0, 1].
        """
        self._draw(step, partial(image, tag, images.detach().cpu(), dataformats="NCHW"))

    def picture(self, step: int, tag: str, pixels: NDArray[np.uint8]) -> None:
        """Show one picture.

        Args:
            step: optimiser steps done.
            tag: its name.
            pixels: (H, W, 3).
        """
        self._draw(step, partial(image, tag, pixels, dataformats="HWC"))

    def text(self, tag: str, text: str, *, step: int = 0) -> None:
        """Show a text as it is, in a fixed-width font."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._draw(step, partial(text_summary, tag, indented))

    def hparams(self, step: int, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Show a run's settings beside the last values of curves, in this run's own file.

        The settings are in TensorBoard alone: config.yaml holds them already.

        Args:
            step: optimiser steps done.
            settings: JSON values by dotted keys; None and lists are shown as text.
            metrics: names of curves.
        """
        if self._file is None:
            return
        shown = {key: _shown(value) for key, value in settings.items()}
        # add_hparams of torch's writer would make a run of its own
        parts = hparams(shown, dict.fromkeys(metrics, 0.0))  # type: ignore[no-untyped-call]
        for part in parts:
            self._add(part, step)

    def flush(self) -> None:
        """Bring everything written so far to the disk.

        Raises:
            RunError: metrics.jsonl cannot be written.
        """
        try:
            os.fsync(self._metrics)
        except OSError as error:
            raise write_error(self._metrics_path, error, 0) from error
        if self._file is not None:
            self._on_tensorboard(self._file.flush)

    def close(self) -> None:
        """Flush and close both; closing twice does nothing more."""
        if self._file is not None:
            self._on_tensorboard(self._file.close)
        self._file = None
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

    def _start_tensorboard(self, folder: Path, purge_step: int) -> None:
        self._file = EventFile(folder, purge_step=purge_step)

    def _draw(self, step: int, summary: Callable[[], Any]) -> None:
        """Add what a function makes, which is not called where TensorBoard is off."""
        if self._file is not None:
            self._add(summary(), step)

    def _add(self, summary: Any, step: int) -> None:
        file = self._file
        if file is not None:
            self._on_tensorboard(lambda: file.add(summary, step))

    def _on_tensorboard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            file, self._file = self._file, None
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
            where = f" ({error.filename})" if error.filename else ""
            reason = f"{error.strerror or error}{where}"
            self._log(f"TensorBoard is off for the rest of this run, the run goes on: {reason}")


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


def _shown(value: Any) -> str | float:
    """A setting as TensorBoard's table takes it: a number, or a text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number or isinstance(value, str) else json.dumps(value)


def _is_up_to(line: bytes, resume_step: int | None) -> bool:
    if resume_step is None or not line.endswith(b"\n"):
        return False
    try:
        values = json.loads(line)
    except ValueError:
        return False
    step = values.get("step") if isinstance(values, dict) else None
    return isinstance(step, int) and step <= resume_step
