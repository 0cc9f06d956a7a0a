"""The commands that make many runs and compare them, and that report on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vpt.cli.named import config_path
from vpt.cli.terminal import log, open_mode, out

commands = typer.Typer()


ComparisonOverrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. base.optim.head_lr=5e-4")
]
OverwriteComparison = Annotated[
    bool, typer.Option("--overwrite", help="remove an earlier comparison in run_dir first")
]


@commands.command()
def quickstart(
    config: Annotated[Path, typer.Argument(help="a comparison config")] = Path(
        "configs/quickstart.yaml"
    ),
    overrides: ComparisonOverrides = None,
    overwrite: OverwriteComparison = False,
) -> None:
    """Compare linear probe, prompts and full fine-tuning on real images, offline."""
    from vpt.protocols.comparison import compare, load_comparison
    from vpt.reports.tables import comparison_table, write_comparison

    settings = load_comparison(config_path(config, "quickstart", overrides), overrides or ())
    result = compare(settings, overwrite=overwrite, log=log, console=out)
    write_comparison(result, settings.run_dir)
    out.print(comparison_table(result))
    log(f"written to {settings.run_dir}/")


@commands.command()
def detection_quickstart(
    config: Annotated[Path, typer.Argument(help="a comparison of tunings of a detector")] = Path(
        "configs/detection_quickstart.yaml"
    ),
    overrides: ComparisonOverrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the comparison in run_dir")
    ] = False,
    overwrite: OverwriteComparison = False,
) -> None:
    """Compare head alone, prompts and last blocks of a detector on composed pictures, offline."""
    from vpt.protocols.detector_comparison import compare_detectors, load_detector_comparison
    from vpt.reports.detection_tables import detection_table, write_detection

    mode = open_mode(resume=resume, overwrite=overwrite)
    settings = load_detector_comparison(
        config_path(config, "detection-quickstart", overrides), overrides or ()
    )
    result = compare_detectors(settings, mode=mode, log=log)
    write_detection(result, settings.run_dir)
    out.print(detection_table(result))
    log(f"written to {settings.run_dir}/, test pictures to {settings.run_dir / 'pictures'}/")


@commands.command()
def clip_eval(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [key=value]...", help="e.g. configs/clip_vpt_eurosat.yaml"
        ),
    ],
    prompt: Annotated[
        list[Path] | None,
        typer.Option(help="a prompt file to measure, instead of the config's; may be repeated"),
    ] = None,
    protocols: Annotated[
        str | None, typer.Option(help="instead of the config's: zero_shot,few_shot,base_to_new")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="train every run anew; else finished ones are kept")
    ] = False,
) -> None:
    """Evaluate a CLIP: zero-shot, prompt files, few-shot, base-to-new, beside free baselines."""
    from vpt.protocols.clip_eval import evaluate_clip, load_clip_eval, refuse_clashes
    from vpt.reports.clip_tables import (
        average_table,
        clip_tables,
        read_clip_evaluation,
        write_clip_evaluation,
    )

    paths = [Path(word) for word in configs if "=" not in word]
    overrides = [word for word in configs if "=" in word]
    if not paths:
        raise typer.BadParameter("name a config, e.g. configs/clip_vpt_eurosat.yaml")
    if prompt:
        overrides.append(f"prompt_files={json.dumps([str(path) for path in prompt])}")
    if protocols is not None:
        overrides.append(f"protocols=[{protocols}]")
    settings = [load_clip_eval(config_path(path, "clip-eval"), overrides) for path in paths]
    refuse_clashes(settings)
    earlier = [None if overwrite else read_clip_evaluation(s.run_dir) for s in settings]
    results = []
    for setting, before in zip(settings, earlier, strict=True):
        result = evaluate_clip(setting, overwrite=overwrite, log=log, console=out)
        results.append(result if before is None else result.joined_with(before))
        write_clip_evaluation(results[-1], setting.run_dir)
        for table in clip_tables(results[-1]):
            out.print(table)
        log(f"written to {setting.run_dir}/")
    if len(results) > 1:
        out.print(average_table(results))


@commands.command()
def sweep(
    config: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG [key=value]...", help="e.g. configs/sweeps/digits.yaml"),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="in place of CONFIG: configs/<suite>/adamw.yaml")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes to start here")] = 1,
) -> None:
    """Choose each method's settings on validation, test them over seeds, and report.

    The same command elsewhere is one more worker, and after an interruption it goes on.
    """
    from vpt.protocols import sweep as sweeps
    from vpt.protocols.sweep_config import load_sweep
    from vpt.protocols.sweep_results import read_sweep

    words = config or []
    paths = [Path(word) for word in words if "=" not in word]
    if suite is not None:
        paths.append(Path("configs") / suite / "adamw.yaml")
    if len(paths) != 1:
        raise typer.BadParameter("give one config, e.g. configs/sweeps/digits.yaml, or --suite")
    settings = load_sweep(config_path(paths[0], "sweep"), [word for word in words if "=" in word])
    sweeps.sweep(settings, workers=workers, log=log)
    _report(read_sweep(settings), settings.run_dir)


@commands.command()
def report(
    sweeps: Annotated[
        list[Path], typer.Argument(metavar="SWEEP...", help="run_dirs of sweeps, or their configs")
    ],
    output: Annotated[
        Path | None, typer.Option(help="folder of the files; default: the first sweep's run_dir")
    ] = None,
) -> None:
    """Print and write what sweeps have measured so far: tables, CSV, plots."""
    from vpt.protocols.sweep_results import find_sweep, read_sweep

    settings = [find_sweep(place) for place in sweeps]
    units = [unit for each in settings for unit in read_sweep(each)]
    _report(units, output or settings[0].run_dir)


def _report(units: Sequence[Any], folder: Path) -> None:
    from vpt.reports.sweep_report import sweep_tables, write_report

    for table in sweep_tables(units):
        out.print(table.rich())
    files = write_report(units, folder)
    log(f"written to {folder}/: {', '.join(file.name for file in files)}")
