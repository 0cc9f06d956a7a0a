"""What protocols share: configs laid over each other, CPU threads, a bar over all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vpt.config import AtMost

Advance = Callable[[str], None]
"""Called with the description of the run that begins."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$", max_length=100)]
Threads = Annotated[int, Field(gt=0), AtMost(1_024, "each one is a thread of this machine")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

OWN_KEYS = ("run_dir", "seed")
"""Keys of a run's config that a protocol sets itself."""

SHARED_KEYS = ("backbone", "data")
"""Keys that are the same for all methods side by side."""


def refuse_flat_data(base: Mapping[str, Any]) -> None:
    """ValueError where the base of a comparison has no section `data`, but something else."""
    if not isinstance(base.get("data", {}), Mapping):
        raise ValueError("data must be a mapping: {dataset: .., batch_size: ..}")


def refuse_keys(values: Mapping[str, Any], keys: Sequence[str], rule: str) -> None:
    """ValueError for the first of the keys that is there, saying the rule."""
    for key in keys:
        if key in values:
            raise ValueError(f"{key} {rule}")


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes laid over it, section by section.

    A section that names another kind (`head: {name: ..}`) starts anew: its options are others.
    """
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            same_kind = value.get("name", before.get("name")) == before.get("name")
            merged[key] = laid_over(before, value) if same_kind else dict(value)
        else:
            merged[key] = value
    return merged


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Torch with so many CPU threads; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def progress(total: int, console: Console | None) -> Iterator[Advance]:
    """A bar over all runs on a terminal, which names the one that is running."""
    if console is None or not console.is_terminal:
        yield lambda description: None
        return
    columns = (
        BarColumn(),
        TextColumn("run {task.completed}/{task.total} {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda description: bar.update(task, advance=1, description=description)
