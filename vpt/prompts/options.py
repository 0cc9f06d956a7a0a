"""The options of every prompt method, which a config is checked by before torch is imported.

Each is registered with the function that builds its method, `module:function`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from vpt.choices import Projection, PromptPlacement
from vpt.config import AtMost, Schema
from vpt.limits import MAX_SIDE
from vpt.registry import PROMPTS

Initializer = Literal["uniform", "normal", "patches", "zeros"]


def _check_layers(value: Any) -> Any:
    if isinstance(value, str) and value != "all":
        raise ValueError("use all, first: k, last: k or a list of layer numbers")
    if isinstance(value, dict) and len(value) != 1:
        raise ValueError("use one of first: k and last: k")
    return value


_NO_BACKBONE = "no backbone has as many blocks"
LayerCount = Annotated[int, Field(gt=0), AtMost(1_000, _NO_BACKBONE)]
LayerNumber = Annotated[int, Field(ge=0), AtMost(1_000, _NO_BACKBONE)]
TokenCount = Annotated[int, AtMost(10_000, "every block attends to each of them")]
Width = Annotated[int, Field(gt=0), AtMost(16_384, "no backbone's tokens are as wide")]
StartSpread = Annotated[float, Field(gt=0.0), AtMost(100.0, "start values are near 0")]

LayerChoice = Annotated[
    str
    | dict[Literal["first", "last"], LayerCount]
    | Annotated[list[LayerNumber], Field(max_length=1_000)],
    AfterValidator(_check_layers),
]
"""'all', {'first': k}, {'last': k} or layer numbers."""


class NoPromptOptions(Schema):
    """No options."""


class DeepOptions(Schema):
    """Options of `vpt_deep`: new tokens at every layer, or at those of `layers`."""

    num_tokens: TokenCount = Field(10, ge=0, description="prompt tokens T per prompted layer")
    layers: LayerChoice = Field("all", description="all | first: k | last: k | [0, 3, ..]")
    shared: bool = Field(False, description="one set of tokens for all prompted layers")
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of prompt values zeroed, per image"
    )
    projection: Width | None = Field(
        None, description="learn tokens of this width and project them to D"
    )
    init: Initializer | None = Field(
        None, description="start values; null: the family's, uniform (timm) or normal (open_clip)"
    )
    std: StartSpread = Field(0.02, description="standard deviation of init: normal")

    placement: PromptPlacement | None = Field(
        None,
        description="layer 0's tokens before or after the pre-norm; null: the family's, post_norm "
        "(timm) or pre_norm (open_clip)",
    )


def _first_layer() -> LayerChoice:
    return {"first": 1}


class ShallowOptions(DeepOptions):
    """Options of `vpt_shallow`: tokens enter before the first block and flow through all."""

    layers: LayerChoice = Field(
        default_factory=_first_layer, description="{first: 1}: before block 0"
    )


class GatedOptions(Schema):
    """Options of `vpt_gated`."""

    num_tokens: TokenCount = Field(
        10, gt=0, description="prompt tokens T, which flow through all blocks"
    )
    gate: float = Field(
        -5.0, ge=-100.0, le=100.0, description="start value of every gamma: sigmoid(-5) is 0.007"
    )
    temperature: bool = Field(
        False, description="learn a temperature of each block's attention as well"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of prompt values zeroed, per image"
    )
    init: Initializer | None = Field(None, description="start values; null: the family's")
    std: StartSpread = Field(0.02, description="standard deviation of init: normal")
    placement: PromptPlacement | None = Field(
        None, description="before or after the pre-norm; null: the family's"
    )


class KeyValueOptions(Schema):
    """Options of `kv`."""

    num_tokens: TokenCount = Field(
        5, gt=0, description="learned keys and values T per prompted layer"
    )
    layers: LayerChoice = Field("all", description="all | first: k | last: k | [0, 3, ..]")
    tied: bool = Field(True, description="the same numbers as keys and as values, as in the paper")
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of prompt values zeroed, per image"
    )


Target = Literal["key", "value"]
Targets = TypeVar("Targets", bound=tuple[Projection, ...])


def _check_targets(targets: Targets) -> Targets:
    if len(set(targets)) < len(targets):
        raise ValueError("names a projection twice")
    return targets


class BiasOptions(Schema):
    """Options of `kv_bias`."""

    layers: LayerChoice = Field("all", description="all | first: k | last: k | [0, 3, ..]")
    targets: Annotated[tuple[Target, ...], AfterValidator(_check_targets)] = Field(
        ("key", "value"), min_length=1, description="of key, value; see the method on keys"
    )


class LoraOptions(Schema):
    """Options of `lora`."""

    rank: Width = Field(8, description="r")
    alpha: Annotated[float, AtMost(1e6, "it would drown the projection")] = Field(
        8.0, gt=0.0, description="what is added is scaled by alpha / r"
    )
    layers: LayerChoice = Field("all", description="all | first: k | last: k | [0, 3, ..]")
    targets: Annotated[tuple[Projection, ...], AfterValidator(_check_targets)] = Field(
        ("query", "value"), min_length=1, description="of query, key, value"
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="of what goes into A, in training")


class AdapterOptions(Schema):
    """Options of `adapter`."""

    width: Width = Field(64, description="of the bottleneck")
    layers: LayerChoice = Field("all", description="all | first: k | last: k | [0, 3, ..]")
    form: Literal["behind", "beside"] = Field(
        "behind", description="behind the MLP (Pfeiffer), or beside it (AdaptFormer)"
    )
    scale: Annotated[float, AtMost(1e6, "it would drown the MLP's output")] = Field(
        1.0, gt=0.0, description="s, of what is added; AdaptFormer's is 0.1, beside"
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="inside the bottleneck, in training")


Place = Annotated[int, Field(ge=0), AtMost(MAX_SIDE, "no image is as large")]


class PixelOptions(Schema):
    """Options of `pixels`."""

    form: Literal["frame", "patch"] = Field("frame", description="where the learned pixels are")
    width: Annotated[int, AtMost(MAX_SIDE, "no image is as large")] = Field(
        30, gt=0, description="of the frame, or of the patch's sides, in preprocessed pixels"
    )
    place: tuple[Place, Place] = Field((0, 0), description="patch: [top, left] of its first pixel")
    random: bool = Field(
        False,
        description="patch: in training at another place each step; evaluation is at `place`",
    )
    init: Literal["zeros", "normal"] = Field(
        "zeros", description="normal: standard deviation `std`"
    )
    std: StartSpread = Field(0.02, description="in normalised pixel values")

    @model_validator(mode="after")
    def _check_form(self) -> PixelOptions:
        if self.form == "frame" and (self.random or self.place != (0, 0)):
            raise ValueError("place and random are of a patch; set form: patch")
        return self


PROMPTS.register("none", NoPromptOptions, "vpt.prompts.none:build")
PROMPTS.register("vpt_deep", DeepOptions, "vpt.prompts.tokens:build")
PROMPTS.register("vpt_shallow", ShallowOptions, "vpt.prompts.tokens:build")
PROMPTS.register("vpt_gated", GatedOptions, "vpt.prompts.gated:build")
PROMPTS.register("kv", KeyValueOptions, "vpt.prompts.key_value:build")
PROMPTS.register("kv_bias", BiasOptions, "vpt.prompts.kv_bias:build")
PROMPTS.register("lora", LoraOptions, "vpt.prompts.lora:build")
PROMPTS.register("adapter", AdapterOptions, "vpt.prompts.adapter:build")
PROMPTS.register("pixels", PixelOptions, "vpt.prompts.pixels:build")
