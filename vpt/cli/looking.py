"""The commands that say what there is: of a file, of names, of configs, of this machine."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vpt.cli.named import prompt_path
from vpt.cli.terminal import Overrides, PromptPath, err, log, out

commands = typer.Typer()


@commands.command()
def show(
    prompt: PromptPath,
    weights: Annotated[
        Path | None,
        typer.Option(help="a local file; say whether it holds the weights of the backbone"),
    ] = None,
) -> None:
    """Print what a prompt file says about itself, as JSON."""
    from vpt.engine.prompt_file import read_prompt_header

    path = prompt_path(prompt)
    out.print(read_prompt_header(path).model_dump_json(indent=2))
    if weights is not None:
        from vpt.api import check_weights

        check_weights(path, weights)
        err.print(f"{weights} holds the weights of the backbone")


@commands.command("list")
def list_names(
    kind: Annotated[Literal["backbones", "prompts", "heads"], typer.Argument()],
    pattern: Annotated[str, typer.Argument(help="e.g. '*dinov3*'")] = "*",
) -> None:
    """List the names of backbones, prompt methods or heads."""
    from fnmatch import fnmatch

    from vpt.api import list_prompts
    from vpt.backbones import list_backbones
    from vpt.errors import ConfigError
    from vpt.registry import DETECTION_HEADS, HEADS, nearest

    if kind == "backbones":
        known, found = list_backbones(), list_backbones(pattern)
    else:
        heads = [*HEADS.names(), *DETECTION_HEADS.names()]
        known = list_prompts() if kind == "prompts" else heads
        found = [name for name in known if fnmatch(name, pattern)]
    if not found:
        raise ConfigError(f"no name matches '{pattern}'{nearest(pattern, known)}")
    for name in found:
        log(name)


@commands.command()
def schema(
    kind: Annotated[
        Literal["run", "detection", "clip-eval", "sweep"],
        typer.Argument(help="a run's config, a detector's, clip-eval's or a sweep's"),
    ] = "run",
) -> None:
    """Print the JSON Schema of a config, for editors."""
    from vpt.config import DetectionRunConfig, RunConfig, json_schema
    from vpt.protocols.clip_setup import ClipEvalConfig
    from vpt.protocols.sweep_config import SweepConfig

    configs: dict[str, Any] = {
        "run": RunConfig,
        "detection": DetectionRunConfig,
        "clip-eval": ClipEvalConfig,
        "sweep": SweepConfig,
    }
    log(json.dumps(json_schema(configs[kind]), indent=2))


@commands.command()
def doctor() -> None:
    """Say what is installed and whether the bundled model runs."""
    from vpt.reports.doctor import examine

    report = examine()
    for name, value in report.lines:
        log(f"{name:<16} {value}")
    if not report.healthy:
        raise typer.Exit(1)


@commands.command(hidden=True)
def pretrain_bundled(
    config: Annotated[Path, typer.Argument(help="e.g. configs/pretrain/glyph_vit.yaml")],
    checkpoint: Annotated[Path, typer.Argument(help="file to go on from, if there is one")],
    overrides: Overrides = None,
) -> None:
    """Render images and train a bundled backbone; its fp16 weights end beside the checkpoint."""
    import torch

    from vpt.backbones.bundled import recipes
    from vpt.config import load_yaml
    from vpt.errors import ConfigError, RunError

    values = load_yaml(config, overrides or ())
    try:
        recipe = recipes.read(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config}: {error}") from error
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.settings.threads)
    try:
        recipe.pretrain(recipe.settings, checkpoint=checkpoint, log=log)
    except FloatingPointError as error:
        raise RunError(f"{error}; the last checkpoint is as it was") from error
    weights = checkpoint.with_name(f"{recipe.model}.safetensors")
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    recipe.export(checkpoint, weights, settings=recipe.settings, date=date)
    log(f"written to {weights}")
