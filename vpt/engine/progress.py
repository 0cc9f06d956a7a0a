"""What a person sees of a running training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from vpt.data import LEFT_OUT

Log = Callable[[str], None]


@contextmanager
def said_if_slow(line: str, log: Log, *, seconds: float = 2.0) -> Iterator[None]:
    """Log a line once what is done inside has taken longer than a moment.

    Args:
        line: e.g. 'loading backbone ...'.
        log: takes plain lines; of several processes only the first one's says anything.
        seconds: after which the line is logged.
    """
    timer = threading.Timer(seconds, log, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def loading_line(backbone: str, weights: Path | None, *, pretrained: bool = True) -> str:
    """What is said while a backbone is loaded: its name, and where its weights come from."""
    if weights is not None:
        source = f" (weights: {weights})"
    elif pretrained and not backbone.startswith("bundled/"):
        source = " (weights: Hugging Face's cache, or https://huggingface.co)"
    else:
        source = ""
    return f"loading backbone {backbone}{source} ..."


class LeftOut:
    """A log that also keeps the lines about what was left out of the data.

    Attributes:
        lines: what and why, without the beginning that all of them have.
    """

    def __init__(self, log: Log):
        self.lines: list[str] = []
        self._log = log

    def __call__(self, line: str) -> None:
        """Pass the line on, and keep it if it is of that kind."""
        if line.startswith(LEFT_OUT):
            self.lines.append(line.removeprefix(LEFT_OUT))
        self._log(line)


class TrainingProgress:
    """Optimiser steps done, with ETA, images/s and the share of time spent waiting for data.

    Args:
        total_steps: of the whole run.
        start_step: done before, by the run that this one goes on from.
        console: on a terminal a bar is drawn there; else every `line_seconds` one line goes to
            `log`.
        log: takes plain lines.
        line_seconds: between plain lines.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        *,
        console: Console,
        log: Log,
        line_seconds: float = 15.0,
    ):
        self._total, self._start, self._log = total_steps, start_step, log
        self._line_seconds = line_seconds
        self._began = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (
                BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.description}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=total_steps, completed=start_step)

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(
        self, step: int, *, epoch: int, loss: float, images_per_second: float, data_wait: float
    ) -> None:
        """Tell of one optimiser step.

        Args:
            step: optimiser steps done.
            epoch: 0-based.
            loss: mean over the steps since the last log.
            images_per_second: of the last steps.
            data_wait: share of time spent waiting for data.
        """
        speed = f"{images_per_second:.0f} images/s, {data_wait:.0%} data wait"
        text = f"epoch {epoch + 1} loss {loss:.4f} {speed}"
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        elif time.monotonic() - self._last_line >= self._line_seconds:
            self._last_line = time.monotonic()
            self._log(f"step {step}/{self._total} {text}, ETA {self._eta(step)}")

    def _eta(self, step: int) -> str:
        spent = time.monotonic() - self._began
        rest = spent / max(1, step - self._start) * (self._total - step)
        return format_seconds(rest)


@contextmanager
def images_progress(total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    """A bar over images on a terminal, and what moves it on by so many; nothing elsewhere."""
    if console is None or not console.is_terminal:
        yield lambda count: None
        return
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} images"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def format_seconds(seconds: float) -> str:
    """'2h05m', '3m20s' or '42s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@contextmanager
def bytes_progress(
    name: str, console: Console, log: Log, *, line_seconds: float = 15.0
) -> Iterator[Callable[[int, int | None], None]]:
    """What shows how much of a file has come: a bar on a terminal, elsewhere a line now and then.

    Args:
        name: of the file.
        console: on a terminal a bar is drawn there.
        log: takes plain lines, else.
        line_seconds: between plain lines.

    Yields:
        A function of the bytes that are there and how many there will be (None: not known).
    """
    if not console.is_terminal:
        yield _byte_lines(name, log, line_seconds)
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a name of somebody else
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _byte_lines(name: str, log: Log, line_seconds: float) -> Callable[[int, int | None], None]:
    began = last = time.monotonic()
    start: int | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal last, start
        start = done if start is None else start
        now = time.monotonic()
        if now - last < line_seconds:
            return
        last = now
        speed = (done - start) / max(now - began, 1e-9)
        eta = f", ETA {format_seconds((total - done) / speed)}" if total and speed else ""
        of = f" of {format_bytes(total)}" if total else ""
        log(f"{name}: {format_bytes(done)}{of}, {format_bytes(round(speed))}/s{eta}")

    return show


def format_bytes(count: int) -> str:
    """'1.1 GB', '64.3 MB', '481 kB' or '502 bytes'; powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB" if count >= 1000 else f"{count} bytes"
