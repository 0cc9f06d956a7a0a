"""The files that a command line names: what is taken, and what was meant by another one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from vpt.cli.terminal import note
from vpt.errors import BackboneError, ConfigError, DataError, PromptFileError

_PROMPT = "prompt.safetensors"
_CONFIGS = {".yaml", ".yml"}
_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def config_path(path: Path, command: str, overrides: Sequence[str] | None = None) -> Path:
    """The config that a command is given.

    Args:
        path: as it was written.
        command: its name, for the right line to write.
        overrides: the words behind it, among which a second path may be.

    Raises:
        ConfigError: it is something else, or not there; the line that was probably meant is named.
    """
    if path.is_dir():
        raise ConfigError(_folder_as_config(path, command))
    if path.is_file():
        if path.suffix == ".safetensors":
            raise ConfigError(_prompt_as_config(path, command))
        _refuse_second_path(overrides or ())
        return path
    if "=" in str(path):
        key = str(path).partition("=")[0]
        raise ConfigError(
            f"'{path}' sets the key '{key}' of a config, and no config is named; write: "
            f"vpt {command} CONFIG.yaml {path}"
        )
    raise ConfigError(f"{path}: no such file{_near(path, _CONFIGS)}; name a config (YAML)")


def _refuse_second_path(overrides: Sequence[str]) -> None:
    """Refuse a path in the place of key=value."""
    for word in overrides:
        path = Path(word)
        if "=" not in word and path.exists():
            if path.suffix in _CONFIGS:
                raise ConfigError(f"'{word}' is a second config; a command takes one")
            raise ConfigError(f"'{word}' is no key=value; for the data set: data.dataset={word}")


def _folder_as_config(path: Path, command: str) -> str:
    if (path / "config.yaml").is_file():
        go_on = f"vpt {command} {path / 'config.yaml'} --resume"
        return f"{path} is a run directory; to go on with its run: {go_on}"
    return (
        f"{path} is a folder, not a config; to train on images in it: vpt {command} CONFIG.yaml "
        f"data.dataset={path}"
    )


def _prompt_as_config(path: Path, command: str) -> str:
    if _is_checkpoint(path):
        return (
            f"{path} is a checkpoint, not a config; to go on with its run: vpt {command} "
            f"{path.parent.parent / 'config.yaml'} --resume"
        )
    return (
        f"{path} is a file of tensors, not a config; to start from a prompt file: vpt {command} "
        f"CONFIG.yaml train.init_from={path}; to measure it: vpt evaluate {path} --data DATA"
    )


def prompt_path(path: Path) -> Path:
    """The prompt file that a command is given; of a run directory the one in it, which is said.

    Raises:
        PromptFileError: it is something else, or not there; what was probably meant is named.
    """
    if path.is_dir():
        for inside in (path / _PROMPT, path.parent / _PROMPT):
            if inside.is_file() and (inside.parent == path or path.name == "checkpoints"):
                note(f"{path} is a folder; its run's prompt file is used: {inside}")
                return inside
        raise PromptFileError(f"{path} is a folder without {_PROMPT}; name a prompt file")
    if not path.exists():
        raise PromptFileError(
            f"{path}: no such file{_near(path, {'.safetensors'})}; name a prompt file, such as "
            f"RUN_DIR/{_PROMPT}"
        )
    if path.suffix.lower() in _CONFIGS:
        raise PromptFileError(
            f"{path} is YAML, not a prompt file; a training writes one into its run directory "
            f"(run_dir in the config): RUN_DIR/{_PROMPT}"
        )
    if path.suffix.lower() in _IMAGES:
        raise PromptFileError(
            f"{path} is an image; the prompt file comes first: vpt predict PROMPT.safetensors "
            f"{path}"
        )
    if _is_checkpoint(path):
        best = path.parent.parent / _PROMPT
        use = f"use {best}" if best.is_file() else f"its run has written no {_PROMPT} yet"
        raise PromptFileError(f"{path} is a checkpoint, which only --resume reads; {use}")
    return path


def data_path(path: Path) -> Path:
    """The data set that a command is given; its content is another's to judge.

    Raises:
        DataError: there is nothing.
    """
    if not path.exists():
        raise DataError(
            f"--data {path}: no such file or folder{_near(path, None)}; name a descriptor "
            "(YAML) or a folder with train/, val/ and test/"
        )
    return path


def refuse_missing(weights: Path | None) -> None:
    """Refuse a weight file that is not there.

    Raises:
        BackboneError: naming it.
    """
    if weights is not None and not weights.is_file():
        raise BackboneError(
            f"--weights {weights}: no such file{_near(weights, {'.safetensors'})}; name a "
            ".safetensors file"
        )


def _is_checkpoint(path: Path) -> bool:
    return re.fullmatch(r"step_\d+\.safetensors", path.name) is not None


def _near(path: Path, suffixes: set[str] | None) -> str:
    """', did you mean ...?' for what lies beside a path that is not there."""
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    beside = {
        each.name: each
        for each in path.parent.iterdir()
        if suffixes is None or each.suffix.lower() in suffixes
    }
    names = difflib.get_close_matches(path.name, beside, cutoff=0.5)
    return f", did you mean {' or '.join(f'{beside[name]}' for name in names)}?" if names else ""
