"""What a config names is looked for before torch and the backbone's library are imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from vpt.config import AnyRunConfig
from vpt.data import load_descriptor
from vpt.data.images import SUFFIXES
from vpt.engine.run_dir import OpenMode, check_run_directory
from vpt.errors import BackboneError, DataError, PromptFileError, RunError
from vpt.registry import nearest


def check_named(config: AnyRunConfig, mode: OpenMode | Literal["probe"] | None) -> None:
    """Refuse a config whose files, folders or run directory are not there or do not fit.

    It only looks: everything is checked again, and more, when the run is built. Of several
    processes of one run none looks, as the first may be at work in the directory already.

    Args:
        config: checked.
        mode: see `open_run_directory`; 'probe': a new run that cannot be resumed; None:
            the directory is not used.

    Raises:
        VptError: naming the key and the path.
    """
    if "WORLD_SIZE" in os.environ:
        return
    if mode == "probe":
        check_empty(config.run_dir)
    elif mode is not None:
        check_run_directory(config.run_dir, mode=mode)
    dataset = config.data.dataset
    if dataset.suffix.lower() in SUFFIXES and dataset.is_file():
        raise DataError(
            f"data.dataset {dataset} is an image; name the folder of all images, with one folder "
            "of images for each class"
        )
    if not dataset.is_dir():
        load_descriptor(dataset)
    _check_root(config.data.root)
    _check_weights(config.backbone.weights)
    start = config.train.init_from
    if start is not None and not start.is_file():
        raise PromptFileError(f"train.init_from {start}: {_missing(start)}; name a prompt file")


def check_empty(run_dir: Path) -> None:
    """Refuse a run directory with anything in it, for a run that cannot go on.

    Raises:
        RunError: naming the ways out.
    """
    if run_dir.is_dir() and any(run_dir.iterdir()):
        raise RunError(f"{run_dir} is not empty; use --overwrite, or another run_dir")


def _check_root(root: Path | None) -> None:
    if root is not None and not root.is_dir():
        raise DataError(f"data.root {root}: {_missing(root)}; name the folder of the images")


def _check_weights(weights: Path | None) -> None:
    if weights is not None and not weights.is_file():
        raise BackboneError(
            f"backbone.weights {weights}: {_missing(weights)}; name a .safetensors file"
        )


def _missing(path: Path) -> str:
    """That a path is not there, or of another kind, and which neighbour may have been meant."""
    if path.exists():
        if path.is_dir():
            return "is a folder"
        return "is a file" if path.is_file() else "is a device or a pipe"
    names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"no such file or folder{nearest(path.name, names)}"
