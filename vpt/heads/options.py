"""The options of every head and of the feature pyramid, which a config is checked by before torch.

Each head is registered with the function that builds it, `module:function`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vpt.config import AtMost, Schema
from vpt.limits import MAX_CLASSES
from vpt.registry import DETECTION_HEADS, HEADS

Initializer = Literal["normal", "zeros", "paper"]


class LinearOptions(Schema):
    """Options of `linear`."""

    init: Initializer = Field(
        "normal", description="normal: std 0.01, bias 0; paper: Kaiming fan-out, bias -ln 99"
    )


class MlpOptions(Schema):
    """Options of `mlp`."""

    layers: Annotated[int, AtMost(16, "MLP-k has a few layers")] = Field(
        3, ge=2, description="k: linear layers, the last one to the classes"
    )
    width: Annotated[int, Field(gt=0), AtMost(16_384, "a layer would take gigabytes")] | None = (
        Field(None, description="of the hidden layers; null: the feature's")
    )
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


ContextLength = Annotated[int, Field(gt=0), AtMost(1_000, "no text tower takes as many")]
ClassCount = Annotated[int, Field(gt=0), AtMost(MAX_CLASSES, "no model has as many classes")]


class ContextOptions(Schema):
    """Learned words before a class name (CoOp, Zhou et al. 2022)."""

    num_tokens: ContextLength | None = Field(
        None, description="learned tokens M; null: 16, or as many as `init` has"
    )
    class_specific: bool = Field(False, description="a context of its own for each class")
    position: Literal["end", "middle", "front"] = Field(
        "end", description="where the class name stands in the context"
    )
    init: str | None = Field(None, description="words to start from, e.g. a photo of a")
    std: Annotated[float, AtMost(100.0, "start values are near 0")] = Field(
        0.02, gt=0.0, description="of the normal start values without `init`"
    )
    chunk: ClassCount | None = Field(
        None,
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

    channels: Annotated[int, AtMost(4_096, "its 3x3 convolutions would take gigabytes")] = Field(
        256, ge=1, description="width of the feature pyramid and of the head"
    )
    score_threshold: float = Field(
        0.05, ge=0.0, lt=1.0, description="detections below are dropped before suppression"
    )
    nms_threshold: float = Field(
        0.6, gt=0.0, le=1.0, description="IoU above which the weaker box of a class is suppressed"
    )
    detections_per_image: Annotated[int, AtMost(100_000, "COCO counts 100")] = Field(
        100, ge=1, description="kept after suppression, the best"
    )


class FcosOptions(DetectionOptions):
    """Options of `fcos`."""

    num_convs: Annotated[int, AtMost(32, "a tower has a few")] = Field(
        4, ge=1, description="3x3 convolutions of each tower"
    )
    center_radius: Annotated[float, AtMost(1_000.0, "no map has as many cells")] = Field(
        1.5, gt=0.0, description="cells around a box's centre that learn it"
    )


MAX_CONVS = 4


class RetinaNetOptions(DetectionOptions):
    """Options of `retinanet`."""

    nms_threshold: float = Field(
        0.5, gt=0.0, le=1.0, description="IoU above which the weaker box of a class is suppressed"
    )
    num_convs: int = Field(4, ge=1, le=MAX_CONVS, description="3x3 convolutions of each tower")
    anchor_scale: Annotated[float, AtMost(1_000.0, "no map has as many cells")] = Field(
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
    taps: Annotated[int, AtMost(1_000, "no backbone has as many blocks")] = Field(
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
