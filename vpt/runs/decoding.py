"""The decoded images of a run, as `data.decoded` says: found, built, or left out with a reason."""

from __future__ import annotations

import time
from pathlib import Path

from vpt.config import RunConfig
from vpt.data import (
    DecodedImages,
    Split,
    build_decoded,
    decoded_path,
    decoded_sizes,
    find_decoded,
    make_room,
)
from vpt.data.splits import SplitName
from vpt.engine.interrupt import interrupted_at_once
from vpt.engine.progress import Log
from vpt.errors import ConfigError, DataError
from vpt.experiment import Experiment, bytes_text, plan_cache
from vpt.storage.atomic_file import free_bytes
from vpt.storage.cache import cache_folder
from vpt.storage.records import RecordsError

_NAMES: dict[SplitName, str] = {"train": "training", "val": "validation"}
"""The splits that are read more than once, and what their images are called."""


def decoded_folder(config: RunConfig) -> Path:
    """Where decoded images are: `data.decoded_dir`, or `decoded` in $VPT_CACHE or ~/.cache/vpt."""
    if config.data.decoded_dir is not None:
        return config.data.decoded_dir
    return cache_folder("decoded")


def decoded_images(experiment: Experiment, log: Log) -> dict[SplitName, DecodedImages]:
    """The decoded images of the training and validation splits, those that are kept.

    A full or broken disk costs a line of the log, and images are decoded every epoch.

    Args:
        experiment: built; its images were scanned.
        log: takes lines on what is kept, and what is not.

    Raises:
        ConfigError: `data.decoded: disk` is asked for what does not fit, or is not decoded at all.
    """
    found: dict[SplitName, DecodedImages] = {}
    if experiment.config.data.decoded == "none":
        return found
    for name, what in _NAMES.items():
        split = experiment.splits.get(name)
        if split is None:
            continue
        try:
            found[name] = _kept(experiment, split, name, list(found.values()), log)
        except _LeftOut as left_out:
            if left_out.by_config and experiment.config.data.decoded == "disk":
                raise ConfigError(
                    f"data.decoded disk: {what} images cannot be kept, because {left_out}; set "
                    "data.decoded=auto, which does without, or none"
                ) from left_out
            log(f"decoded: no {what} images, because {left_out}")
    return found


class _LeftOut(Exception):  # noqa: N818 (no error of anybody's)
    """Why images are not kept; `by_config`: another config would help, not another disk."""

    def __init__(self, reason: object, *, by_config: bool = False):
        super().__init__(reason)
        self.by_config = by_config


def _kept(
    experiment: Experiment, split: Split, name: SplitName, held: list[DecodedImages], log: Log
) -> DecodedImages:
    """The decoded images of one split, besides those that are `held`."""
    config, began = experiment.config, time.monotonic()
    transform = experiment.train_transform if name == "train" else experiment.eval_transform
    _check_use(experiment, split, name)
    folder, workers = decoded_folder(config), config.data.num_workers
    room = config.data.decoded_gb * 1e9 - sum(each.nbytes for each in held)
    try:
        path = decoded_path(folder, split, transform)
        images, how = _found(path, log), "found"
        if images is None:
            sizes = decoded_sizes(split, transform, workers)
            _check_room(config, folder, int(3 * sizes.prod(axis=1).sum()), room, held)
            stopped = f"stopped by {{signal}} while {_NAMES[name]} images were decoded"
            with interrupted_at_once(f"{stopped}; go on with --resume"):
                images = build_decoded(path, split, transform, sizes, num_workers=workers)
            how = f"in {time.monotonic() - began:,.1f} s, kept"
    except OSError as error:
        raise _LeftOut(f"{folder} cannot take them ({error.strerror or error})") from error
    except DataError as error:
        raise _LeftOut(error) from error
    size = bytes_text(images.nbytes)
    log(f"decoded: {len(split):,} {_NAMES[name]} images, {size}, {how} in {folder}")
    return images


def _found(path: Path, log: Log) -> DecodedImages | None:
    try:
        return find_decoded(path)
    except RecordsError as error:
        log(f"decoded: {error}; it is built anew")
        return None


def _check_use(experiment: Experiment, split: Split, name: SplitName) -> None:
    """Leave out what was never encoded; with 'auto' also what is not read again."""
    config = experiment.config
    if split.table.sources.in_arrays:
        raise _LeftOut("they are in memory already", by_config=True)
    if config.data.decoded == "disk":
        return
    cache = plan_cache(config, experiment.model, experiment.splits)
    if cache.train if name == "train" else cache.val:
        raise _LeftOut("data.cache keeps what the model makes of them")
    if config.train.epochs == 1:
        raise _LeftOut("they are read in one epoch only")


def _check_room(
    config: RunConfig, folder: Path, needed: int, room: float, held: list[DecodedImages]
) -> None:
    """Leave out what does not fit the cap or the disk; older files make room."""
    if needed > room:
        raise _LeftOut(
            f"{bytes_text(needed)} are more than is left of data.decoded_gb "
            f"{config.data.decoded_gb:g} ({bytes_text(room)}; raise it)",
            by_config=True,
        )
    own = {each.path for each in held}
    most = config.data.decoded_gb * 1e9
    make_room(folder, needed, most=most, keep=lambda path: path in own)
    free = free_bytes(folder)
    if free < needed:
        raise _LeftOut(
            f"{folder} has {bytes_text(free)} of free disk space, they need {bytes_text(needed)}"
        )
