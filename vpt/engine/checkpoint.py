"""Checkpoints of a run: a folder of sealed files, of which the newest readable one counts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.errors import RunError
from vpt.storage.atomic_file import remove_leftovers
from vpt.storage.sealed_file import SealedFileError, read_sealed, write_sealed

_NAME = re.compile(r"step_(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a run was at one optimiser step.

    Attributes:
        step: optimiser steps done.
        tensors: on the CPU.
        state: JSON values.
        path: the file it was read from.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


class CheckpointStore:
    """The checkpoints in one folder, `step_00000123.safetensors` each; one process writes there."""

    def __init__(self, directory: Path, keep: int = 3):
        """Create the folder where it is missing.

        Args:
            directory: of the checkpoints, nothing else is in it.
            keep: newest checkpoints to keep, at least 2: one to fall back to.
        """
        if keep < 2:
            raise ValueError(f"keep is {keep}; at least 2, so that there is one to fall back to")
        self._directory = directory
        self._keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step, then remove the oldest ones beyond `keep`.

        Args:
            step: optimiser steps done, not below that of the newest checkpoint.
            tensors: on any device.
            state: JSON values, all numbers finite.

        Raises:
            RunError: the disk is full, forbidden or broken; earlier checkpoints are as they were.
            SealedFileError: the state holds a number that JSON does not have.
        """
        path = self._directory / f"step_{step:08d}.safetensors"
        write_sealed(path, tensors, {"kind": "checkpoint", "step": step, "state": state})
        for old in self.paths()[self._keep :]:
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def paths(self) -> list[Path]:
        """The checkpoints, newest first."""
        steps = {
            path: int(match[1])
            for path in self._directory.iterdir()
            if (match := _NAME.fullmatch(path.name))
        }
        return sorted(steps, key=lambda path: steps[path], reverse=True)

    def load_newest(self, log: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that can be read, or None where there is none.

        Damaged newer ones are set aside as `<name>.damaged`, each with one line to `log`. What a
        killed save left behind is removed.

        Raises:
            RunError: there are checkpoints and none of them can be read.
        """
        remove_leftovers(self._directory)
        damaged: dict[Path, SealedFileError] = {}
        for path in self.paths():
            try:
                checkpoint = _read(path)
            except SealedFileError as error:
                damaged[path] = error
                continue
            for bad, reason in damaged.items():
                log(f"{reason}; going on from {path.name} instead of {bad.name}")
                _set_aside(bad)
            return checkpoint
        if damaged:
            newest = next(iter(damaged.values()))
            raise RunError(f"no checkpoint can be read ({newest}); use --overwrite to start anew")
        return None


def _read(path: Path) -> Checkpoint:
    header, tensors = read_sealed(path)
    match = _NAME.fullmatch(path.name)
    step, state = header.get("step"), header.get("state")
    if header.get("kind") != "checkpoint" or not isinstance(state, dict):
        raise SealedFileError(f"{path} is no checkpoint")
    if not isinstance(step, int) or match is None or step != int(match[1]):
        raise SealedFileError(f"{path} holds step {step}, not the one of its name")
    return Checkpoint(step, tensors, state, path)


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, or later saves at lower steps would be pruned before it."""
    with contextlib.suppress(OSError):
        path.replace(path.with_name(f"{path.name}.damaged"))
