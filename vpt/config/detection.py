"""The schema of a detection run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from vpt.config.registered import Registered
from vpt.config.run import (
    VALUE_RANGE,
    BackboneConfig,
    BatchSize,
    BoxTransformConfig,
    Decay,
    OptimConfig,
    Processes,
    PromptConfig,
    RunConfig,
    TrainConfig,
    ValueRange,
    check_scan,
    check_tuning,
)
from vpt.config.schema import Schema, validate
from vpt.config.yaml_text import load_yaml
from vpt.registry import DETECTION_HEADS


class DetectionDataConfig(Schema):
    """The data set with boxes and how batches are made of it."""

    dataset: Path = Field(description="a folder of COCO, YOLO or PASCAL VOC boxes, or a descriptor")
    root: Path | None = Field(None, description="where the images are; null: the descriptor's root")
    value_range: ValueRange | None = VALUE_RANGE
    val_fraction: Decay | None = Field(
        None,
        description="share of the training images that is cut out for validation, by what the "
        "images hold; null: the data set's own, or 0.2 of a folder without; 0: none",
    )
    test_fraction: Decay | None = Field(
        None, description="likewise for testing; null: the data set's own"
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="another one cuts out other images; the run's seed does not"
    )
    transform: BoxTransformConfig = Field(
        default_factory=BoxTransformConfig, description="augmentation of training images"
    )
    batch_size: BatchSize = Field(description="images per forward pass in training")
    eval_batch_size: BatchSize | None = Field(
        None, description="images per forward pass in evaluation; null: batch_size"
    )
    num_workers: Processes | Literal["auto"] = Field(
        2,
        description="loader processes; 0: load in the main process; auto: the cores there are less "
        "one, at most 8, shared by the training processes of a machine",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="an image or entry with an error stops the run, or is left out and counted",
    )
    scan: bool = Field(True, description="decode every image once before training starts")

    @model_validator(mode="after")
    def _check_scan(self) -> DetectionDataConfig:
        check_scan(self.on_bad_image, scan=self.scan)
        return self


class DetectionTrainConfig(TrainConfig):
    """How long, where and how carefully to train a detector."""

    select: Literal["AP", "AP50", "AP75", "last"] = Field(  # type: ignore[assignment]
        "AP", description="validation metric that picks the best epoch; last: the last one"
    )
    coco_eval: Literal["pycocotools", "faster"] = Field(
        "pycocotools",
        description="who computes the metrics; faster: faster-coco-eval (pip install 'vpt[fast]')",
    )


class DetectionRunConfig(Schema):
    """Everything that decides the training of a detector."""

    task: Literal["detection"] = Field(description="what is trained: boxes of classes")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="of everything random: initialisation, order, augmentation, dropout, splits"
    )
    run_dir: Path = Field(description="folder of the run's files; new or empty")
    backbone: BackboneConfig = Field(
        description="the pretrained transformer; its image_size is the side of the letterbox"
    )
    prompt: PromptConfig = Field(
        default_factory=lambda: {"name": "none"},
        description="prompt method: a name, a mapping with its options, or a list of those",
    )
    neck: dict[str, Any] = Field(
        default_factory=dict, description="feature pyramid: scales, norm, taps"
    )
    head: Annotated[dict[str, Any], Registered(DETECTION_HEADS)] = Field(
        default_factory=lambda: {"name": "fcos"},
        description="head: a name, or a mapping with its options",
    )
    tuning: Annotated[str, AfterValidator(check_tuning)] = Field(
        "frozen",
        description="backbone tensors that train too: frozen, full, bias, norm or last:<k> blocks",
    )
    data: DetectionDataConfig = Field(description="the data set and how batches are made of it")
    optim: OptimConfig = Field(description="the optimiser and its schedule")
    train: DetectionTrainConfig = Field(description="how long, where and how carefully to train")


AnyRunConfig = RunConfig | DetectionRunConfig
"""Of either task."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> AnyRunConfig:
    """The run that a YAML file and `key=value` overrides describe; `task: detection` says which.

    Raises:
        ConfigError: one line per problem.
    """
    values = load_yaml(path, overrides)
    if "task" in values:
        return validate(DetectionRunConfig, values, str(path))
    return validate(RunConfig, values, str(path))
