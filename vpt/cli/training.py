"""The commands that make a prompt file: train and probe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from vpt.cli.named import config_path
from vpt.cli.terminal import ConfigPath, Overrides, log, open_mode, out, reassure

if TYPE_CHECKING:
    from vpt.config import AnyRunConfig
    from vpt.runs import RunResult

commands = typer.Typer()


@commands.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in run_dir, exactly")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="remove the run in run_dir first")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
) -> None:
    """Train as a config says, into its run directory.

    Started by torchrun, all of its processes train the one run.
    """
    mode = open_mode(resume=resume, overwrite=overwrite)
    config = config_path(config, "train", overrides)
    from vpt.config import load_config

    settings = load_config(config, overrides or ())
    from vpt.engine.progress import said_if_slow
    from vpt.runs.early import check_named

    check_named(settings, None if dry_run else mode)
    with said_if_slow("loading torch ...", reassure):
        from vpt import runs
        from vpt.engine.distributed import is_first, world_size
        from vpt.experiment import build
    if dry_run and world_size() > 1:
        raise typer.BadParameter("--dry-run measures one process; use it without torchrun")
    if dry_run:
        out.print(plan_table(runs.make_plan(build(settings), log=log), settings.run_dir))
        return
    result = runs.train(settings, mode=mode, log=log, console=out)
    if is_first():
        _say_end(settings, result)


@commands.command()
def probe(
    config: ConfigPath,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="remove the run in run_dir first")
    ] = False,
) -> None:
    """Fit a linear probe by L-BFGS to features that are computed once; seconds, not epochs."""
    from vpt.config import RunConfig, load_config
    from vpt.engine.progress import said_if_slow
    from vpt.errors import ConfigError
    from vpt.runs.early import check_named

    settings = load_config(config_path(config, "probe", overrides), overrides or ())
    if not isinstance(settings, RunConfig):
        raise ConfigError(f"{config}: a probe is of classes, not of boxes")
    mode: Literal["new", "overwrite"] = "overwrite" if overwrite else "new"
    check_named(settings, "overwrite" if overwrite else "probe")
    with said_if_slow("loading torch ...", reassure):
        from vpt import runs
    _say_end(settings, runs.probe(settings, mode=mode, log=log, console=out))


def _say_end(settings: AnyRunConfig, result: RunResult) -> None:
    """What a run found class by class, and what can be done with it next."""
    from vpt.runs import breakdown_lines

    if result.finished != "done":
        log(f"stopped early: {result.finished}")
    if result.best_epoch_number is not None and result.val:
        log(f"epoch {result.best_epoch_number} of {settings.train.epochs} is kept, by validation")
    if result.test_per_class is not None:
        for line in breakdown_lines(
            result.test_per_class,
            result.test_counts or {},
            result.test_confused,
            measure="right" if "top1" in (result.test or {}) else "AP",
        ):
            log(line)
    log("next:")
    for line in next_commands(settings, has_test=result.test is not None):
        log(f"  {line}")


def next_commands(settings: AnyRunConfig, *, has_test: bool) -> list[str]:
    """The commands that use a finished run, ready to be pasted into a shell."""
    prompt = f"{settings.run_dir / 'prompt.safetensors'}"
    given = {"--weights": settings.backbone.weights}
    of_data = {"--data": settings.data.dataset, "--root": settings.data.root, **given}
    split = [] if has_test else ["--split", "val"]
    lines = [
        ["vpt", "evaluate", prompt, *_options(of_data), *split],
        ["vpt", "predict", prompt, *_options(given), "IMAGE_OR_FOLDER"],
    ]
    if (settings.run_dir / "tensorboard").is_dir():
        lines.append(["tensorboard", "--logdir", f"{settings.run_dir / 'tensorboard'}"])
    return [shlex.join(words) for words in lines]


def _options(given: Mapping[str, Path | None]) -> list[str]:
    return [word for name, path in given.items() if path is not None for word in (name, f"{path}")]


def plan_table(plan: Any, run_dir: Path) -> Table:
    """What a run would do, as a table."""
    from vpt.engine.progress import format_seconds

    table = Table(title=f"plan of {run_dir}", show_header=False)
    rows = {
        "images": ", ".join(f"{name} {count:,}" for name, count in plan.images.items()),
        "classes": f"{plan.classes}",
        "optimiser steps": f"{plan.steps:,}",
        "parameters": ", ".join(f"{part} {count:,}" for part, count in plan.parameters.items()),
        "trained": f"{plan.trained:,}",
        "checkpoint": f"{plan.checkpoint_bytes / 2**20:.1f} MB",
        "GFLOPs per image": _plan_flops(plan),
        "peak memory": f"{plan.peak_memory_bytes / 2**20:,.0f} MB after a few steps",
        "time": f"about {format_seconds(plan.seconds)}, from a few steps",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _plan_flops(plan: Any) -> str:
    from vpt.reports.tables import gigaflops

    return f"{gigaflops(plan.step_flops)} to train, {gigaflops(plan.forward_flops)} to evaluate"
