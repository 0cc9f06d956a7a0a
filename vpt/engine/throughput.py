"""How fast a run is, and whether it is the data that it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

_START_STEPS = 20  # workers start, kernels are chosen, disks are cold
_WINDOW_STEPS, _WINDOW_SECONDS = 20, 5.0
_TOO_LONG = 0.25


class _Counts(Protocol):
    images: int
    train_seconds: float
    seconds: float


class Meter:
    """Images per second and the share of time spent waiting for data.

    Attributes:
        step_waited: seconds that the last step waited for its data.
        step_seconds: that it took altogether.
    """

    def __init__(self) -> None:
        self.began = self.last = self._free = time.monotonic()
        self.images = 0
        self.waited = 0.0
        self.step_waited = self.step_seconds = 0.0

    def wait(self, group: list[T]) -> list[T]:
        """Called as soon as the next data are there."""
        self.step_waited = time.monotonic() - max(self.last, self._free)
        self.waited += self.step_waited
        return group

    def ask(self) -> None:
        """Called as what follows a step is done, such as a checkpoint: no wait for data."""
        self._free = time.monotonic()

    def count(self, images: int, state: _Counts) -> None:
        """Called after each step."""
        now = time.monotonic()
        self.step_seconds = now - self.last
        state.seconds += self.step_seconds
        state.train_seconds += self.step_seconds
        state.images += images
        self.images += images
        self.last = now

    def speed(self) -> float:
        """Images per second."""
        return self.images / max(1e-9, self.last - self.began)

    def data_wait(self) -> float:
        """The share of the time, 0..1."""
        return self.waited / max(1e-9, self.last - self.began)


class DataWatch:
    """Tells once in a run that the data are its bottleneck, and what to change.

    Steps are judged in windows of at least 20 that take at least 5 seconds; the first 20 steps of
    all do not count.

    Args:
        advice: gives what to change, best first, perhaps nothing; asked once. None: not watched.
    """

    def __init__(self, advice: Callable[[], Sequence[str]] | None):
        self._advice = advice
        self._steps_to_skip = _START_STEPS
        self._begin()

    def _begin(self) -> None:
        self._steps, self._images, self._waited, self._seconds = 0, 0, 0.0, 0.0

    def after_step(self, images: int, *, waited: float, seconds: float) -> str | None:
        """The line, if it is due.

        Args:
            images: of the step.
            waited: seconds that it waited for them.
            seconds: that it took, waiting included.
        """
        if self._advice is None:
            return None
        if self._steps_to_skip:
            self._steps_to_skip -= 1
            return None
        self._steps, self._images = self._steps + 1, self._images + images
        self._waited, self._seconds = self._waited + waited, self._seconds + seconds
        if self._steps < _WINDOW_STEPS or self._seconds < _WINDOW_SECONDS:
            return None
        share = self._waited / self._seconds
        line = self._line(share, self._advice()) if share > _TOO_LONG else None
        self._begin()
        if line is not None:
            self._advice = None
        return line

    def _line(self, share: float, advice: Sequence[str]) -> str:
        alone = self._images / max(1e-9, self._seconds - self._waited)
        change = ", ".join(advice) or "nothing in the config: more cores or a faster disk would"
        return (
            f"data are the bottleneck: {share:.0%} of the time goes into waiting for them, "
            f"{self._images / self._seconds:,.0f} images/s come where the step alone would take "
            f"{alone:,.0f}; what helps: {change}"
        )
