"""The options of every head and of the feature pyramid, which a config is checked by before torch.

Each head is registered with the function that builds it, `module:function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vpt.config import Schema
from vpt.registry import DETECTION_HEADS, HEADS

Initializer = Literal["normal", "zeros", "paper"]


class LinearOptions(Schema):
    """Options of `linear`."""

    init: Initializer = Field(
        "normal", description="normal: std 0.01, bias 0; paper: Kaiming fan-out, bias -ln 99"
    )


class MlpOptions(Schema):
    """Options of `mlp`."""

    layers: int = Field(3, ge=2, description="k: linear layers, the last one to the classes")
    width: int | None = Field(None, gt=0, description="of the hidden layers; null: the feature's")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="after each hidden layer")


class TextOptions(Schema):
    """What is written about each class."""

    templates: str | list[str] | None = Field(
        None,
        description="a named set (a_photo, simple, openai_imagenet), sentences with {} for the "
        "class, or a file of them (FILE.json#NAME for one of several data sets); null: the data "
        "set's own, else 'a photo of a {}.'",
    )
    class_prompts: dict[str, list[str]] | Path | None = Field(
        None,
        description="whole sentences for each class instead of templates, or a JSON file of them",
    )

    @model_validator(mode="after")
    def _check_one(self) -> TextOptions:
        if self.templates is not None and self.class_prompts is not None:
            raise ValueError("templates and class_prompts both say what is written; give one")
        return self


class ContextOptions(Schema):
    """Learned words before a class name (CoOp, Zhou et al. 2022)."""

    num_tokens: int | None = Field(
        None, gt=0, description="learned tokens M; null: 16, or as many as `init` has"
    )
    class_specific: bool = Field(False, description="a context of its own for each class")
    position: Literal["end", "middle", "front"] = Field(
        "end", description="where the class name stands in the context"
    )
    init: str | None = Field(None, description="words to start from, e.g. a photo of a")
    std: float = Field(0.02, gt=0.0, description="of the normal start values without `init`")
    chunk: int | None = Field(
        None,
        gt=0,
        description="classes that go through the text tower at once, and again on the way back, "
        "which bounds the memory of training on many; null: all",
    )


class ZeroShotOptions(TextOptions):
    """Options of `zero_shot`."""

    context: ContextOptions | None = Field(
        None, description="learn the words before the class names; null: fixed sentences"
    )
    learn_scale: bool = Field(False, description="train the logit scale, which is the model's")


class LinearFromTextOptions(TextOptions):
    """Options of `linear_from_text`."""


class DetectionOptions(Schema):
    """Options that every detection head has."""

    channels: int = Field(256, ge=1, description="width of the feature pyramid and of the head")
    score_threshold: float = Field(
        0.05, ge=0.0, lt=1.0, description="detections below are dropped before suppression"
    )
    nms_threshold: float = Field(
        0.6, gt=0.0, le=1.0, description="IoU above which the weaker box of a class is suppressed"
    )
    detections_per_image: int = Field(100, ge=1, description="kept after suppression, the best")


class FcosOptions(DetectionOptions):
    """Options of `fcos`."""

    num_convs: int = Field(4, ge=1, description="3x3 convolutions of each tower")
    center_radius: float = Field(
        1.5, gt=0.0, description="cells around a box's centre that learn it"
    )


MAX_CONVS = 4


class RetinaNetOptions(DetectionOptions):
    """Options of `retinanet`."""

    nms_threshold: float = Field(
        0.5, gt=0.0, le=1.0, description="IoU above which the weaker box of a class is suppressed"
    )
    num_convs: int = Field(4, ge=1, le=MAX_CONVS, description="3x3 convolutions of each tower")
    anchor_scale: float = Field(
        4.0, gt=0.0, description="side of a map's smallest square anchor, in cells"
    )


NormKind = Literal["layer", "group"]

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)
"""Sides of a map relative to the patch grid, finest first."""


class PyramidOptions(Schema):
    """Options of the feature pyramid; its width is the head's `channels`."""

    scales: tuple[float, ...] = Field(
        (2.0, 1.0, 0.5),
        description="sides of the maps relative to the patch grid, finest first: of 4, 2, 1, 0.5, "
        "0.25; at patch size 16, 2 is stride 8 and 0.5 stride 32",
    )
    norm: NormKind = Field("layer", description="layer: over the channels of a cell; group: of 32")
    taps: int = Field(
        4, ge=1, description="how many evenly spaced blocks are read; 1: the last alone"
    )

    @field_validator("scales")
    @classmethod
    def _known_and_descending(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        check_scales(scales)
        return scales


def check_scales(scales: Sequence[float]) -> None:
    """ValueError for sides that a feature pyramid does not have, or in another order."""
    if not scales or any(scale not in SCALES for scale in scales):
        raise ValueError("must be one or more of 4, 2, 1, 0.5, 0.25")
    if list(scales) != sorted(set(scales), reverse=True):
        raise ValueError("must descend, from the finest map to the coarsest")


HEADS.register("linear", LinearOptions, "vpt.heads.linear:build")
HEADS.register("mlp", MlpOptions, "vpt.heads.mlp:build")
HEADS.register("zero_shot", ZeroShotOptions, "vpt.heads.zero_shot:build_zero_shot")
HEADS.register(
    "linear_from_text", LinearFromTextOptions, "vpt.heads.zero_shot:build_linear_from_text"
)
DETECTION_HEADS.register("fcos", FcosOptions, "vpt.heads.fcos:build")
DETECTION_HEADS.register("retinanet", RetinaNetOptions, "vpt.heads.retinanet:build")
