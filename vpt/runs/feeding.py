"""The images of an experiment, of either task, as batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from vpt.config import AnyRunConfig, DetectionRunConfig
from vpt.data import (
    DetectionDataset,
    DetectionSplit,
    EpochBatches,
    ImageDataset,
    Split,
    make_detection_loader,
    make_loader,
    share_of,
)
from vpt.engine.distributed import rank, world_size
from vpt.engine.fit import FitData
from vpt.engine.progress import Log
from vpt.errors import ConfigError
from vpt.evaluation import ClassificationEvaluator, CocoEval, Evaluator, MultiLabelEvaluator
from vpt.experiment import AnyExperiment, Experiment, plan_cache
from vpt.models import start_from_patches
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.cache import KeptBatches, KeptImages, Start, place_free
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
        cached: whether `data.cache` holds.
        log: told what is kept, and what is not.

    Raises:
        ConfigError: `data.cache: memory` cannot be had.
    """
    config = experiment.config
    train_split, val_split = experiment.splits.require("train"), experiment.splits.get("val")
    dataset = dataset_of(train_split, experiment.train_transform, config.seed)

    def train_batches(epoch: int, start_batch: int) -> Iterable[AnyBatch | None]:
        batches = _order(experiment, epoch, start_batch)
        return _load_parts(dataset, batches, num_workers=config.data.num_workers, device=device)

    def val_batches(split: AnySplit) -> Iterable[AnyBatch]:
        return in_order(
            split,
            experiment.eval_transform,
            batch_size=config.data.eval_batch_size or config.data.batch_size,
            num_workers=config.data.num_workers,
            device=device,
        )

    data = FitData(
        train_batches,
        experiment.batches_per_epoch,
        val=None if val_split is None else partial(val_batches, val_split),
        evaluator=evaluator_of(
            val_split or train_split, results=results, coco_eval=coco_eval_of(config)
        ),
    )
    if cached and isinstance(experiment, Experiment) and not isinstance(dataset, DetectionDataset):
        return _with_cache(data, experiment, dataset, device, log)
    return data


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
        data = replace(data, train=lambda *at: _kept_batches(experiment, images, *at))
    return data


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


def _labels_to_balance(experiment: AnyExperiment) -> tuple[int, ...] | None:
    """The labels of the training images, where their classes are to come equally often."""
    if isinstance(experiment, Experiment) and experiment.config.data.balance:
        return experiment.splits.require("train").labels
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
    split: AnySplit, transform: Any, *, batch_size: int, num_workers: int, device: torch.device
) -> Iterable[AnyBatch]:
    """The batches of a split, every image once, in its own order; of N processes every Nth."""
    batches = EpochBatches(len(split), batch_size, seed=0, epoch=0, shuffle=False)
    own = batches if world_size() == 1 else list(batches)[rank() :: world_size()]
    dataset = dataset_of(split, transform, seed=0)
    return _load(dataset, own, num_workers=num_workers, device=device)


def dataset_of(split: AnySplit, transform: Any, seed: int) -> ImageDataset | DetectionDataset:
    """A split as tensors by (epoch, index); the first of an item is its image."""
    if isinstance(split, DetectionSplit):
        return DetectionDataset(split, transform, seed)
    return ImageDataset(split, transform, seed)


def _load_parts(
    dataset: ImageDataset | DetectionDataset,
    batches: EpochBatches,
    *,
    num_workers: int,
    device: torch.device,
) -> Iterable[AnyBatch | None]:
    """Of each batch the part that this process has; None where it is empty."""
    load = partial(_load, dataset, num_workers=num_workers, device=device)
    if world_size() == 1:
        return load(batches)
    parts = [list(share_of(batch, rank(), world_size())) for batch in batches]
    own = [part for part in parts if part]
    # Only the last batch of an epoch is smaller than the others, so empty parts come last.
    return chain(load(own), repeat(None, len(parts) - len(own)))


def _load(
    dataset: ImageDataset | DetectionDataset,
    batches: EpochBatches | list[list[tuple[int, int]]],
    *,
    num_workers: int,
    device: torch.device,
) -> Iterable[AnyBatch]:
    pin = device.type == "cuda"
    if isinstance(dataset, DetectionDataset):
        return make_detection_loader(dataset, batches, num_workers=num_workers, pin_memory=pin)
    return make_loader(dataset, batches, num_workers=num_workers, pin_memory=pin)


def start_prompts(experiment: AnyExperiment, device: torch.device) -> None:
    """Patch tokens of up to 64 training images, where the prompt's initialiser asks for them."""
    prompted = experiment.model.prompted
    if not prompted.prompt.wants_patches or experiment.config.train.init_from is not None:
        return
    config, split = experiment.config, experiment.splits.require("train")
    seed = derive_seed("init-patches", config.seed)
    batches = EpochBatches(len(split), min(64, len(split)), seed=seed, epoch=0)
    dataset = dataset_of(split, experiment.eval_transform, seed=0)
    batch = next(iter(_load(dataset, batches, num_workers=0, device=torch.device("cpu"))))
    assert isinstance(batch.images, torch.Tensor)
    start_from_patches(prompted, batch.images.to(device), torch.Generator().manual_seed(seed))
