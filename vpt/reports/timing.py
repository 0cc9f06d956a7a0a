"""Timing by turns: medians with ranges, and a machine that is set as before afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vpt.errors import ConfigError

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median and the range around it."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


def seconds_of(run: Run, device: torch.device) -> float:
    """How long one run takes, until the device has done it."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_positive(**numbers: int) -> None:
    """Refuse numbers below 1, by name.

    Raises:
        ConfigError: naming it.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} {number} measures nothing; use 1 or more")
