"""The images of an experiment as batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from vpt.data import (
    EpochBatches,
    ImageDataset,
    Split,
    Transform,
    make_loader,
)
from vpt.engine.fit import FitData
from vpt.evaluation import ClassificationEvaluator
from vpt.experiment import Experiment
from vpt.models import start_from_patches
from vpt.seeding import derive_seed
from vpt.structures import Batch


def fit_data(experiment: Experiment, device: torch.device) -> FitData:
    """Training and validation batches for `fit`."""
    config = experiment.config
    train_split, val_split = experiment.splits.require("train"), experiment.splits.require("val")
    dataset = ImageDataset(train_split, experiment.train_transform, config.seed)

    def train_batches(epoch: int, start_batch: int) -> Iterable[Batch]:
        batches = EpochBatches(
            len(dataset),
            config.data.batch_size,
            seed=config.seed,
            epoch=epoch,
            start_batch=start_batch,
        )
        pin = device.type == "cuda"
        return make_loader(dataset, batches, num_workers=config.data.num_workers, pin_memory=pin)

    def val_batches() -> Iterable[Batch]:
        return in_order(
            val_split,
            experiment.eval_transform,
            batch_size=config.data.eval_batch_size or config.data.batch_size,
            num_workers=config.data.num_workers,
            device=device,
        )

    evaluator = ClassificationEvaluator(len(experiment.splits.class_names))
    return FitData(train_batches, experiment.batches_per_epoch, val_batches, evaluator)


def in_order(
    split: Split, transform: Transform, *, batch_size: int, num_workers: int, device: torch.device
) -> Iterable[Batch]:
    """The batches of a split, every image once, in its own order."""
    batches = EpochBatches(len(split), batch_size, seed=0, epoch=0, shuffle=False)
    dataset = ImageDataset(split, transform, seed=0)
    return make_loader(dataset, batches, num_workers=num_workers, pin_memory=device.type == "cuda")


def start_prompts(experiment: Experiment, device: torch.device) -> None:
    """Patch tokens of up to 64 training images, where the prompt's initialiser asks for them."""
    prompted = experiment.model.prompted
    if not prompted.prompt.wants_patches or experiment.config.train.init_from is not None:
        return
    config, split = experiment.config, experiment.splits.require("train")
    seed = derive_seed("init-patches", config.seed)
    batches = EpochBatches(len(split), min(64, len(split)), seed=seed, epoch=0)
    dataset = ImageDataset(split, experiment.eval_transform, seed=0)
    batch = next(iter(make_loader(dataset, batches, num_workers=0, pin_memory=False)))
    start_from_patches(prompted, batch.images.to(device), torch.Generator().manual_seed(seed))
