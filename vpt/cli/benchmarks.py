"""The commands that measure speed: one typed function each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vpt.cli.named import config_path
from vpt.cli.terminal import ConfigPath, Device, Overrides, log, out

commands = typer.Typer()


@commands.command()
def benchmark(
    model: Annotated[
        str, typer.Option(help="backbone, with random weights")
    ] = "timm/vit_base_patch16_224",
    along: Annotated[
        str,
        typer.Option(
            metavar="AXIS=V,...",
            help="what grows: num_tokens, batch_size, image_size, model or num_classes",
        ),
    ] = "num_tokens=50,100",
    variants: Annotated[
        str,
        typer.Option(
            help="of backbone, probe, insertion, context, context_dropout, "
            "context_checkpointed, context_baked and full"
        ),
    ] = "backbone,insertion,context",
    precision: Annotated[str, typer.Option(help="of fp32, bf16 and fp16")] = "fp32",
    compile_mode: Annotated[
        str,
        typer.Option("--compile", help="of none, default, reduce-overhead and max-autotune"),
    ] = "none",
    batch_size: Annotated[int, typer.Option(help="images per step")] = 8,
    num_tokens: Annotated[int, typer.Option(help="prompt tokens at each layer")] = 100,
    num_classes: Annotated[int, typer.Option(help="of the linear head")] = 100,
    image_size: Annotated[
        int | None, typer.Option(help="side in pixels; the model's own by default")
    ] = None,
    turns: Annotated[int, typer.Option(help="how often each is measured")] = 5,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="of torch, on the CPU")] = 2,
    tf32: Annotated[bool, typer.Option("--tf32", help="TensorFloat-32 for fp32 on a GPU")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write it here")] = None,
    plot: Annotated[Path | None, typer.Option(help="also draw it here, a PNG")] = None,
) -> None:
    """Time prompts against inserted tokens and the backbone alone, by turns in one process.

    --variants, --precision and --compile take several, with commas between them.
    """
    from vpt.reports.benchmark import Setting, grid, parse_axis
    from vpt.reports.benchmark import benchmark as measure
    from vpt.reports.benchmark_tables import benchmark_plot, ratios_table, times_table
    from vpt.runs.outputs import make_folder
    from vpt.storage.atomic_file import write_atomic

    for path in (json_file, plot):  # before the measurement, not after it
        if path is not None:
            make_folder(path.parent)
    axis, values = parse_axis(along)
    setting = Setting(
        model=model,
        image_size=image_size,
        batch_size=batch_size,
        num_tokens=num_tokens,
        num_classes=num_classes,
    )
    settings = grid(
        setting, axis, values, precision=_several(precision), compile_mode=_several(compile_mode)
    )
    result = measure(
        settings,
        _several(variants),  # type: ignore[arg-type] # checked there
        axis=axis,
        turns=turns,
        device=device,
        threads=threads,
        tf32=tf32,
        log=log,
    )
    out.print(times_table(result))
    if result.ratios:
        out.print(ratios_table(result))
    _write_json(json_file, result.to_dict())
    if plot is not None:
        write_atomic(plot, [benchmark_plot(result)])


@commands.command()
def benchmark_data(
    config: ConfigPath,
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(min=1, help="of the training split")] = 256,
    turns: Annotated[int, typer.Option(min=1, help="how often each is measured")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write it here")] = None,
) -> None:
    """Time the way of a config's training images, and hold it against its training step."""
    from vpt.config import load_config
    from vpt.reports import data_speed

    settings = load_config(config_path(config, "benchmark-data", overrides), overrides or ())
    training = data_speed.training_speed(settings, turns=turns)
    result = data_speed.measure_data_path(settings, images=images, turns=turns, training=training)
    out.print(data_speed.data_speed_table(result))
    _write_json(json_file, result.to_dict())


@commands.command()
def benchmark_bank(
    model: Annotated[
        str, typer.Option(help="backbone, with random weights")
    ] = "timm/vit_base_patch16_224",
    image_size: Annotated[
        int | None, typer.Option(help="side in pixels; the model's own by default")
    ] = None,
    num_tokens: Annotated[int, typer.Option(help="prompt tokens of a task at each layer")] = 10,
    batch_size: Annotated[int, typer.Option(help="images of a batch")] = 8,
    tasks: Annotated[int, typer.Option(help="that are mixed in a batch")] = 8,
    resident: Annotated[int, typer.Option(help="tasks of the large bank")] = 1000,
    turns: Annotated[int, typer.Option(help="how often each is measured")] = 5,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write it here")] = None,
) -> None:
    """Time mixed batches of many tasks against one task's, by turns on the CPU."""
    from vpt.reports.bank_speed import bank_table
    from vpt.reports.bank_speed import benchmark_bank as measure

    result = measure(
        model,
        image_size=image_size,
        num_tokens=num_tokens,
        batch_size=batch_size,
        tasks=tasks,
        resident=resident,
        turns=turns,
        threads=threads,
    )
    out.print(bank_table(result))
    _write_json(json_file, result.to_dict())


def _several(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _write_json(path: Path | None, values: Any) -> None:
    from vpt.runs.outputs import make_folder
    from vpt.storage.atomic_file import write_atomic

    if path is not None:
        make_folder(path.parent)
        write_atomic(path, [json.dumps(values, indent=1).encode() + b"\n"])
