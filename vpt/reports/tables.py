"""The tables and plots of comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from vpt.engine.run_dir import write_json_atomic, write_text_atomic
from vpt.evaluation.comparison import Comparison, MethodResult
from vpt.evaluation.energy import Energy, total
from vpt.reports.plots import Cloud, accuracy_plot
from vpt.storage.atomic_file import write_atomic

PAPER_NAMES = {
    "linear": "Linear probe",
    "vpt_shallow": "VPT-shallow",
    "vpt_deep": "VPT-deep",
    "vpt_gated": "Gated prompts",
    "kv": "Key-value prompts",
    "pixels": "Pixel frame",
    "adapter": "Adapter",
    "lora": "LoRA",
    "mlp": "MLP head",
    "bias": "Bias",
    "norm": "Norms",
    "last_1": "Last block",
    "full": "Full fine-tuning",
    "head_only": "Head alone",
    "last_2": "Last 2 blocks",
    "zero_shot": "Zero-shot",
    "linear_from_text": "Linear from text",
    "linear_probe": "Linear probe",
    "coop": "CoOp",
    "ivlp": "IVLP",
}
"""How the papers write the usual methods; see `paper_name`."""

COLUMNS = ("Method", "Test top-1 (%)", "Parameters", "File", "GFLOPs", "Seconds")
"""Few enough for a terminal of 80 characters; rates and energies are in result.json."""


def comparison_table(result: Comparison[MethodResult]) -> Table:
    """One row per method: test top-1, what is trained, how large its file, how long a run."""
    table = Table(title=_title(result), caption=_caption(result))
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for name, method in result.methods.items():
        table.add_row(*_cells(name, method))
    return table


def comparison_markdown(result: Comparison[MethodResult]) -> str:
    """The same table as Markdown, with title and caption around it."""
    rows = [_cells(name, method) for name, method in result.methods.items()]
    return markdown_table(_title(result), COLUMNS, rows, _caption(result))


def write_comparison(result: Comparison[MethodResult], directory: Path) -> None:
    """Write result.json, table.md and comparison.png into an existing directory.

    Raises:
        RunError: a file cannot be written.
    """
    write_text_atomic(directory / "table.md", comparison_markdown(result))
    write_atomic(directory / "comparison.png", [comparison_plot(result)])
    write_json_atomic(directory / "result.json", result.to_dict())


def comparison_plot(result: Comparison[MethodResult]) -> bytes:
    """Test top-1 against trained parameters, one point per method, as a PNG 1200 px wide."""
    clouds = [
        Cloud(
            f"{paper_name(name)}: {mean_and_spread(method.test_top1)} %",
            method.trained_parameters,
            [100 * value for value in method.test_top1],
        )
        for name, method in result.methods.items()
    ]
    title = f"{_title(result)}\n{_spread(result)}"
    return accuracy_plot(clouds, title=title, ylabel="Test top-1 (%)")


def _cells(name: str, method: MethodResult) -> tuple[str, ...]:
    return (
        paper_name(name),
        mean_and_spread(method.test_top1),
        f"{method.trained_parameters:,}",
        file_size(method.file_bytes),
        gigaflops(method.step_flops),
        f"{method.seconds:.1f}",
    )


def _title(result: Comparison[MethodResult]) -> str:
    setting = result.setting
    shots = setting["shots"]
    images = "all training images" if shots is None else f"{shots} images per class"
    size = setting.get("image_size")
    place = f" at {size} px" if size is not None else ""
    return f"{setting['dataset']}\n{images}, {setting['backbone']}{place}"


def _caption(result: Comparison[MethodResult]) -> str:
    rate = rate_words(result.setting["trials_per_method"])
    energy = energy_words(result.tested.energy, result.tried.energy)
    return (
        f"Test top-1: {_spread(result)}. Parameters: trained ones. Learning rates: {rate}. "
        f"GFLOPs: of a training step, per image. "
        f"Seconds: of one run; {result.seconds:.0f} s in all. {energy}"
    ).rstrip()


def _spread(result: Comparison[MethodResult]) -> str:
    return spread_words(len(result.seeds))


def rate_words(trials: int) -> str:
    """How each method's learning rate was chosen."""
    return f"the best of {trials} on validation" if trials else "the config's"


def gigaflops(flops: int | None) -> str:
    """Floating-point operations in 10^9, three digits of them; '-' where they are not counted."""
    return "-" if flops is None else f"{flops / 1e9:#.3g}".rstrip(".")


def energy_words(*readings: Sequence[Energy]) -> str:
    """What all runs took, for captions: 'Energy: 12.3 kJ (gpu, measured), trials counted in.'.

    '' where nothing of it is known.
    """
    known = [
        f"{energy.joules / 1e3:#.3g} kJ ({energy.scope}, {energy.state})"
        for energy in total(*readings)
        if energy.joules is not None
    ]
    return f"Energy: {', '.join(known)}, trials counted in." if known else ""


def paper_name(method: str) -> str:
    """How the papers write a usual method; another's own name."""
    return PAPER_NAMES.get(method, method)


def mean_and_spread(values: Sequence[float]) -> str:
    """Shares as '91.0 ± 1.0', in percent, sample standard deviation; a single one as '91.0'."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def spread_words(seeds: int) -> str:
    """What `mean_and_spread` shows, for captions."""
    return f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"


def markdown_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str
) -> str:
    """A Markdown table, the first column left, with title and caption around it."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows)]
    heading = title.replace("\n", ", ")
    return "\n".join([f"**{heading}**", "", *lines, "", caption, ""])


def file_size(size: int) -> str:
    """8 kB, 10.8 MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
