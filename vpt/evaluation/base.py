"""The contract of all evaluators."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Evaluator(Protocol):
    """Gathers outputs and labels batch by batch, and computes metrics once at the end.

    Attributes:
        headline: names of the metrics for one line; empty: all of them.
    """

    headline: tuple[str, ...]

    def reset(self) -> None:
        """Forget everything."""

    def update(self, outputs: Any, labels: Tensor) -> None:
        """Take one batch: logits (B, C) and labels (B,), or B detections and their indices (B,)."""

    def compute(self) -> dict[str, float]:
        """Metric names to values over all batches since `reset`."""
