"""The images of an experiment, of either task, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vpt.config import AnyRunConfig, DetectionRunConfig
from vpt.data import (
    BatchLoader,
    DecodedDataset,
    DecodedImages,
    DetectionDataset,
    DetectionSplit,
    EpochBatches,
    ImageDataset,
    Split,
    Workers,
    make_detection_loader,
    make_loader,
    share_of,
    usable_cores,
    worker_count,
)
from vpt.data.splits import SplitName
from vpt.engine.distributed import on_first, rank, world_size
from vpt.engine.fit import FitData
from vpt.engine.progress import Log
from vpt.engine.transfer import on_device
from vpt.errors import ConfigError
from vpt.evaluation import ClassificationEvaluator, CocoEval, Evaluator, MultiLabelEvaluator
from vpt.experiment import AnyExperiment, Experiment, plan_cache
from vpt.models import start_from_patches
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.cache import KeptBatches, KeptImages, Start, place_free
from vpt.runs.decoding import decoded_images
from vpt.seeding import derive_seed
from vpt.structures import AnyBatch, Begun

AnySplit = Split | DetectionSplit


def fit_data(
    experiment: AnyExperiment,
    device: torch.device,
    *,
    results: Path | None = None,
    cached: bool = True,
    log: Log = lambda line: None,
) -> FitData:
    """Training and validation batches for `fit`.

    Args:
        experiment: built; with a cache its model is on the device.
        device: where batches will go.
        results: where a detector's validation writes its detections.
        cached: whether `data.cache` and `data.decoded` hold.
        log: takes lines on what is kept, and what is not.

    Raises:
        ConfigError: `data.cache: memory` or `data.decoded: disk` is not possible.
    """
    config = experiment.config
    train_split, val_split = experiment.splits.require("train"), experiment.splits.get("val")
    decoded: dict[SplitName, DecodedImages] = {}
    if cached and isinstance(experiment, Experiment):
        if world_size() > 1:  # the others find what the first one built
            on_first(lambda: len(decoded_images(experiment, log)))
        decoded = decoded_images(experiment, log if world_size() == 1 else _silent)
    dataset = dataset_of(train_split, experiment.train_transform, config.seed, decoded.get("train"))
    preprocess = experiment.model.preprocess

    train_loader = _loader(dataset, config.data.num_workers, device)

    def train_batches(epoch: int, start_batch: int) -> Iterable[AnyBatch | None]:
        parts, empty = _own_parts(_order(experiment, epoch, start_batch))
        return chain(on_device(train_loader.of(parts), device, preprocess), repeat(None, empty))

    def val_batches(split: AnySplit) -> Callable[[], Iterable[AnyBatch]]:
        seen = dataset_of(split, experiment.eval_transform, 0, decoded.get("val"))
        # What `data.cache` keeps of them is asked for once.
        again = isinstance(config, DetectionRunConfig) or config.data.cache == "none"
        loader = _loader(seen, config.data.num_workers, device, keep_workers=again)
        batch_size = config.data.eval_batch_size or config.data.batch_size
        return lambda: on_device(loader.of(_in_order(split, batch_size)), device, preprocess)

    data = FitData(
        train_batches,
        experiment.batches_per_epoch,
        val=None if val_split is None else val_batches(val_split),
        evaluator=evaluator_of(
            val_split or train_split, results=results, coco_eval=coco_eval_of(config)
        ),
        advice=partial(faster_data, experiment),
    )
    if cached and isinstance(experiment, Experiment) and not isinstance(dataset, DetectionDataset):
        return _with_cache(data, experiment, dataset, device, log)
    return data


def _silent(line: str) -> None:
    """A log for what another process has logged already."""


def _with_cache(
    data: FitData,
    experiment: Experiment,
    dataset: ImageDataset,
    device: torch.device,
    log: Log,
) -> FitData:
    """The same batches, begun by the unchanging part of the model as `data.cache` says."""
    plan = plan_cache(experiment.config, experiment.model, experiment.splits)
    start = Start(experiment.model, device, experiment.config.train.precision)
    lines, sizes = dict(plan.lines), dict[int, Begun]()
    if plan.train:
        sizes, lines["train"] = _kept_sizes(experiment, start, lines["train"])
    for line in lines.values():
        log(f"cache: {line}")
    if plan.val and data.val is not None:
        data = replace(data, val=KeptBatches(data.val, start))  # type: ignore[arg-type]
    if sizes:
        images = KeptImages(dataset, start, sizes)
        # What its first epoch waits for is the model, too.
        data = replace(data, train=lambda *at: _kept_batches(experiment, images, *at), advice=None)
    return data


def faster_data(experiment: AnyExperiment) -> list[str]:
    """What to change in a config whose training waits for its images, best first."""
    config = experiment.config
    found = []
    if isinstance(experiment, Experiment) and experiment.config.data.cache == "none":
        data = experiment.config.data.model_copy(update={"cache": "auto"})
        cached = experiment.config.model_copy(update={"data": data})
        if plan_cache(cached, experiment.model, experiment.splits).train:
            found.append("data.cache=auto")
    now, most = worker_count(config.data.num_workers), worker_count("auto")
    if now < most:
        found.append(f"data.num_workers={most} (now {now}, {usable_cores()} cores here)")
    if isinstance(experiment, Experiment) and experiment.config.data.decoded == "none":
        train_split = experiment.splits.require("train")
        if not train_split.table.sources.in_arrays:
            found.append("data.decoded=disk")
    return found


def _kept_batches(
    experiment: Experiment, images: KeptImages, epoch: int, start_batch: int
) -> Iterable[AnyBatch]:
    order, workers = _order(experiment, epoch, start_batch), experiment.config.data.num_workers
    return images.batches(order, num_workers=workers)


def _kept_sizes(experiment: Experiment, start: Start, line: str) -> tuple[dict[int, Begun], str]:
    """Sizes of training batches by which images are kept, and the line about it.

    Raises:
        ConfigError: there are none, and the cache is asked for.
    """
    sizes, reason = _place_free(experiment, start)
    if sizes:
        return sizes, f"{line}; {reason}" if reason else line
    if experiment.config.data.cache == "memory":
        raise ConfigError(f"data.cache memory: {reason}, or data.cache=auto, which does without")
    return {}, f"computes training images every epoch, because {reason}"


def _place_free(experiment: Experiment, start: Start) -> tuple[dict[int, Begun], str]:
    """Sizes of training batches in which an image has the same bits wherever it stands.

    None, where it has not even in full ones. And why a size is left out.
    """
    images, batch_size = len(experiment.splits.require("train")), experiment.config.data.batch_size
    full, last = min(images, batch_size), images % batch_size
    sizes = place_free(start, [full, last] if last and last < full else [full])
    if full not in sizes:
        return {}, (
            "an image's last bits depend on its place in the batch here; one thread "
            "(OMP_NUM_THREADS=1) helps"
        )
    if last and last not in sizes:
        return sizes, f"the last {last} of each epoch anew, whose bits differ in so small a batch"
    return sizes, ""


def _order(experiment: AnyExperiment, epoch: int, start_batch: int) -> EpochBatches:
    """Which training images come in which batch."""
    config = experiment.config
    return EpochBatches(
        len(experiment.splits.require("train")),
        config.data.batch_size,
        seed=config.seed,
        epoch=epoch,
        start_batch=start_batch,
        balance=_labels_to_balance(experiment),
    )


def _labels_to_balance(experiment: AnyExperiment) -> NDArray[np.int32] | None:
    """The labels of the training images, where their classes are to come equally often."""
    if isinstance(experiment, Experiment) and experiment.config.data.balance:
        return experiment.splits.require("train").label_array
    return None


def coco_eval_of(config: AnyRunConfig) -> CocoEval:
    """Who computes the metrics of boxes; without a meaning for classes."""
    return config.train.coco_eval if isinstance(config, DetectionRunConfig) else "pycocotools"


def evaluator_of(
    split: AnySplit, *, results: Path | None = None, coco_eval: CocoEval = "pycocotools"
) -> Evaluator:
    """What measures a split: classes, sets of them, or boxes."""
    if isinstance(split, DetectionSplit):
        return BoxEvaluator(split, results, coco_eval=coco_eval)
    if split.multi_label:
        return MultiLabelEvaluator(len(split.class_names))
    return ClassificationEvaluator(len(split.class_names))


def in_order(
    split: AnySplit,
    transform: Any,
    *,
    batch_size: int,
    num_workers: Workers,
    device: torch.device,
) -> Iterable[AnyBatch]:
    """The batches of a split on the device, every image once, in its own order.

    Of N processes each has every Nth.

    Args:
        split: is read whole.
        transform: of evaluation.
        batch_size: images per batch; the last one may be smaller.
        num_workers: processes that decode images.
        device: where the batches go.
    """
    dataset = dataset_of(split, transform, 0)
    loader = _loader(dataset, num_workers, device, keep_workers=False)
    return on_device(loader.of(_in_order(split, batch_size)), device, transform.preprocess)


def _in_order(split: AnySplit, batch_size: int) -> EpochBatches | list[list[tuple[int, int]]]:
    batches = EpochBatches(len(split), batch_size, seed=0, epoch=0, shuffle=False)
    return batches if world_size() == 1 else list(batches)[rank() :: world_size()]


def _own_parts(batches: EpochBatches) -> tuple[EpochBatches | list[list[tuple[int, int]]], int]:
    """Of each batch the part that this process has; and how many of them are empty.

    Only the last batch of an epoch is smaller than the others, so empty parts come last.
    """
    if world_size() == 1:
        return batches, 0
    parts = [list(share_of(batch, rank(), world_size())) for batch in batches]
    own = [part for part in parts if part]
    return own, len(parts) - len(own)


def dataset_of(
    split: AnySplit, transform: Any, seed: int, decoded: DecodedImages | None = None
) -> ImageDataset | DetectionDataset:
    """A split as tensors by (epoch, index); the first of an item are its image's pixels, uint8.

    Args:
        split: of either task.
        transform: its pixels are taken, not yet normalised.
        seed: of the run.
        decoded: the images of the split as the transform settles them, to be read instead.
    """
    scaled = transform.preprocess.value_range
    if isinstance(split, DetectionSplit):
        return DetectionDataset(split, transform.pixels, seed, value_range=scaled)
    if decoded is not None:
        return DecodedDataset(split, transform, seed, decoded)
    return ImageDataset(split, transform.pixels, seed, value_range=scaled)


def _loader(
    dataset: ImageDataset | DetectionDataset,
    num_workers: Workers,
    device: torch.device,
    *,
    keep_workers: bool = True,
) -> BatchLoader[Any]:
    """A loader of pixels for `on_device`; its batches are named for each epoch."""
    pin = device.type == "cuda"
    make = make_detection_loader if isinstance(dataset, DetectionDataset) else make_loader
    return make(
        dataset,  # type: ignore[arg-type] # which `make` is for
        [],
        num_workers=num_workers,
        pin_memory=pin,
        keep_workers=keep_workers,
    )


def start_prompts(experiment: AnyExperiment, device: torch.device) -> None:
    """Patch tokens of up to 64 training images, where the prompt's initialiser asks for them."""
    prompted = experiment.model.prompted
    if not prompted.prompt.wants_patches or experiment.config.train.init_from is not None:
        return
    config, split = experiment.config, experiment.splits.require("train")
    seed = derive_seed("init-patches", config.seed)
    batches = EpochBatches(len(split), min(64, len(split)), seed=seed, epoch=0)
    dataset = dataset_of(split, experiment.eval_transform, seed=0)
    preprocess, cpu = experiment.model.preprocess, torch.device("cpu")
    loader = _loader(dataset, 0, cpu, keep_workers=False)
    batch = next(iter(on_device(loader.of(batches), cpu, preprocess)))
    assert isinstance(batch.images, torch.Tensor)
    start_from_patches(prompted, batch.images.to(device), torch.Generator().manual_seed(seed))
