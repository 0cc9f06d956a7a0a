"""The prompt file of a run's best epoch, which the run's checkpoints know by its SHA-256.

A process that is killed between the file and the checkpoint that names it leaves a file of which
no checkpoint knows. The file before it is kept until then, so that what is tested in the end is
always what was validated, also where a repeated epoch does not repeat its bits (on a GPU).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vpt.engine.checkpoint import Checkpoint
from vpt.engine.run_dir import RunDirectory
from vpt.errors import RunError


def replace_best(run: RunDirectory, write: Callable[[Path], None]) -> str:
    """Write the prompt file of a new best epoch and keep the one before it; the new SHA-256.

    Raises:
        RunError: the disk is full, forbidden or broken.
    """
    with contextlib.suppress(FileNotFoundError):
        run.previous_prompt.unlink(missing_ok=True)
        try:
            os.link(run.best_prompt, run.previous_prompt)
        except FileNotFoundError:
            raise
        except OSError:  # no hard links there
            run.best_prompt.replace(run.previous_prompt)
    write(run.best_prompt)
    return _sha256(run.best_prompt)


def restore_best(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Give the prompt file back the bytes that a checkpoint knows.

    Raises:
        RunError: it is missing, or another file, and the one before it is another one too.
    """
    fit = checkpoint.state["fit"]
    if fit.get("best") is None:
        return
    expected = fit.get("best_sha256")
    if run.best_prompt.is_file() and expected in (None, _sha256(run.best_prompt)):
        return
    if run.previous_prompt.is_file() and expected == _sha256(run.previous_prompt):
        run.previous_prompt.replace(run.best_prompt)
        return
    what = "is not the file" if run.best_prompt.exists() else "is missing, the file"
    raise RunError(
        f"{run.best_prompt} {what} of this run's best epoch so far ({fit['best_epoch'] + 1}), so "
        "the run cannot go on; put it back, or start anew with --overwrite"
    )


def refuse_other_best(run: RunDirectory, expected: str | None) -> None:
    """The prompt file must be the one that was validated.

    Args:
        run: that is about to test it.
        expected: its SHA-256, or None where the run does not know it.

    Raises:
        RunError: it is missing, or another one.
    """
    try:
        found = _sha256(run.best_prompt)
    except OSError as error:
        raise RunError(f"{run.best_prompt} cannot be read: {error.strerror}") from error
    if expected is not None and found != expected:
        raise RunError(
            f"{run.best_prompt} was changed while the run trained, so it is not tested; put the "
            "file of the best epoch back and use --resume, or start anew with --overwrite"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
