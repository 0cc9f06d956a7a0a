"""Before the first step: what is checked of images, disk and an earlier attempt, and written."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vpt.config import AnyRunConfig, dump, load_config
from vpt.data import (
    LEFT_OUT,
    BadImage,
    DetectionSplits,
    EpochBatches,
    ScanMemory,
    Splits,
    Workers,
    boxes_hash,
    depth_warning,
    drop_bad,
    scan_images,
    share_of,
)
from vpt.data.splits import SPLIT_NAMES
from vpt.engine.checkpoint import Checkpoint, CheckpointStore
from vpt.engine.distributed import gathered, is_first, rank, world_size
from vpt.engine.progress import Log
from vpt.engine.run_dir import (
    RunDirectory,
    environment,
    free_bytes,
    write_json_atomic,
    write_text_atomic,
)
from vpt.errors import ConfigError, DataError, RunError
from vpt.experiment import AnyExperiment
from vpt.models import PromptedModel
from vpt.runs.feeding import dataset_of
from vpt.runs.plan import checkpoint_bytes
from vpt.storage.atomic_file import write_atomic

if TYPE_CHECKING:
    from vpt.engine.events import Events

FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "data.root",
        "data.num_workers",
        "data.cache",
        "data.cache_gb",
        "data.decoded",
        "data.decoded_dir",
        "data.decoded_gb",
        "data.scan",
        "train.max_hours",
        "train.checkpoint_seconds",
        "train.keep_checkpoints",
        "train.grad_checkpointing",
    }
)
"""Config keys that may differ between the attempts at one run: they do not change its numbers."""


def check_space(run: RunDirectory, experiment: AnyExperiment) -> None:
    """Room for the checkpoints kept, the one being written, and two prompt files."""
    need = (
        checkpoint_bytes(experiment) * (experiment.config.train.keep_checkpoints + 3) + 16 * 2**20
    )
    free = free_bytes(run.path)
    if free < need:
        raise RunError(
            f"{run.path} has {free / 2**20:.0f} MB of free disk space, the run needs about "
            f"{need / 2**20:.0f} MB; free some, or choose another run_dir"
        )


def scanned(experiment: AnyExperiment, log: Log) -> AnyExperiment:
    """The experiment without unreadable images, or one error that lists them all.

    Several processes share the images out, and all of them get the same. Images that a run has
    scanned before are decoded again only where their files have changed.
    """
    config, splits = experiment.config, experiment.splits
    if not config.data.scan:
        return experiment
    bad: dict[str, list[BadImage]] = {}
    for name in SPLIT_NAMES:
        split = splits.get(name)
        bad[name] = (
            _unreadable(split, config.data.num_workers, config.data.value_range) if split else []
        )
    problems = [f"{image.path}: {image.reason}" for images in bad.values() for image in images]
    if not problems:
        return experiment
    if config.data.on_bad_image == "error":
        listing = "\n".join(problems)
        raise DataError(
            f"{len(problems)} unreadable images (data.on_bad_image=skip leaves them out):\n"
            f"{listing}"
        )
    for problem in problems:
        log(f"{LEFT_OUT}{problem}")
    rest = experiment.splits.changed(lambda split: drop_bad(split, bad[split.name]))
    return experiment.with_splits(rest)  # type: ignore[arg-type] # of the same kind


def _unreadable(
    split: Any, num_workers: Workers, value_range: tuple[float, float] | None
) -> list[BadImage]:
    own = split.take(np.array(share_of(range(len(split)), rank(), world_size()), dtype=np.int64))
    memory = ScanMemory.of_user()
    found = (
        scan_images(own, num_workers, value_range=value_range, memory=memory) if own.samples else []
    )
    return [image for part in gathered(found) for image in part]


def log_pooling(model: PromptedModel, log: Log) -> None:
    """A line that says what a model's feature is made of, where it has one."""
    backbone, pooling = model.backbone, model.pooling
    if pooling is None:
        return
    own = pooling == backbone.own_pooling
    others = " or ".join(each for each in backbone.poolings if each != pooling)
    origin = "the backbone's own" if own else f"by backbone.pool; its own is {backbone.own_pooling}"
    hint = f", {others} by backbone.pool" if own and others else ""
    log(f"features: {pooling} pooling ({origin}{hint})")


def warn_of_depth(experiment: AnyExperiment, log: Log) -> None:
    """A line where images of more than 8 bits do not fit the range that they are scaled by."""
    for name in SPLIT_NAMES[:2] if is_first() else ():
        split = experiment.splits.get(name)
        found = depth_warning(split, experiment.config.data.value_range) if split else None
        if found is not None:
            log(f"warning: {found}")
            return


def newest_checkpoint(run: RunDirectory, log: Log) -> Checkpoint | None:
    """What to go on from, if anything."""
    return CheckpointStore(run.checkpoints).load_newest(log) if run.checkpoints.exists() else None


def refuse_other_config(run: RunDirectory, config: AnyRunConfig) -> None:
    """A run goes on, and its result stands, only with the config that it began with.

    Raises:
        ConfigError: naming what differs.
        RunError: the config that it began with is missing or damaged.
    """
    if not run.config.exists():
        raise _unusable(run.config, "is missing")
    try:
        before = load_config(run.config)
    except ConfigError as error:
        raise _unusable(run.config, f"is damaged ({error})") from error
    _refuse_other_config(before, config, run.path)


def _unusable(path: Path, what: str) -> RunError:
    return RunError(
        f"{path} {what}, so nothing shows whether this is the same run; put it back, or start anew "
        "with --overwrite"
    )


def _read_record(path: Path) -> dict[str, Any]:
    """A JSON object that the run wrote at its start.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _unusable(path, "is missing") from error
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "is damaged") from error
    if not isinstance(values, dict):
        raise _unusable(path, "is damaged")
    return values


def _refuse_other_config(before: AnyRunConfig, now: AnyRunConfig, path: Path) -> None:
    old, new = flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json"))
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    changed = [k for k in changed if k not in FREE_ON_RESUME]
    if changed:
        changes = ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in changed)
        raise ConfigError(
            f"{path} holds a run of another config ({changes}); go back to it, use --overwrite, "
            "or a new run_dir"
        )


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as one, by dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        k: v
        for key, value in values.items()
        for k, v in flat(value, f"{prefix}.{key}".strip(".")).items()
    }


def refuse_other_model(run: RunDirectory, experiment: AnyExperiment) -> None:
    """A run goes on, and its result stands, only with the weights and texts that it began with.

    Raises:
        RunError: naming what differs; also where the record of it is missing or damaged.
    """
    before, now = _read_record(run.identity), _identity(experiment)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        raise RunError(
            f"{run.path} holds a run of another model or other texts (other {', '.join(changed)}); "
            "give back what it had, use --overwrite, or a new run_dir"
        )


def _identity(experiment: AnyExperiment) -> dict[str, Any]:
    """What shapes the numbers of a run and is in none of its config: files may have changed."""
    model = experiment.model
    values: dict[str, Any] = {
        "image_tower_sha256": model.backbone.sha256,
        "activation": model.backbone.activation,
        "preprocess": model.preprocess.to_dict(),
        "head": None if model.head is None else model.head.options,
        "text": asdict(text) if (text := getattr(model, "text", None)) else None,
    }
    if getattr(model, "multi_label", False):
        values["multi_label"] = True
    return dict(json.loads(json.dumps(values)))


def refuse_other_data(run: RunDirectory, experiment: AnyExperiment) -> None:
    """A run goes on with the images, and the boxes, that it began with.

    Raises:
        DataError: naming what differs.
        RunError: the record of them is missing or damaged.
    """
    with suppress(OSError):
        if run.split.read_bytes() == _split_record(experiment.splits):
            return
    before, now = _read_keys(run.split), _split_keys(experiment.splits)
    boxes, new_boxes = before.pop(_BOXES, {}), now.pop(_BOXES, {})
    for name in boxes.keys() & new_boxes.keys():
        if boxes[name] != new_boxes[name]:
            raise DataError(
                f"{run.path} began with other boxes or categories in '{name}'; restore the "
                "annotation file, or start a new run_dir"
            )
    for name in before.keys() | now.keys():
        old, new = before.get(name, []), now.get(name, [])
        if old != new:
            changed = sorted(set(old) ^ set(new))
            what = f"{len(changed)} differ, e.g. {changed[0]}" if changed else "another order"
            raise DataError(
                f"{run.path} began with other data ('{name}': {what}); restore them, or start a "
                "new run_dir"
            )


def _read_keys(path: Path) -> dict[str, Any]:
    """What `_split_keys` gave when the run began."""
    keys = _read_record(path)
    for name, value in keys.items():
        is_whole = isinstance(value, dict if name == _BOXES else list)
        if not is_whole or not all(isinstance(key, str) for key in value):
            raise _unusable(path, "is damaged")
    return keys


def write_start(run: RunDirectory, experiment: AnyExperiment) -> None:
    """The config, the environment, and which image is in which split."""
    write_text_atomic(run.config, dump(experiment.config))
    write_json_atomic(run.environment, environment())
    write_atomic(run.split, [_split_record(experiment.splits)])
    write_json_atomic(run.identity, _identity(experiment))


_BOXES = "boxes_sha256"


def _split_keys(splits: Splits | DetectionSplits) -> dict[str, Any]:
    """Class names, each split's images by their keys, and a hash of its boxes."""
    return dict(json.loads(_split_record(splits)))


def _split_record(splits: Splits | DetectionSplits) -> bytes:
    """`split.json`; a text as of `write_json_atomic`, without a million strings on the way."""
    facts: dict[str, Any] = {"class_names": list(splits.class_names)}
    if isinstance(splits, DetectionSplits):
        facts[_BOXES] = {
            name: boxes_hash(each) for name in SPLIT_NAMES if (each := splits.get(name)) is not None
        }
    text = bytearray(json.dumps(facts, indent=2).removesuffix("\n}").encode())
    for name in SPLIT_NAMES:
        split = splits.get(name)
        if split is not None:
            text += f',\n  "{name}": ['.encode()
            for place, key in enumerate(split.table.keys):
                text += f"{',' if place else ''}\n    {json.dumps(key)}".encode()
            text += b"\n  ]" if len(split) else b"]"
    return bytes(text) + b"\n}\n"


def show_start(events: Events, experiment: AnyExperiment) -> None:
    """What the network will see: 16 augmented training images, and the config."""
    split = experiment.splits.require("train")
    dataset = dataset_of(split, experiment.train_transform, experiment.config.seed)
    order = EpochBatches(len(split), min(16, len(split)), seed=experiment.config.seed, epoch=0)
    images = torch.stack([dataset[item][0] for item in next(iter(order))])
    events.images(0, "train/inputs", images)
    events.text("config", dump(experiment.config))
