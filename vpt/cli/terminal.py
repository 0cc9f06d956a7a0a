"""What all commands share: where they print, and the arguments that several take."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from vpt.console import SafeConsole, escaped

out = SafeConsole(markup=False, highlight=False, soft_wrap=True)
err = SafeConsole(stderr=True, markup=False, highlight=False, soft_wrap=True)


def _checked_device(value: str) -> str:
    from vpt.config.run import check_device

    try:
        return check_device(value)
    except ValueError as error:
        raise typer.BadParameter(f"'{value}' is no device: it {error}") from error


ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="a YAML file, e.g. configs/vpt_deep_cub.yaml")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. optim.lr=5e-4")
]
PromptPath = Annotated[Path, typer.Argument(metavar="PROMPT.safetensors", help="a prompt file")]
Weights = Annotated[Path | None, typer.Option(help="local file of the backbone's weights")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps", callback=_checked_device)
]


def log(line: str) -> None:
    """Print one plain line."""
    out.print(line)


def note(line: str) -> None:
    """Print one plain line on stderr, beside what a command writes to stdout."""
    err.print(line)


def reassure(line: str) -> None:
    """Tell a person who waits at a terminal what takes so long; a log has no use for it."""
    if err.is_terminal:
        err.print(line)


def complain(message: str) -> None:
    """Print why a command failed, on stderr."""
    sys.stderr.write(f"vpt: {escaped(message)}\n")


def open_mode(*, resume: bool, overwrite: bool) -> Literal["new", "resume", "overwrite"]:
    """What a run directory is opened for, by the two options that several commands have."""
    if resume and overwrite:
        raise typer.BadParameter("use --resume or --overwrite, not both")
    return "resume" if resume else "overwrite" if overwrite else "new"


def refuse_options(context: typer.Context, options: Iterable[str], reason: str) -> None:
    """Refuse options that were given but mean nothing here."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            shown = "format" if name == "output_format" else name.replace("_", "-")
            raise typer.BadParameter(f"{reason}: --{shown} has no meaning")
