"""A benchmark as tables for people, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from vpt.reports.benchmark import Benchmark, Measured, Pass, Ratio, Setting
from vpt.reports.plots import png
from vpt.reports.timing import Spread


def times_table(result: Benchmark) -> Table:
    """What was measured: medians, and FLOP/s as a share of a bare matrix product's."""
    on_gpu = any(each.peak_bytes is not None for each in result.measured)
    table = Table(title=_title(result), caption=_caption(result))
    for heading in ("variant", "setting"):
        table.add_column(heading)
    for heading in ("training step", "inference", "saved MB", *(["peak GB"] if on_gpu else [])):
        table.add_column(heading, justify="right")
    for number, each in enumerate(result.measured):
        if number and each.setting != result.measured[number - 1].setting:
            table.add_section()
        numbers = [_pass_words(each, each.training), _pass_words(each, each.inference)]
        numbers.append("" if each.saved_bytes is None else f"{each.saved_bytes / 1e6:.1f}")
        if on_gpu:
            numbers.append("" if each.peak_bytes is None else f"{each.peak_bytes / 1e9:.2f}")
        table.add_row(each.variant, _differing(each.setting, result), *numbers)
    return table


def _pass_words(each: Measured, done: Pass | None) -> str:
    """'1.858 s 4.3/s 77%'."""
    if done is None:
        return ""
    seconds = Spread.of(done.seconds).median
    return f"{seconds:.3f} s {each.setting.batch_size / seconds:.1f}/s {done.achieved.median:.0%}"


def ratios_table(result: Benchmark) -> Table:
    """Variants against each other, turn by turn: median (lowest-highest)."""
    table = Table(title="time over time, turn by turn: median (lowest-highest)")
    for heading in ("", "setting", "training step", "inference", "saved activations"):
        table.add_column(heading, justify="left" if heading in ("", "setting") else "right")
    for number, ratio in enumerate(result.ratios):
        if number and ratio.setting != result.ratios[number - 1].setting:
            table.add_section()
        table.add_row(
            f"{ratio.variant} / {ratio.to}",
            _differing(ratio.setting, result),
            "" if ratio.training is None else str(ratio.training),
            "" if ratio.inference is None else str(ratio.inference),
            "" if ratio.saved is None else f"{ratio.saved:.2f}",
        )
    return table


def benchmark_plot(result: Benchmark) -> bytes:
    """Times per image over the backbone alone along the axis, training and inference, as a PNG.

    Along the model, the batch and the image size the backbone alone grows too, so what is drawn is
    the ratio; where there is no backbone alone, milliseconds per image.
    """
    to_backbone = [ratio for ratio in result.ratios if ratio.to == "backbone"]
    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    panels: Any = figure.subplots(1, 2)
    for axes, name in zip(panels, ("training", "inference"), strict=True):
        if to_backbone:
            _draw_ratios(axes, to_backbone, name, result)
        else:
            _draw_times(axes, name, result)
        axes.set_title("training step" if name == "training" else "inference", fontsize="medium")
        axes.set_xlabel(_AXES[result.axis])
        axes.tick_params(axis="x", rotation=15 if result.axis == "model" else 0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(result), fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return png(figure)


_AXES = {
    "num_tokens": "prompt tokens per layer",
    "batch_size": "images per batch",
    "image_size": "image side in pixels",
    "model": "model",
    "num_classes": "classes",
}


def _draw_ratios(axes: Axes, ratios: Sequence[Ratio], name: str, result: Benchmark) -> None:
    lines: dict[str, list[tuple[Any, Spread]]] = {}
    for ratio in ratios:
        spread: Spread | None = getattr(ratio, name)
        if spread is not None:
            line = _line(ratio.variant, ratio.setting)
            lines.setdefault(line, []).append((_place(ratio.setting, result), spread))
    _draw(axes, lines)
    axes.axhline(1.0, color="black", linewidth=1, linestyle=":")
    axes.set_ylabel("time / backbone alone")


def _draw_times(axes: Axes, name: str, result: Benchmark) -> None:
    lines: dict[str, list[tuple[Any, Spread]]] = {}
    for each in result.measured:
        done: Pass | None = getattr(each, name)
        if done is not None:
            spread = Spread.of([1e3 * s / each.setting.batch_size for s in done.seconds])
            line = _line(each.variant, each.setting)
            lines.setdefault(line, []).append((_place(each.setting, result), spread))
    _draw(axes, lines)
    axes.set_ylabel("milliseconds per image")


def _draw(axes: Axes, lines: dict[str, list[tuple[Any, Spread]]]) -> None:
    for number, (label, points) in enumerate(lines.items()):
        medians = [spread.median for _, spread in points]
        below = [spread.median - spread.lowest for _, spread in points]
        above = [spread.highest - spread.median for _, spread in points]
        axes.errorbar(
            [place for place, _ in points],
            medians,
            (below, above),
            marker="os^Dv"[number % 5],
            color=f"C{number}",
            capsize=3,
            label=label,
        )
    axes.set_ylim(bottom=0)


def _place(setting: Setting, result: Benchmark) -> Any:
    value = getattr(setting, result.axis)
    return str(value).rpartition("/")[2] if result.axis == "model" else value


def _line(variant: str, setting: Setting) -> str:
    compiled = "" if setting.compile_mode == "none" else f", compiled ({setting.compile_mode})"
    return f"{variant}, {setting.precision}{compiled}"


_WORDS = {
    "model": "{}",
    "image_size": "{} px",
    "batch_size": "batch {}",
    "num_tokens": "{} tokens",
    "num_classes": "{} classes",
    "precision": "{}",
    "compile_mode": "compiled: {}",
}


def _differing(setting: Setting, result: Benchmark) -> str:
    """What sets a setting apart from the others."""
    others = [each.setting for each in result.measured]
    return ", ".join(
        words.format(getattr(setting, name))
        for name, words in _WORDS.items()
        if len({getattr(each, name) for each in others}) > 1
    )


def _title(result: Benchmark) -> str:
    """What all settings share."""
    settings = [each.setting for each in result.measured]
    return ", ".join(
        words.format(getattr(settings[0], name))
        for name, words in _WORDS.items()
        if len({getattr(each, name) for each in settings}) == 1
        and getattr(settings[0], name) not in (None, "none")
    )


def _caption(result: Benchmark) -> str:
    agreement = result.agreement
    return (
        "a batch: seconds, images/s, share of a bare product's rate; saved: per image\n"
        f"{result.device}{', TF32' if result.tf32 else ''}, threads {result.threads}, "
        f"turns {result.turns}, torch {result.torch_version}\n"
        f"context differs from insertion by {agreement.logits:.1e} in logits and "
        f"{agreement.gradients:.1e} (relative) in gradients;\n"
        f"prompts change logits by {agreement.prompt_effect:.1e}"
    )
