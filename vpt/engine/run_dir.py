"""The directory of a run: who may use it, what is in it, and the machine the run was on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vpt.engine.projector import FILE_NAMES
from vpt.errors import RunError, RunInUseError
from vpt.storage.atomic_file import free_bytes, is_leftover, remove_leftovers, write_atomic
from vpt.storage.lock_file import lock, open_lock_file

__all__ = [
    "PROMPT_NAME",
    "RESULT_NAME",
    "OpenMode",
    "RunDirectory",
    "check_run_directory",
    "discard_weights",
    "environment",
    "free_bytes",
    "open_run_directory",
    "write_json_atomic",
    "write_text_atomic",
]

OpenMode = Literal["new", "resume", "overwrite"]

PROMPT_NAME = "prompt.safetensors"
"""The prompt file that a run is for."""

RESULT_NAME = "result.json"
"""What a run measured, written when it has ended."""

_LOCK = ".lock"
_FILES = (
    "config.yaml",
    "confusion_matrix.png",
    "environment.json",
    "identity.json",
    "metrics.jsonl",
    PROMPT_NAME,
    "prompt_last.safetensors",
    "prompt_previous.safetensors",
    "split.json",
    "test_results.json",
    "val_results.json",
    "worst_errors.png",
    RESULT_NAME,
)
_FOLDERS = {
    "checkpoints": re.compile(r"step_\d{8,}\.safetensors(\.damaged)?"),
    "tensorboard": re.compile(rf"events\.out\.tfevents\..+|{FILE_NAMES.pattern}"),
}

_held: set[int] = set()
"""Descriptors of the locks this process holds."""


class RunDirectory:
    """An open run directory, locked for this process until `close` or the process's end.

    Without a lock it is the same directory for one more process of the run, which writes nothing.

    Attributes:
        path: the directory.
        config: the resolved config as YAML.
        environment: `environment()` of the start.
        identity: what of the model is in no config: weights, sentences, preprocessing.
        metrics: one JSON line per logged step.
        checkpoints: folder of the checkpoints.
        tensorboard: folder of the event files.
        best_prompt: prompt file of the best validation result.
        last_prompt: prompt file of the last step.
        previous_prompt: the best prompt file before this one, until a checkpoint knows this one.
        split: which samples are in which split.
        result: what the run measured, written at its end.
        confusions: picture of the images of each true and predicted class.
        worst_errors: picture of the images that are wrong with the highest confidence.
        val_results: a detector's detections in the newest validation, as COCO results.
        test_results: the same for the test split.
    """

    def __init__(self, path: Path, lock: int | None):
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.identity = path / "identity.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.best_prompt = path / PROMPT_NAME
        self.last_prompt = path / "prompt_last.safetensors"
        self.previous_prompt = path / "prompt_previous.safetensors"
        self.split = path / "split.json"
        self.result = path / RESULT_NAME
        self.confusions = path / "confusion_matrix.png"
        self.worst_errors = path / "worst_errors.png"
        self.val_results = path / "val_results.json"
        self.test_results = path / "test_results.json"
        self._lock = lock

    def close(self) -> None:
        """Release the directory's lock."""
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_run_directory(path: Path, *, mode: OpenMode) -> RunDirectory:
    """Lock a directory for one run, created where it is missing.

    Of several processes that open it at once exactly one gets it; a process that dies, however,
    frees it at once.

    Args:
        path: the directory.
        mode: 'new' takes an empty directory; 'resume' one with a run, or an empty one;
            'overwrite' removes the files of the run that is there, and no other file.

    Raises:
        RunError: another process uses the directory, its content does not fit the mode, or it
            cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A directory that was never a run's is refused without leaving a lock file in it.
        if not (path / _LOCK).exists():
            _refuse_unfit(path, mode)
        held = _take_lock(path)
    except OSError as error:
        raise RunError(f"cannot use {path} as a run directory: {error.strerror}") from error
    try:
        _refuse_unfit(path, mode)
        _tidy(path, mode)
    except BaseException:
        _unlock(held)
        raise
    return RunDirectory(path, held)


def check_run_directory(path: Path, *, mode: OpenMode) -> None:
    """Refuse a directory that `open_run_directory` would refuse; nothing is made or changed.

    Raises:
        RunError: its content does not fit the mode, or it is no directory.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"cannot use {path} as a run directory: it is a file; choose another")
    if path.is_dir():
        _refuse_unfit(path, mode)


def discard_weights(path: Path) -> None:
    """Remove a finished run's checkpoints and prompt files; its result and curves stay.

    Raises:
        RunError: a file cannot be removed, or another process uses the directory.
    """
    with open_run_directory(path, mode="resume") as run:
        try:
            for file in (run.best_prompt, run.last_prompt, run.previous_prompt):
                file.unlink(missing_ok=True)
            if run.checkpoints.is_dir():
                for file in run.checkpoints.iterdir():
                    file.unlink()
                run.checkpoints.rmdir()
        except OSError as error:
            raise RunError(f"cannot remove the weights in {path}: {error.strerror}") from error


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` with the text (UTF-8), as a whole or not at all.

    Raises:
        RunError: the disk is full, forbidden or broken.
    """
    write_atomic(path, [text.encode()])


def write_json_atomic(path: Path, obj: Any) -> None:
    """Replace `path` with the JSON of `obj`, as a whole or not at all.

    Raises:
        ValueError: a number is not finite.
        RunError: the disk is full, forbidden or broken.
    """
    write_text_atomic(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def environment() -> dict[str, Any]:
    """Versions, machine and devices, as JSON values; a package that is missing is None."""
    import torch

    from vpt.engine.distributed import world_size

    packages = ("vpt", "torch", "torchvision", "timm", "open_clip_torch")
    cuda = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {
        "python": platform.python_version(),
        **{package: _installed_version(package) for package in packages},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": world_size(),
        "cuda_devices": [torch.cuda.get_device_name(index) for index in cuda],
    }


def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refuse_unfit(path: Path, mode: OpenMode) -> None:
    names = sorted(p.name for p in path.iterdir() if p.name != _LOCK and not is_leftover(p.name))
    if mode == "new" and names:
        raise RunError(
            f"{path} is not empty ({names[0]}); use --resume or --overwrite, or another run_dir"
        )
    if mode == "resume" and names and not any(name in (*_FILES, *_FOLDERS) for name in names):
        raise RunError(f"{path} holds no run to resume, but {names[0]}; choose another directory")
    if mode == "resume":
        _refuse_odd_files(path)
    if mode == "overwrite":
        foreign = next(_foreign_files(path), None)
        if foreign is not None:
            raise RunError(
                f"{path} is not overwritten: {foreign.relative_to(path)} is not a run's file; "
                f"move it away or choose another directory"
            )


def _refuse_odd_files(path: Path) -> None:
    """What has the name of a run's file and cannot be read, or replaced, as one."""
    for name in _FILES:
        file = path / name
        if not file.is_file() and (file.exists() or file.is_symlink()):
            raise RunError(f"{file} is no regular file, so the run cannot go on; move it away")
    checkpoints = path / "checkpoints"
    if not checkpoints.is_dir() and (checkpoints.exists() or checkpoints.is_symlink()):
        raise RunError(f"{checkpoints} is no folder, so the run cannot go on; move it away")


def _foreign_files(path: Path) -> Iterator[Path]:
    """What no run wrote; a link counts, for behind it are files of another place."""
    for entry in sorted(path.iterdir()):
        pattern = _FOLDERS.get(entry.name)
        if entry.is_symlink():
            yield entry
        elif pattern is not None and entry.is_dir():
            yield from (file for file in sorted(entry.iterdir()) if not _is_own(file, pattern))
        elif not entry.is_file() or not (entry.name in (*_FILES, _LOCK) or is_leftover(entry.name)):
            yield entry


def _is_own(file: Path, pattern: re.Pattern[str]) -> bool:
    named = pattern.fullmatch(file.name) is not None or is_leftover(file.name)
    return named and file.is_file() and not file.is_symlink()


def _tidy(path: Path, mode: OpenMode) -> None:
    remove_leftovers(path)
    if mode == "overwrite":
        try:
            _remove_run(path)
        except OSError as error:
            raise RunError(f"cannot overwrite {path}: {error}") from error


def _remove_run(path: Path) -> None:
    """Remove a run's files; `_foreign_files` found no others."""
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        folder = path / name
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def _take_lock(path: Path) -> int:
    """A descriptor that holds the lock: the kernel frees it when the process ends in any way."""
    descriptor = open_lock_file(path / _LOCK)
    try:
        lock(descriptor, wait=False)
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _self_description().encode(), 0)
    except OSError as error:
        holder = _holder(descriptor) if isinstance(error, BlockingIOError) else ""
        _held.discard(descriptor)
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise RunInUseError(f"{path} is in use by {holder}; wait for it or stop it") from error
        if error.errno in (errno.ENOLCK, errno.ENOTSUP):
            raise RunError(
                f"the file system of {path} has no locks, so two runs could mix there; "
                f"choose a local directory"
            ) from error
        raise
    return descriptor


def _unlock(descriptor: int) -> None:
    if descriptor not in _held:  # in a forked child: it never had the lock
        return
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def _self_description() -> str:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"


def _holder(descriptor: int) -> str:
    """Who holds the lock; a holder of this very moment may still be writing its name."""
    for _ in range(20):
        text = os.pread(descriptor, 300, 0).decode(errors="replace").strip()
        if text:
            return text
        time.sleep(0.01)
    return "another process"


def _drop_inherited() -> None:
    """A forked child (a loader's worker) must not keep the lock of a parent that dies."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_drop_inherited)
