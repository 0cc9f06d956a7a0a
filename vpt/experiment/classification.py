"""A classification run: its checked config becomes data, model and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from vpt.api import check_head, check_saveable, create_model
from vpt.backbones import Backbone
from vpt.config import RunConfig
from vpt.data import (
    Descriptor,
    Mixing,
    Splits,
    Transform,
    apply_selection,
    check_classes,
    coop_few_shot,
    evaluation_transform,
    few_shot,
    layout_lines,
    load_descriptor,
    read_splits,
    restrict_classes,
    training_transform,
    with_val_in_train,
)
from vpt.data.cuts import with_cuts
from vpt.engine.fit import FitSettings
from vpt.errors import ConfigError, DataError
from vpt.experiment.caching import plan_cache
from vpt.experiment.settings import backbone_of, fit_settings
from vpt.experiment.starting import start_classifier
from vpt.models import Classifier, Consistency
from vpt.seeding import derive_seed
from vpt.structures import Preprocess

if TYPE_CHECKING:
    from vpt.text import TextTower

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Experiment:
    """Everything of a run, built and checked; no image has been read.

    Attributes:
        config: as given.
        descriptor: of the data set.
        splits: train (cut to `data.shots`, or with val in it), val, test.
        model: untrained, on the CPU.
        train_transform: (image, seed) -> tensor.
        eval_transform: the same with the seed ignored.
        settings: for `fit`.
        notes: lines about what was decided while it was built.
    """

    config: RunConfig
    descriptor: Descriptor
    splits: Splits
    model: Classifier
    train_transform: Transform
    eval_transform: Transform
    settings: FitSettings
    notes: tuple[str, ...] = ()

    @property
    def batches_per_epoch(self) -> int:
        """Training batches per epoch; the last may be smaller."""
        return -(-len(self.splits.require("train")) // self.config.data.batch_size)

    @property
    def data_lines(self) -> list[str]:
        """What to say of how the data were read."""
        return [*layout_lines(self.descriptor), *self.splits.notes]

    def with_splits(self, splits: Splits) -> Experiment:
        """The same with other images, and what follows from their numbers."""
        return replace(self, splits=splits, settings=_fit_settings(self.config, splits))


def build_classification(
    config: RunConfig, *, backbone: Backbone | None = None, text: TextTower | None = None
) -> Experiment:
    """Objects from a config.

    Args:
        config: checked.
        backbone: one in memory, to share between runs, instead of the config's.
        text: its text tower, likewise, for heads of texts.

    Raises:
        VptError: anything in the config that does not fit together.
    """
    descriptor, splits = load_splits(config)
    if len(splits.class_names) < 2 and not splits.multi_label:
        raise DataError(
            f"data.classes {config.data.classes} of '{descriptor.name}' are one, "
            f"'{splits.class_names[0]}': there is nothing to tell apart; use all classes"
        )
    check_head(config.head, config.backbone.name)
    body = backbone or backbone_of(config)
    torch.manual_seed(derive_seed("init", config.seed))
    model = create_model(
        body,
        config.prompt,
        num_classes=len(splits.class_names),
        head=head_with_templates(config.head, descriptor),
        tuning=config.tuning,
        class_names=splits.class_names,
        text_names=splits.text_names,
        text=text,
        preprocess=preprocess_of(body, config.data.preprocess, config.data.value_range),
        multi_label=splits.multi_label,
    )
    if not model.trainable_parameters():
        raise ConfigError(
            "nothing to train: no prompt, no head with parameters and a frozen backbone"
        )
    model.check_consistency(Consistency(**config.loss.consistency.model_dump()))
    check_saveable(model, config)
    plan_cache(config, model, splits)
    started = config.train.init_from
    notes = () if started is None else (start_classifier(model, started),)
    return Experiment(
        config,
        descriptor,
        splits,
        model,
        train_transform=training_transform(model.preprocess, config.data.transform),
        eval_transform=evaluation_transform(model.preprocess),
        settings=_fit_settings(config, splits),
        notes=notes,
    )


def described(config: RunConfig) -> Descriptor:
    """The descriptor of a config's data set, with the cuts that its `data` section asks for."""
    data = config.data
    return with_cuts(
        load_descriptor(data.dataset),
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
    )


def load_splits(config: RunConfig) -> tuple[Descriptor, Splits]:
    """The data set of a config, with the images and classes that its `data` section chooses."""
    descriptor = described(config)
    splits = _chosen(config, read_splits(descriptor, config.data.root))
    splits.require("train")
    if config.data.train_on == "train":
        splits.require("val")
    splits = restrict_classes(splits, config.data.classes)
    check_classes(descriptor, splits)
    return descriptor, splits


def _chosen(config: RunConfig, splits: Splits) -> Splits:
    """The splits with the images of `data.selection`, or `data.shots` of each class."""
    data = config.data
    for key in ("shots", "balance"):
        if getattr(data, key):
            splits.require_single_label(f"data.{key}")
    if data.train_on == "train_and_val":
        return with_val_in_train(splits)
    if data.selection is not None:
        return apply_selection(splits, data.selection)
    train = splits.require("train")
    if data.shots is None:
        return splits
    if data.sampling == "coop":
        train, val = coop_few_shot(train, splits.val, data.shots, config.seed)
        return replace(splits, train=train, val=val)
    return replace(splits, train=few_shot(train, data.shots, config.seed))


def head_with_templates(head: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    """A head's options, with the data set's own templates where it has texts and names none."""
    says_nothing = "templates" in head and head["templates"] is None
    if says_nothing and head["class_prompts"] is None and descriptor.text.templates:
        return {**head, "templates": descriptor.text.templates}
    return head


def preprocess_of(
    backbone: Backbone, choice: str, value_range: tuple[float, float] | None = None
) -> Preprocess:
    """How images are prepared, by `data.preprocess` and `data.value_range`."""
    own = replace(backbone.preprocess, value_range=value_range)
    if choice == "backbone":
        return own
    paper = Preprocess(own.size, IMAGENET_MEAN, IMAGENET_STD, "bilinear", value_range=value_range)
    if choice == "squash":
        return replace(paper, crop_mode="squash")
    return replace(paper, crop_pct=0.875)


def _fit_settings(config: RunConfig, splits: Splits) -> FitSettings:
    return replace(
        fit_settings(config, len(splits.require("train"))),
        select=_select(config, splits),
        label_smoothing=config.loss.label_smoothing,
        class_weights=_class_weights(config, splits),
        consistency=Consistency(**config.loss.consistency.model_dump()),
        mixing=Mixing(**config.data.mix.model_dump()),
    )


_SINGLE_LABEL_METRICS = ("top1", "mean_class_accuracy")
_MULTI_LABEL_METRICS = ("mAP", "macro_f1", "micro_f1")


def _select(config: RunConfig, splits: Splits) -> str:
    """The metric that picks the best epoch; one that these data do not have is refused."""
    known = _MULTI_LABEL_METRICS if splits.multi_label else _SINGLE_LABEL_METRICS
    select = config.train.select or known[0]
    if select not in (*known, "loss", "last"):
        kind = "multi-label" if splits.multi_label else "single-label"
        raise ConfigError(
            f"train.select {select} is no metric of {kind} data; use {', '.join(known)}, loss, last"
        )
    if splits.multi_label and select in known and not any(splits.require("val").class_counts()):
        raise DataError(
            f"no image of 'val' in {config.data.dataset} has a label: {select} cannot choose the "
            "best epoch; add some, or set train.select: last"
        )
    return select


def _class_weights(config: RunConfig, splits: Splits) -> tuple[float, ...] | None:
    """'balanced': images / (classes x images of the class), so that an image's mean weight is 1.

    Of multi-label data: images without the class / images of the class.
    """
    weights = config.loss.class_weights
    if weights is None:
        return None
    train, classes = splits.require("train"), len(splits.class_names)
    if weights == "balanced":
        counts = train.class_counts()
        if 0 in counts:
            empty = splits.class_names[counts.index(0)]
            raise ConfigError(f"loss.class_weights balanced: class '{empty}' has no training image")
        if splits.multi_label:
            if len(train) in counts:
                full = splits.class_names[counts.index(len(train))]
                raise ConfigError(
                    f"loss.class_weights balanced: every training image is of class '{full}'; "
                    "remove the class, or give one weight per class"
                )
            return tuple((len(train) - count) / count for count in counts)
        return tuple(len(train) / (classes * count) for count in counts)
    if len(weights) != classes:
        raise ConfigError(f"loss.class_weights has {len(weights)} values for {classes} classes")
    return tuple(float(weight) for weight in weights)
