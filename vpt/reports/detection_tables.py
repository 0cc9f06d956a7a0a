"""The table of detector comparisons."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from vpt.engine.run_dir import write_json_atomic, write_text_atomic
from vpt.evaluation.comparison import Comparison, DetectorResult
from vpt.reports.tables import (
    energy_words,
    file_size,
    gigaflops,
    markdown_table,
    mean_and_spread,
    paper_name,
    rate_words,
    spread_words,
)

COLUMNS = ("Method", "AP (%)", "AP50 (%)", "Parameters", "Seconds", "Memory")
"""Few enough for a terminal of 80 characters; rates and file sizes are in result.json."""

_WIDE = (*COLUMNS, "GFLOPs")


def detection_table(result: Comparison[DetectorResult]) -> Table:
    """One row per method: test AP and AP50, what is trained, how long and in how much memory."""
    table = Table(title=_title(result), caption=_caption(result))
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, method in result.methods.items():
        table.add_row(*_cells(name, method))
    return table


def write_detection(result: Comparison[DetectorResult], directory: Path) -> None:
    """Write result.json and table.md into an existing directory.

    Raises:
        RunError: a file cannot be written.
    """
    rows = [
        (*_cells(name, method), gigaflops(method.step_flops))
        for name, method in result.methods.items()
    ]
    caption = f"{_caption(result)} GFLOPs: of a training step, per image."
    text = markdown_table(_title(result), _WIDE, rows, caption)
    write_text_atomic(directory / "table.md", text)
    write_json_atomic(directory / "result.json", result.to_dict())


def _cells(name: str, method: DetectorResult) -> tuple[str, ...]:
    return (
        paper_name(name),
        mean_and_spread(method.test_ap),
        mean_and_spread(method.test_ap50),
        f"{method.parameters['trained']:,}",
        f"{method.seconds:.1f}",
        file_size(method.peak_memory_bytes),
    )


def _title(result: Comparison[DetectorResult]) -> str:
    setting = result.setting
    images = setting["images"]["train"]
    place = f"{setting['backbone']} at {setting['image_size']} px"
    return f"{setting['dataset']}\n{images} training images, {place}"


def _caption(result: Comparison[DetectorResult]) -> str:
    rates = rate_words(result.setting["trials_per_method"])
    energy = energy_words(result.tested.energy, result.tried.energy)
    return (
        f"Test AP: {spread_words(len(result.seeds))}. Parameters: trained ones, neck and head "
        f"included. Rates: {rates}. Seconds: of one run; "
        f"{result.seconds:.0f} s in all. Memory: peak of a run's process. {energy}"
    ).rstrip()
