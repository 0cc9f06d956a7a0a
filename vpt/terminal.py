"""What all commands share: where they print, and the arguments that several take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpt.console import SafeConsole, escaped

out = SafeConsole(markup=False, highlight=False, soft_wrap=True)
err = SafeConsole(stderr=True, markup=False, highlight=False, soft_wrap=True)


ConfigPath = Annotated[Path, typer.Argument(help="a YAML file, e.g. configs/vpt_deep_cub.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. optim.lr=5e-4")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps")]


def log(line: str) -> None:
    """Print one plain line."""
    out.print(line)


def complain(message: str) -> None:
    """Print why a command failed, on stderr."""
    sys.stderr.write(f"vpt: {escaped(message)}\n")
