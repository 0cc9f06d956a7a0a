"""Plots that several reports draw."""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter


@dataclass(frozen=True)
class Cloud:
    """Several measurements at one place.

    Attributes:
        label: of the legend.
        x: the place.
        values: the measurements, in percent.
    """

    label: str
    x: float
    values: Sequence[float]


def accuracy_plot(clouds: Iterable[Cloud], *, title: str, ylabel: str) -> bytes:
    """Accuracy against trained parameters as a PNG, 1200 px wide.

    Of each cloud the mean is a large point, the sample standard deviation a bar, and each
    measurement a small point.
    """
    clouds = list(clouds)
    figure = Figure(figsize=(8, 4.2 + 0.14 * len(clouds)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, cloud in enumerate(clouds):
        _draw_cloud(axes, cloud, colour=f"C{number}", marker="os^D"[number // 10 % 4])
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("Trained parameters (log scale)")
    axes.set_ylabel(ylabel)
    axes.set_xscale("log")
    sizes = [cloud.x for cloud in clouds]
    axes.set_xlim(min(sizes) / 2, max(sizes) * 2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: _count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _finish(axes)
    return png(figure)


def _draw_cloud(axes: Axes, cloud: Cloud, *, colour: str, marker: str) -> None:
    values = list(cloud.values)
    axes.plot(
        [cloud.x] * len(values), values, marker, color=colour, alpha=0.35, markersize=5, zorder=2
    )
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    axes.errorbar(
        cloud.x,
        statistics.fmean(values),
        spread,
        fmt=marker,
        color=colour,
        markersize=10,
        capsize=6,
        zorder=3,
        label=cloud.label,
    )


def curves_plot(
    curves: Mapping[str, Mapping[float, float]], *, title: str, xlabel: str, ylabel: str
) -> bytes:
    """One line per name through its points (x above 0 on a log scale, y in percent), as a PNG."""
    figure = Figure(figsize=(8, 4.2 + 0.14 * len(curves)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        xs = sorted(points)
        ys = [points[x] for x in xs]
        style: dict[str, Any] = {"color": f"C{number}", "marker": "os^D"[number // 10 % 4]}
        axes.plot(xs, ys, label=name, markersize=5, **style)
        best = max(xs, key=lambda x: points[x])
        axes.plot([best], [points[best]], markersize=11, linestyle="", **style)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xscale("log")
    _finish(axes)
    return png(figure)


def _finish(axes: Axes) -> None:
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _count(value: float) -> str:
    """1k, 300k, 2M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
