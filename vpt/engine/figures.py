"""Pictures of measured numbers, as pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_TICKS = 30
"""Most classes whose names, and counts, still fit into a picture."""

_MOST_LETTERS = 24
"""Of a class name in a picture."""


def draw_confusion_matrix(
    counts: Tensor, class_names: Sequence[str] | None = None, *, title: str = ""
) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 picture of a matrix, its cells coloured as shares of their row.

    Args:
        counts: (C, C), rows are the true classes, columns the predicted ones. Up to 30 classes
            have their counts written into the cells.
        class_names: C names, written beside as many; of another number they are left out.
        title: a line above.
    """
    counts = counts.detach().cpu().to(torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    size = len(counts)
    is_small = size <= _MOST_TICKS
    figure, axes = _new_figure(max(0.0, 0.38 * (size - 10)) if is_small else 3.0)
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true", title=_plain(title))
    if not is_small:
        return _pixels(figure)
    if class_names is not None and len(class_names) == size:
        names = [_plain(_shortened(name)) for name in class_names]
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
    for row, column in torch.nonzero(counts).tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        text, letters = f"{counts[row, column]:.0f}", 10 if size <= 16 else 8
        axes.text(column, row, text, color=colour, fontsize=letters, ha="center", va="center")
    return _pixels(figure)


def draw_precision_recall(curves: Mapping[str, Sequence[float]]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 picture of a curve per class, and of their mean in black.

    Args:
        curves: by class, precision at evenly spaced recalls 0..1; named for up to 30 classes.
    """
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


def _new_figure(more_inches: float = 0.0) -> tuple[Any, Any]:
    """Figure and axes without pyplot: no global state, no display, nothing to close."""
    from matplotlib.figure import Figure

    size = (7 + more_inches, 6 + more_inches)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    return figure, figure.subplots()


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def _plain(name: str) -> str:
    """A class name as matplotlib writes it as it is: '$' starts mathematics there."""
    return name.replace("$", r"\$")


def _pixels(figure: Any) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()
