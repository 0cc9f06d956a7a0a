"""What `vpt report` prints and writes: sweeps as tables, CSV and plots."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.table import Table

from vpt.engine.progress import format_seconds
from vpt.engine.run_dir import write_json_atomic, write_text_atomic
from vpt.evaluation.sweep import UnitResult, suite_means
from vpt.reports.plots import Cloud, accuracy_plot, curves_plot
from vpt.reports.tables import (
    energy_words,
    file_size,
    gigaflops,
    markdown_table,
    mean_and_spread,
    paper_name,
    spread_words,
)
from vpt.storage.atomic_file import write_atomic

METRIC_NAMES = {"top1": "top-1", "mean_class_accuracy": "mean class accuracy"}
_NONE = "-"


@dataclass(frozen=True)
class SweepTable:
    """A table that can be printed, or written as Markdown.

    Attributes:
        title: what it is of.
        columns: the first is of words, the others of numbers.
        rows: cells.
        caption: how it was measured.
        details: columns that a terminal has no room for.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    details: tuple[str, ...] = ()

    def rich(self) -> Table:
        """For a terminal, without details."""
        shown = [number for number, name in enumerate(self.columns) if name not in self.details]
        table = Table(title=self.title, caption=self.caption)
        for number in shown:
            name = self.columns[number]
            table.add_column(name, justify="right" if number else "left", no_wrap=name != "Chosen")
        for row in self.rows:
            table.add_row(*(row[number] for number in shown))
        return table

    def markdown(self) -> str:
        """For a document."""
        return markdown_table(self.title, self.columns, self.rows, self.caption)


def sweep_tables(units: Sequence[UnitResult]) -> list[SweepTable]:
    """Of each sweep and backbone: one table of its methods; of a suite its means and its tasks.

    Args:
        units: of `read_sweep`, also of several sweeps, one after the other.
    """
    tables = []
    for _, group in groupby(units, key=lambda unit: (unit.sweep, unit.backbone)):
        own = list(group)
        if own[0].suite is not None:
            tables += [_means_table(own), _tasks_table(own)]
        else:
            tables.append(_methods_table(own))
    return tables


def _methods_table(units: Sequence[UnitResult]) -> SweepTable:
    """One row per method on one task."""
    first = units[0]
    columns = (
        "Method",
        "Test (%)",
        "Val (%)",
        "Parameters",
        "File",
        "GFLOPs",
        "Seconds",
        "Search",
        "Chosen",
    )
    return SweepTable(
        f"{first.task}, {first.backbone}",
        columns,
        tuple(_method_cells(unit) for unit in units),
        _caption(units),
        details=("Val (%)", "GFLOPs", "Search"),
    )


def _method_cells(unit: UnitResult) -> tuple[str, ...]:
    return (
        paper_name(unit.method),
        mean_and_spread(unit.tests) if unit.runs else _NONE,
        _percent(_chosen_value(unit)),
        _number(_trained(unit), "{:,.0f}"),
        _NONE if (size := unit.detail("prompt_bytes")) is None else file_size(size),
        gigaflops(unit.detail("step_flops")),
        _number(unit.mean_of("seconds"), "{:.1f}"),
        _search(unit),
        _chosen(unit),
    )


def _means_table(units: Sequence[UnitResult]) -> SweepTable:
    """A suite as papers show it: one row per method, one column per group of tasks."""
    first, tasks = units[0], units[0].planned_tasks
    rows = []
    for method, own in _by_method(units).items():
        means = suite_means(own, tasks)
        trained = [count for unit in own if (count := _trained(unit)) is not None]
        shown = [_percent(mean) for mean in means.values()]
        rows.append(
            (
                paper_name(method),
                *shown,
                f"{statistics.fmean(trained):,.0f}" if trained else _NONE,
                f"{sum(unit.is_over for unit in own)} of {sum(tasks.values())}",
            )
        )
    names = [f"{group} ({count})" for group, count in tasks.items()]
    return SweepTable(
        f"{first.suite}, {first.backbone}",
        ("Method", *names, "Mean of tasks", "Mean of groups", "Parameters", "Tasks"),
        tuple(rows),
        f"In percent. {_caption(units)}",
    )


def _tasks_table(units: Sequence[UnitResult]) -> SweepTable:
    """One row per task, one column per method."""
    first, methods = units[0], list(_by_method(units))
    rows = []
    for task in dict.fromkeys(unit.task for unit in units):
        found = {unit.method: unit for unit in units if unit.task == task}
        cells = [
            mean_and_spread(found[method].tests)
            if method in found and found[method].runs
            else _NONE
            for method in methods
        ]
        rows.append((task, *cells))
    return SweepTable(
        f"{first.suite} by task, {first.backbone}",
        ("Task", *map(paper_name, methods)),
        tuple(rows),
        _caption(units),
    )


def _by_method(units: Sequence[UnitResult]) -> dict[str, list[UnitResult]]:
    found: dict[str, list[UnitResult]] = {}
    for unit in units:
        found.setdefault(unit.method, []).append(unit)
    return found


def _caption(units: Sequence[UnitResult]) -> str:
    first = units[0]
    seeds = max((len(unit.seeds) for unit in units), default=0)
    learned = "training and validation" if first.train_on == "train_and_val" else "training"
    metric = METRIC_NAMES.get(first.metric, first.metric)
    words = [
        f"Test {metric}, {spread_words(seeds)}." if seeds else "Nothing is tested yet.",
        f"{first.planned_trials} settings of each method tried on validation, the best one then "
        f"trained on the {learned} images and tested, once per seed. Parameters: trained ones. "
        "GFLOPs: of a training step, per image. Seconds: of one tested run.",
    ]
    if energy := energy_words(*(unit.energy for unit in units)):
        words.append(energy)
    if any(unit.at_edge() for unit in units):
        words.append("* an end of what could be chosen: a better value may lie beyond.")
    diverged = sum(trial.diverged is not None for unit in units for trial in unit.trials)
    if diverged:
        words.append(f"{diverged} trials diverged and count as 0.")
    lost = sum(not run.test for unit in units for run in unit.runs)
    if lost:
        words.append(f"{lost} tested runs diverged and count as 0.")
    planned = sum(first.planned_tasks.values()) * len(_by_method(units))
    if len(units) < planned or not all(unit.is_over for unit in units):
        words.append("The sweep is not over.")
    return " ".join(words)


def _chosen(unit: UnitResult) -> str:
    if unit.chosen is None:
        return _NONE
    edges = unit.at_edge()
    return ", ".join(
        f"{name.rsplit('.', 1)[-1]} {_value(value)}{'*' * (name in edges)}"
        for name, value in unit.chosen.items()
    )


def _search(unit: UnitResult) -> str:
    """'8 in 2 min', or '3 of 8' while it goes on."""
    if len(unit.trials) < unit.planned_trials:
        return f"{len(unit.trials)} of {unit.planned_trials}"
    return f"{len(unit.trials)} in {format_seconds(unit.search_seconds)}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _chosen_value(unit: UnitResult) -> float | None:
    """What the chosen parameters had on validation."""
    return next(
        (trial.value for trial in unit.trials if trial.params == unit.chosen and not trial.pruned),
        None,
    )


def _trained(unit: UnitResult) -> int | None:
    parameters = unit.detail("parameters")
    return None if parameters is None else parameters["trained"]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


# ------------------------------------------------------------------------------------------- files


def write_report(units: Sequence[UnitResult], folder: Path) -> list[Path]:
    """Write report.md with its plots, report.json, and methods, trials and runs as CSV.

    Args:
        units: of `read_sweep`.
        folder: created where it is missing; earlier reports in it are replaced.

    Returns:
        The files.

    Raises:
        RunError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(units)
    for name, picture in plots.items():
        write_atomic(folder / name, [picture])
    tables = [table.markdown() for table in sweep_tables(units)]
    pictures = [f"![{name}]({name})\n" for name in plots]
    write_text_atomic(folder / "report.md", "\n".join([*tables, *pictures]))
    for name, rows in (
        ("methods.csv", map(_method_row, units)),
        ("trials.csv", (row for unit in units for row in _trial_rows(unit))),
        ("runs.csv", (row for unit in units for row in _run_rows(unit))),
    ):
        write_text_atomic(folder / name, _csv(rows))
    write_json_atomic(folder / "report.json", [unit.to_dict() for unit in units])
    names = ["report.md", *plots, "methods.csv", "trials.csv", "runs.csv", "report.json"]
    return [folder / name for name in names]


def _plots(units: Sequence[UnitResult]) -> dict[str, bytes]:
    """Accuracy against parameters of each task, and what each learning rate gave."""
    plots = {}
    key = attrgetter("sweep", "backbone", "task")
    places = {key(unit) for unit in units}
    telling = [number for number in range(3) if len({place[number] for place in places}) > 1]
    for place, group in groupby(units, key=key):
        own = list(group)
        first = own[0]
        name = "".join(f"_{_file_word(place[number])}" for number in telling)
        title = f"{first.task}, {first.backbone}"
        label = METRIC_NAMES.get(first.metric, first.metric)
        clouds = [
            Cloud(
                f"{paper_name(u.method)}: {mean_and_spread(u.tests)} %", trained, _hundred(u.tests)
            )
            for u in own
            if (trained := _trained(u)) is not None
        ]
        if clouds:
            plots[f"accuracy{name}.png"] = accuracy_plot(
                clouds, title=title, ylabel=f"Test {label} (%)"
            )
        curves = {paper_name(u.method): curve for u in own if (curve := _rate_curve(u))}
        if curves:
            plots[f"rates{name}.png"] = curves_plot(
                curves,
                title=f"{title}\nbest of all settings at each rate",
                xlabel="optim.lr (log scale)",
                ylabel=f"Validation {label} (%)",
            )
    return plots


def _rate_curve(unit: UnitResult) -> dict[float, float]:
    """The best value in percent that a method had at each learning rate."""
    curve: dict[float, float] = {}
    for trial in unit.trials:
        rate = trial.params.get("optim.lr")
        if isinstance(rate, int | float) and trial.value is not None:
            curve[rate] = max(curve.get(rate, 0.0), 100 * trial.value)
    return curve


def _hundred(values: Iterable[float]) -> list[float]:
    return [100 * value for value in values]


def _file_word(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text.lower()).strip("-")


def _place(unit: UnitResult) -> dict[str, Any]:
    names = ("sweep", "suite", "group", "task", "backbone", "method")
    return {name: getattr(unit, name) for name in names}


def _method_row(unit: UnitResult) -> dict[str, Any]:
    return {
        **_place(unit),
        "metric": unit.metric,
        "test_mean": unit.mean,
        "test_std": unit.std,
        "validation": _chosen_value(unit),
        "runs": len(unit.runs),
        "train_on": unit.train_on,
        "trained_parameters": _trained(unit),
        "prompt_bytes": unit.detail("prompt_bytes"),
        "seconds_per_run": unit.mean_of("seconds"),
        "peak_memory_bytes": unit.mean_of("peak_memory_bytes"),
        "images_per_second": unit.mean_of("images_per_second"),
        "forward_flops": unit.detail("forward_flops"),
        "step_flops": unit.detail("step_flops"),
        **{f"{each.scope}_joules": each.joules for each in unit.energy},
        "trials": len(unit.trials),
        "planned_trials": unit.planned_trials,
        "search_seconds": unit.search_seconds,
        "chosen": json.dumps(unit.chosen),
        "at_edge": " ".join(unit.at_edge()),
    }


def _trial_rows(unit: UnitResult) -> list[dict[str, Any]]:
    return [
        {
            **_place(unit),
            "params": json.dumps(trial.params),
            "validation": trial.value,
            "pruned": trial.pruned,
            "diverged": trial.diverged,
            "seconds": trial.seconds,
        }
        for trial in unit.trials
    ]


def _run_rows(unit: UnitResult) -> list[dict[str, Any]]:
    return [
        {
            **_place(unit),
            "seed": run.seed,
            "test": run.test.get(unit.metric),
            "seconds": run.details.get("seconds"),
            "peak_memory_bytes": run.details.get("peak_memory_bytes"),
            "run_dir": run.details.get("run_dir"),
        }
        for run in unit.runs
    ]


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows with their keys as header; '' where there are none."""
    rows = list(rows)
    if not rows:
        return ""
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
