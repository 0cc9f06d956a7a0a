"""A detection run: its checked config becomes data, model and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vpt.api import check_saveable, create_detector
from vpt.backbones import Backbone
from vpt.config import DetectionRunConfig
from vpt.data import (
    BoxTransform,
    Descriptor,
    DetectionSplits,
    box_evaluation_transform,
    box_training_transform,
    layout_lines,
    load_descriptor,
    read_detection,
)
from vpt.data.cuts import cut_line, with_cuts
from vpt.engine.distributed import on_first
from vpt.engine.fit import FitSettings
from vpt.errors import ConfigError, DataError
from vpt.evaluation import check_coco_eval
from vpt.experiment.settings import backbone_of, fit_settings
from vpt.experiment.starting import start_detector
from vpt.models import Detector
from vpt.seeding import derive_seed


@dataclass(frozen=True)
class DetectionExperiment:
    """Everything of a detection run, built and checked; of images only the headers were read.

    Attributes:
        config: as given.
        descriptor: of the data set.
        splits: train, val, test.
        model: untrained, on the CPU.
        train_transform: (image, boxes, seed) -> `LetterboxedImage`.
        eval_transform: the same, letterboxed and no more.
        settings: for `fit`.
        notes: lines about what was decided while it was built.
    """

    config: DetectionRunConfig
    descriptor: Descriptor
    splits: DetectionSplits
    model: Detector
    train_transform: BoxTransform
    eval_transform: BoxTransform
    settings: FitSettings
    notes: tuple[str, ...] = ()

    @property
    def batches_per_epoch(self) -> int:
        """Training batches per epoch; the last may be smaller."""
        return -(-len(self.splits.require("train")) // self.config.data.batch_size)

    @property
    def data_lines(self) -> list[str]:
        """What to say of how the data were read."""
        cut = self.splits.cut
        return [*layout_lines(self.descriptor), *([] if cut is None else [cut_line(cut)])]

    def with_splits(self, splits: DetectionSplits) -> DetectionExperiment:
        """The same with other images, and what follows from their numbers."""
        _check_measurable(self.config, splits)
        settings = fit_settings(self.config, len(splits.require("train")))
        return replace(self, splits=splits, settings=settings)


def build_detection(
    config: DetectionRunConfig, *, backbone: Backbone | None = None
) -> DetectionExperiment:
    """Objects from a config.

    Args:
        config: checked.
        backbone: one in memory, to share between runs, instead of the config's.

    Several processes call it together.

    Raises:
        VptError: anything in the config that does not fit together.
    """
    if config.backbone.pool is not None:
        raise ConfigError(
            f"backbone.pool {config.backbone.pool}: a detector reads patch tokens and pools "
            "nothing; leave it out"
        )
    check_coco_eval(config.train.coco_eval)
    data = config.data
    descriptor = with_cuts(
        load_descriptor(data.dataset),
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
    )
    skip = config.data.on_bad_image == "skip"
    # Of several processes one reads the head of every image; the others get what it found.
    splits = on_first(
        lambda: read_detection(descriptor, config.data.root, problems="skip" if skip else "raise")
    )
    for name in ("train", "val"):
        splits.require(name)
    _check_measurable(config, splits)
    body = backbone or backbone_of(config)
    torch.manual_seed(derive_seed("init", config.seed))
    model = create_detector(
        body,
        config.prompt,
        head=config.head,
        neck=config.neck,
        tuning=config.tuning,
        class_names=splits.class_names,
        category_ids=splits.category_ids,
        preprocess=replace(body.preprocess, value_range=config.data.value_range),
    )
    _check_square(model)
    check_saveable(model, config)
    started = config.train.init_from
    notes = () if started is None else (start_detector(model, started),)
    return DetectionExperiment(
        config,
        descriptor,
        splits,
        model,
        train_transform=box_training_transform(model.preprocess, config.data.transform),
        eval_transform=box_evaluation_transform(model.preprocess),
        settings=fit_settings(config, len(splits.require("train"))),
        notes=notes,
    )


def _check_measurable(config: DetectionRunConfig, splits: DetectionSplits) -> None:
    """Refuse validation images without any box: there would be nothing to choose an epoch by."""
    if config.train.select != "last" and not any(splits.require("val").class_counts()):
        raise DataError(
            f"no box in split 'val' of {config.data.dataset}: {config.train.select} cannot choose "
            "the best epoch; add some, or set train.select: last"
        )


def _check_square(model: Detector) -> None:
    height, width = model.preprocess.size
    if height != width:
        raise ConfigError(
            f"detection letterboxes to a square, not to {height}x{width}; set backbone.image_size "
            "to one number"
        )
