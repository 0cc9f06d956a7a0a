"""The tables, plots and files of CLIP evaluations."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.markup import escape
from rich.table import Table

from vpt.engine.run_dir import write_json_atomic, write_text_atomic
from vpt.evaluation import (
    FREE_BASELINES,
    BaseAndNew,
    BaseToNew,
    ClipEvaluation,
    FewShot,
    Measured,
    MethodRuns,
    average_base_to_new,
    harmonic_mean,
    short_names,
    to_clip_benchmark,
)
from vpt.reports.plots import png
from vpt.reports.tables import (
    file_size,
    markdown_table,
    mean_and_spread,
    paper_name,
    spread_words,
)
from vpt.storage.atomic_file import write_atomic, write_error

SHOTS_PER_TABLE = 5
"""Columns of shots that fit on 100 characters; more of them go into further tables."""

ASIDE = 1.04
"""Factor between the places of two methods at the same shots, so that neither hides the other."""

NOTHING = "–"  # noqa: RUF001 - an en dash, as in printed tables
SLUG_LENGTH = 150
"""Characters in the name of a record's file; file systems allow 255 bytes."""

_RECORD = re.compile(r"\d+_.+\.json")

HARMONIC_COLUMNS = ("HM of means\n(published)", "Mean of\nHMs")


@dataclass(frozen=True)
class _Grid:
    """A table before it is decided how it is written; a line break in a cell is a space there."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str

    def to_rich(self) -> Table:
        wide = len(self.columns) > SHOTS_PER_TABLE + 2
        table = Table(title=escape(self.title), caption=escape(self.caption), pad_edge=not wide)
        for number, column in enumerate(self.columns):
            table.add_column(
                column, justify="right" if number else "left", no_wrap=bool(number), overflow="fold"
            )
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def to_markdown(self) -> str:
        columns, *rows = [
            [cell.replace("\n", " ").replace("|", "\\|") for cell in row]
            for row in (self.columns, *self.rows)
        ]
        return markdown_table(self.title, columns, rows, self.caption)


def clip_tables(result: ClipEvaluation) -> list[Table]:
    """Zero-shot and prompt files, few-shot, base-to-new: a table of each that was measured."""
    return [grid.to_rich() for grid in _grids(result)]


def clip_markdown(result: ClipEvaluation) -> str:
    """The same tables as Markdown, with titles and captions around them."""
    return "\n".join(grid.to_markdown() for grid in _grids(result))


def average_table(results: Sequence[ClipEvaluation]) -> Table:
    """Means over data sets, each of equal weight, of what was measured on all of them."""
    return _average_grid(results).to_rich()


def read_clip_evaluation(directory: Path) -> ClipEvaluation | None:
    """What `write_clip_evaluation` wrote there; None where it wrote nothing that can be read."""
    try:
        values = json.loads((directory / "result.json").read_text(encoding="utf-8"))
        return ClipEvaluation.from_dict(values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_clip_evaluation(result: ClipEvaluation, directory: Path) -> None:
    """Write result.json, table.md, few_shot.png and clip_benchmark/<number>_<what>.json.

    The directory is created where it is missing. An earlier evaluation's plot and records that
    this one does not replace are removed, so that nobody gathers numbers of two settings.

    Raises:
        RunError: a file cannot be written.
    """
    records = _named_records(result)
    folder = directory / "clip_benchmark"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.iterdir():
            if _RECORD.fullmatch(earlier.name) and earlier.name not in records:
                earlier.unlink()
        if not result.few_shot:
            (directory / "few_shot.png").unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder, error, 0) from error
    write_text_atomic(directory / "table.md", clip_markdown(result))
    if result.few_shot:
        write_atomic(directory / "few_shot.png", [clip_plot(result)])
    for name, record in records.items():
        write_json_atomic(folder / name, record)
    write_json_atomic(directory / "result.json", result.to_dict())


def clip_plot(result: ClipEvaluation) -> bytes:
    """Test top-1 against shots, one line per method, as a PNG of 1200 x 750 px."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    methods = _few_shot_methods(result.few_shot)
    for number, method in enumerate(methods):
        aside = ASIDE ** (number - (len(methods) - 1) / 2)
        _draw_method(axes, result, method, colour=f"C{number}", aside=aside)
    _draw_axes(axes, result)
    return png(figure)


def _draw_method(
    axes: Axes, result: ClipEvaluation, method: str, *, colour: str, aside: float
) -> None:
    """Means over the seeds with their spread, a little aside of the shots that were measured."""
    measured = sorted(
        (few.shots, few.methods[method]) for few in result.few_shot if method in few.methods
    )
    axes.errorbar(
        [shots * aside for shots, _ in measured],
        [100 * runs.top1_mean for _, runs in measured],
        [100 * runs.top1_std for _, runs in measured],
        fmt="s:" if method in FREE_BASELINES else "o-",
        color=colour,
        markersize=6,
        capsize=5,
        label=paper_name(method),
    )


def _draw_axes(axes: Axes, result: ClipEvaluation) -> None:
    setting = result.setting
    shots = sorted(few.shots for few in result.few_shot)
    label = f"{paper_name('zero_shot')}: {_percent(result.zero_shot.top1)} %"
    axes.axhline(100 * result.zero_shot.top1, color="0.3", linestyle="--", label=label)
    spread = spread_words(len(_seeds(result)))
    axes.set_title(f"{setting['dataset']}, {setting['backbone']}\n{spread}", fontsize="medium")
    axes.set_xlabel("Training images per class (log scale)")
    axes.set_ylabel("Test top-1 (%)")
    axes.set_xscale("log", base=2)
    if shots:
        axes.set_xlim(shots[0] / 1.4, shots[-1] * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)


def _grids(result: ClipEvaluation) -> list[_Grid]:
    grids = [_zero_shot_grid(result)]
    for start in range(0, len(result.few_shot), SHOTS_PER_TABLE):
        grids.append(_few_shot_grid(result, result.few_shot[start : start + SHOTS_PER_TABLE]))
    if result.base_to_new is not None:
        grids.append(_base_to_new_grid(result, result.base_to_new))
    return grids


def _zero_shot_grid(result: ClipEvaluation) -> _Grid:
    files = result.prompt_files
    rows = [(paper_name("zero_shot"), result.zero_shot, NOTHING)]
    for name, file in zip(short_names([file.file for file in files]), files, strict=True):
        mark = " *" if file.class_names_differ else ""
        rows.append((f"{name}{mark}", file.measured, _signed(result.prompt_file_gain(file))))
    measured = [one for _, one, _ in rows]
    columns = {
        "Model": [name for name, _, _ in rows],
        "Top-1 (%)": [_percent(one.top1) for one in measured],
        "Gain": [gain for _, _, gain in rows],
        "Top-5 (%)": [_top5(one) for one in measured],
        "Balanced (%)": [_percent(one.metrics["mean_class_accuracy"]) for one in measured],
        "NLL": [f"{one.metrics['loss']:.3f}" for one in measured],
        "ECE (%)": [_percent(one.metrics["calibration_error"]) for one in measured],
    }
    if not any("top5" in one.metrics for one in measured):
        del columns["Top-5 (%)"]
    if not files:
        del columns["Gain"]
    return _Grid(
        title=_title(result, "zero-shot and prompt files" if files else "zero-shot"),
        columns=tuple(columns),
        rows=list(zip(*columns.values(), strict=True)),
        caption=_caption(result, *_zero_shot_notes(result, measured)),
    )


def _zero_shot_notes(result: ClipEvaluation, measured: Sequence[Measured]) -> list[str]:
    images = sorted({one.images for one in measured})
    notes = [f"{' or '.join(f'{count:,}' for count in images)} test images."]
    notes.append("Balanced: mean accuracy of the classes.")
    if result.prompt_files:
        notes.append(
            "Prompt files: one run each; gain: points of top-1 over zero-shot, as a file does not "
            "tell the shots of its training."
        )
    if any(file.class_names_differ for file in result.prompt_files):
        notes.append("*: trained with other class names.")
    return notes


def _few_shot_grid(result: ClipEvaluation, few_shot: Sequence[FewShot]) -> _Grid:
    """A row per method, the free baselines first; beside each trained one's number its gain."""
    constant = [_percent(result.zero_shot.top1)] * len(few_shot)
    rows: list[tuple[str, ...]] = [(paper_name("zero_shot"), *constant, "0", NOTHING)]
    for method in _few_shot_methods(few_shot):
        measured = [few.methods.get(method) for few in few_shot]
        first = next(runs for runs in measured if runs is not None)
        sizes = (f"{first.trained_parameters:,}", file_size(first.file_bytes))
        cells = [_few_shot_cell(result, few, method) for few in few_shot]
        rows.append((paper_name(method), *cells, *sizes))
    return _Grid(
        title=_title(result, "few-shot, test top-1 (%)"),
        columns=("Method", *(_shots(few.shots) for few in few_shot), "Trained", "File"),
        rows=rows,
        caption=_caption(
            result,
            f"{_seed_words(result)}.",
            "In brackets: points gained over the best free baseline at these shots, the better of "
            "zero-shot and linear from text.",
            *_selection(result),
            "Trained: number of parameters.",
        ),
    )


def _few_shot_cell(result: ClipEvaluation, few: FewShot, method: str) -> str:
    if method not in few.methods:
        return NOTHING
    cell = mean_and_spread([run.top1 for run in few.methods[method].runs])
    if method in FREE_BASELINES:
        return cell
    return f"{cell}\n({_signed(result.gain(method, few.shots))})"


def _base_to_new_grid(result: ClipEvaluation, halves: BaseAndNew) -> _Grid:
    base, new = halves.means("zero_shot")
    rows: list[tuple[str, ...]]
    zero_shot_hm = _percent(harmonic_mean(base, new))
    rows = [
        (
            paper_name("zero_shot"),
            _percent(base),
            _percent(new),
            zero_shot_hm,
            zero_shot_hm,
            NOTHING,
        )
    ]
    for name, method in halves.methods.items():
        rows.append(
            (
                paper_name(name),
                f"{mean_and_spread([run.top1 for run in method.base])}\n"
                f"({_signed(method.base_mean - base)})",
                f"{mean_and_spread([run.top1 for run in method.new])}\n"
                f"({_signed(method.new_mean - new)})",
                _percent(method.harmonic_mean_of_means),
                _percent(method.mean_of_harmonic_means),
                _signed(halves.forgetting(name)),
            )
        )
    return _Grid(
        title=_title(result, f"base to new, {_base_to_new_shots(halves)}test top-1 (%)"),
        columns=("Method", "Base", "New", *HARMONIC_COLUMNS, "Forgetting"),
        rows=rows,
        caption=_caption(
            result,
            f"Trained on the {len(halves.zero_shot_base.per_class)} base classes, tested on them "
            f"and on the {len(halves.zero_shot_new.per_class)} new ones, each among themselves.",
            f"{_seed_words(result)}; in brackets: points gained "
            "over zero-shot, the only free baseline that can name new classes.",
            "HM: harmonic mean of base and new, published as that of the means over seeds, and as "
            "the mean of each seed's. Forgetting: points lost on the new classes.",
            *_selection(result),
        ),
    )


def _average_grid(results: Sequence[ClipEvaluation]) -> _Grid:
    """Columns of what all data sets have; a method that one of them lacks has no number there."""
    shots = [
        few.shots
        for few in results[0].few_shot
        if all(result.at_shots(few.shots) is not None for result in results)
    ]
    halves = [result.base_to_new for result in results]
    in_halves = [half.methods for half in halves if half is not None]
    with_halves = len(in_halves) == len(results)
    in_few_shot = [few.methods for result in results for few in result.few_shot]
    methods = _union([*in_few_shot, *(in_halves if with_halves else [])])
    columns = ["Method", *(_shots(count).replace(" ", "\n") for count in shots or ())]
    if not shots:
        columns.append("All classes")
    if with_halves:
        columns += ["Base", "New", *HARMONIC_COLUMNS]
    rows = []
    for method in ("zero_shot", *methods):
        row = [paper_name(method)]
        row += [_average_few_shot(results, method, count) for count in shots or (None,)]
        if with_halves:
            row += _average_halves(results, method)
        rows.append(tuple(row))
    names = ", ".join(result.setting["dataset"] for result in results)
    return _Grid(
        title=f"Mean of {len(results)} data sets, test top-1 (%)",
        columns=tuple(columns),
        rows=rows,
        caption=_average_caption(results, names, with_gains=bool(shots), with_halves=with_halves),
    )


def _average_few_shot(results: Sequence[ClipEvaluation], method: str, shots: int | None) -> str:
    if method == "zero_shot":
        return _percent(statistics.fmean(result.zero_shot.top1 for result in results))
    few_shot = [result.at_shots(shots) for result in results]
    runs = [few.methods[method] for few in few_shot if few is not None and method in few.methods]
    if len(runs) < len(results):
        return NOTHING
    mean = _percent(statistics.fmean(one.top1_mean for one in runs))
    if method in FREE_BASELINES:
        return mean
    pairs = zip(results, runs, strict=True)
    return f"{mean}\n({_signed(statistics.fmean(r.gain(method, one.shots) for r, one in pairs))})"


def _average_halves(results: Sequence[ClipEvaluation], method: str) -> list[str]:
    known = [
        half is not None and method in ("zero_shot", *half.methods)
        for half in (result.base_to_new for result in results)
    ]
    if not all(known):
        return [NOTHING] * 4
    return [_percent(value) for value in average_base_to_new(results, method).values()]


def _average_caption(
    results: Sequence[ClipEvaluation], names: str, *, with_gains: bool, with_halves: bool
) -> str:
    backbones = _union([[result.setting["backbone"]] for result in results])
    seeds = _union([_seeds(result) for result in results])
    notes = [f"{names}; {', '.join(backbones)}."]
    if seeds:
        notes.append(f"Seeds: {', '.join(seeds)}.")
    if with_gains:
        notes.append(
            "In brackets: mean over data sets of the points gained over the best free baseline of "
            "each, the better of zero-shot and linear from text."
        )
    if with_halves:
        notes.append(
            "HM: harmonic mean of base and new, published as that of the two means over data "
            "sets, and as the mean of each data set's."
        )
    return " ".join(notes)


def _named_records(result: ClipEvaluation) -> dict[str, dict[str, Any]]:
    """File names to records, numbered in the order of the tables."""
    records = to_clip_benchmark(result)
    digits = len(str(len(records)))
    named = {}
    for number, record in enumerate(records, start=1):
        words = (record["dataset"], record["model"], record["pretrained"])
        slug = "_".join(re.sub(r"[^\w.+]+", "-", word).strip("-") for word in words if word)
        named[f"{number:0{digits}}_{slug[:SLUG_LENGTH]}.json"] = record
    return named


def _title(result: ClipEvaluation, what: str) -> str:
    return f"{result.setting['dataset']}: {what}"


def _caption(result: ClipEvaluation, *notes: str) -> str:
    """What every number of the evaluation depends on, then what is special to a table."""
    setting = result.setting
    common = (
        f"{setting['dataset']}, {setting['classes']} classes; {setting['backbone']}; "
        f"{_templates(setting)}."
    )
    return " ".join([common, *notes])


def _templates(setting: dict[str, Any]) -> str:
    if setting.get("class_prompts"):
        return "sentences of each class's own"
    templates = setting["templates"]
    if isinstance(templates, str):
        return f"templates '{templates}'"
    if not templates:
        return "no template"
    first = f"'{templates[0]}'"
    return f"template {first}" if len(templates) == 1 else f"{len(templates)} templates, {first}, …"


def _base_to_new_shots(halves: BaseAndNew) -> str:
    shots = {method.shots for method in halves.methods.values()}
    return f"{_shots(shots.pop())}, " if len(shots) == 1 else ""


def _few_shot_methods(few_shot: Iterable[FewShot]) -> list[str]:
    """In the order of the config, the free baseline first."""
    methods = _union([few.methods for few in few_shot])
    return sorted(methods, key=lambda method: method not in FREE_BASELINES)


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in the order of its first appearance."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _shots(count: int) -> str:
    return f"{count} shot{'s' if count > 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _top5(measured: Measured) -> str:
    return _percent(measured.metrics["top5"]) if "top5" in measured.metrics else NOTHING


def _signed(difference: float) -> str:
    """Percentage points with their sign; what rounds to nothing is +0.0."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def _seeds(result: ClipEvaluation) -> list[str]:
    """Of all its runs; none where nothing was trained."""
    runs: list[MethodRuns | BaseToNew] = []
    for few in result.few_shot:
        runs += few.methods.values()
    if result.base_to_new is not None:
        runs += result.base_to_new.methods.values()
    return _union([map(str, one.seeds) for one in runs])


def _seed_words(result: ClipEvaluation) -> str:
    seeds = _seeds(result)
    if not seeds:
        return "Nothing was trained"
    words = spread_words(len(seeds))
    return f"{words[0].upper()}{words[1:]} ({', '.join(seeds)})"


def _selection(result: ClipEvaluation) -> list[str]:
    """How a run's model was selected, where the setting tells it."""
    rule = result.setting.get("selection")
    return [] if rule is None else [f"Selection: {rule}."]
