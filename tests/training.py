"""Tiny runs: the smallest real config, and what two runs are compared by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.config import RunConfig, validate
from vpt.engine.checkpoint import CheckpointStore
from vpt.engine.prompt_file import read_prompt_file

TIMED = ("seconds", "train_seconds", "val_seconds", "energy", "best_sha256")
"""State that differs between any two runs: time, energy, and the file that names the run_dir."""


def make_config(run_dir: Path, data: Path, **changes: Any) -> RunConfig:
    """A run on the CPU; changes are dotted keys with `__` for the dot: train__epochs=2."""
    values: dict[str, Any] = {
        "run_dir": str(run_dir),
        "backbone": {"name": "timm/test_vit", "pretrained": False, "image_size": 32},
        "prompt": {"name": "vpt_deep", "num_tokens": 2},
        "data": {"dataset": str(data), "batch_size": 4, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 0.01},
        "train": {"epochs": 2, "device": "cpu", "log_every": 1},
    }
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        place = values
        for step in section.split("__") if section else []:
            place = place.setdefault(step, {})
        place[name] = value
    return validate(RunConfig, values, "test")


def metrics_lines(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the keys whose values are time."""
    timed = {"time", "train/images_per_second", "train/data_wait"}
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def prompt_tensors(run_dir: Path, name: str = "prompt.safetensors") -> dict[str, Tensor]:
    """The tensors of a run's prompt file."""
    return read_prompt_file(run_dir / name)[1]


def newest_checkpoint(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (optimiser's included) and state of the newest checkpoint, without `TIMED`."""
    checkpoint = CheckpointStore(run_dir / "checkpoints").load_newest(lambda line: None)
    assert checkpoint is not None
    fit = {key: value for key, value in checkpoint.state["fit"].items() if key not in TIMED}
    return checkpoint.tensors, {**checkpoint.state, "fit": fit}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors have the same names, types, shapes and bytes."""
    return one.keys() == other.keys() and all(
        t.dtype == other[name].dtype
        and t.shape == other[name].shape
        and t.numpy().tobytes() == other[name].numpy().tobytes()
        for name, t in one.items()
    )


def result_without_time(run_dir: Path) -> dict[str, Any]:
    """result.json without time and memory, and the prompt file's size, which its path enters."""
    timed = ("seconds", "images_per_second", "val_images_per_second", "energy")
    timed += ("peak_memory_bytes", "prompt_bytes")
    result = json.loads((run_dir / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in timed}
