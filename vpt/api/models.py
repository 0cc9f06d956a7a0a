"""The composition of a model: names and options become backbone, prompt, neck and head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from vpt.api.arguments import check_num_classes, check_options
from vpt.api.texts import check_head, text_parts
from vpt.backbones import Backbone, create_backbone, wrap_backbone
from vpt.class_names import checked_class_names
from vpt.config import HeadConfig, PromptConfig, Registered, Schema, validate
from vpt.errors import ConfigError
from vpt.heads import PyramidOptions, TextOptions, build_detection_head, build_head, build_pyramid
from vpt.limits import MAX_VALUES
from vpt.models import Classifier, Detector, PromptedBackbone
from vpt.prompts import Prompt, PromptList, build_prompt
from vpt.registry import DETECTION_HEADS, HEADS, PROMPTS
from vpt.structures import Preprocess

if TYPE_CHECKING:
    from vpt.text import TextTower

M = TypeVar("M", bound=nn.Module)
PromptSpec = str | Mapping[str, Any] | Prompt | Sequence["str | Mapping[str, Any] | Prompt"]


class _ModelOptions(Schema):
    """What `create_model` checks of its arguments."""

    prompt: PromptConfig = Field(default_factory=lambda: {"name": "none"})
    head: HeadConfig


class _DetectorOptions(Schema):
    """What `create_detector` checks of its arguments."""

    neck: PyramidOptions = PyramidOptions()
    head: Annotated[dict[str, Any], Registered(DETECTION_HEADS)]


def create_model(
    backbone: str | nn.Module,
    prompt: PromptSpec = "none",
    *,
    num_classes: int | None = None,
    head: str | Mapping[str, Any] = "linear",
    tuning: str = "frozen",
    pretrained: bool = True,
    weights: Path | str | None = None,
    image_size: int | tuple[int, int] | None = None,
    pool: str | None = None,
    class_names: Sequence[str] | None = None,
    text_names: Sequence[str] | None = None,
    text: TextTower | None = None,
    preprocess: Preprocess | None = None,
    multi_label: bool = False,
    **prompt_options: Any,
) -> Classifier:
    """A prompted model: logits (B, C) of images (B, 3, H, W).

    It is an ordinary module for any training loop.

    Args:
        backbone: a name ('timm/<model>[.tag]', 'open_clip/<architecture>:<tag>',
            'bundled/<model>'), a module of timm or open_clip (copied), or a `Backbone`, shared.
        prompt: a name, a mapping {name, options}, a `Prompt`, or a list of those.
        num_classes: C; None takes the number of `class_names`, or, without those, gives the feature
            (B, F) without a head.
        head: a name or a mapping.
        tuning: 'frozen'; or backbone tensors to train too: 'full', 'bias', 'norm', 'last:k'. A
            shared backbone is copied first.
        pretrained: load the named weights.
        weights: a local safetensors file with them, instead of a download.
        image_size: pixels, or (H, W); None keeps the backbone's own.
        pool: what the feature is made of, see `create_backbone`; None: as the backbone makes it. A
            shared backbone is copied first.
        class_names: C names for predictions and the prompt file.
        text_names: the classes as a sentence calls them; None: `class_names`. Heads without texts
            have no use for them.
        text: the text tower for heads of texts; None loads the one that belongs to the backbone.
        preprocess: other than the backbone's own.
        multi_label: an image may be of several classes, or of none: `loss` takes targets (B, C)
            of 0 and 1, `predict` gives each class's own probability.
        **prompt_options: options of a prompt that is given by name, e.g. num_tokens=10.

    Raises:
        ConfigError: an option is unknown or wrong.
        BackboneError: the backbone is unknown, unsupported, or its weights are missing.
    """
    check_num_classes(num_classes)
    check_options(create_model, prompt, prompt_options)
    names = None if class_names is None else checked_class_names(class_names)
    if names is not None and num_classes is None:
        num_classes = len(names)
    if names is not None and num_classes != len(names):
        raise ConfigError(f"{len(names)} class_names for num_classes {num_classes}")
    if isinstance(backbone, str):
        check_head(head, backbone)
        body = create_backbone(
            backbone, pretrained=pretrained, weights=weights, image_size=image_size, pool=pool
        )
    else:
        body = _pooled(wrap_backbone(backbone), pool)
    body = _tuned(body, tuning)
    learned = make_prompt(prompt, prompt_options, body)
    built_head, identity = None, None
    if num_classes is not None:
        options = check_head_options(head)
        parts = None
        if is_head_of_texts(options["name"]):
            if multi_label:
                raise ConfigError(
                    f"head {options['name']} compares the classes with each other, and multi-label "
                    "images may be of several; use head linear or mlp"
                )
            _check_own_pooling(options["name"], body)
            written = names if text_names is None else text_names
            if written is not None and len(written) != num_classes:
                raise ConfigError(f"{len(written)} text_names for num_classes {num_classes}")
            options, parts, identity = text_parts(options, body, written, text)
        count, dimensions = num_classes, body.dimensions
        built_head = _built(
            f"head {options['name']} of {count:,} classes",
            lambda: build_head(options, dimensions, count, parts),
        )
    prompted = PromptedBackbone(body, learned)
    return Classifier(
        prompted,
        built_head,
        names,
        preprocess=preprocess,
        tuning=tuning,
        text=identity,
        multi_label=multi_label,
    )


def create_detector(
    backbone: str | nn.Module,
    prompt: PromptSpec = "none",
    *,
    num_classes: int | None = None,
    head: str | Mapping[str, Any] = "fcos",
    neck: Mapping[str, Any] | None = None,
    tuning: str = "frozen",
    pretrained: bool = True,
    weights: Path | str | None = None,
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    preprocess: Preprocess | None = None,
    **prompt_options: Any,
) -> Detector:
    """A prompted detector: boxes, scores and labels of what is in images (B, 3, S, S).

    It is an ordinary module for any training loop: `loss(batch)` of a `DetectionBatch`,
    `predict(images, letterboxes)` in the files' own pixels.

    Args:
        backbone: see `create_model`.
        prompt: see `create_model`.
        num_classes: C; None takes the number of `class_names`.
        head: 'fcos' or 'retinanet', or a mapping {name, options}.
        neck: options of the feature pyramid: `scales`, `norm`, `taps`.
        tuning: see `create_model`.
        pretrained: load the named weights.
        weights: a local safetensors file with them, instead of a download.
        image_size: S in pixels, a multiple of the coarsest stride; None keeps the backbone's own.
        class_names: C names.
        category_ids: what the annotation files call the classes, in label order.
        preprocess: of the images; None takes the backbone's own.
        **prompt_options: of the prompt named by a string.

    Raises:
        ConfigError: an option is unknown or wrong, or the size does not fit the strides.
        BackboneError: the backbone is unknown, unsupported, or its weights are missing.
    """
    check_num_classes(num_classes)
    check_options(create_detector, prompt, prompt_options)
    names = None if class_names is None else checked_class_names(class_names)
    classes = num_classes if num_classes is not None else len(names or ())
    if not classes:
        raise ConfigError("a detector needs num_classes or class_names")
    neck_options, head_options = check_detector_options(head, neck)
    if isinstance(backbone, str):
        body = create_backbone(
            backbone, pretrained=pretrained, weights=weights, image_size=image_size
        )
    else:
        body = wrap_backbone(backbone)
    body = _tuned(body, tuning)
    learned = make_prompt(prompt, prompt_options, body)
    pyramid = _built(
        "the neck", lambda: build_pyramid(neck_options, body.dimensions, head_options["channels"])
    )
    return Detector(
        PromptedBackbone(body, learned),
        pyramid,
        _built(
            f"head {head_options['name']}",
            lambda: build_detection_head(head_options, classes, pyramid.strides),
        ),
        names,
        category_ids=category_ids,
        preprocess=preprocess,
        tuning=tuning,
    )


def _pooled(backbone: Backbone, pool: str | None) -> Backbone:
    """The backbone itself, or a copy that makes its feature in another way."""
    if pool is None or pool == backbone.pooling:
        return backbone
    other = copy.deepcopy(backbone)
    other.set_pooling(pool)
    return other


def _check_own_pooling(head: str, backbone: Backbone) -> None:
    """Texts were trained to match the feature that the tower itself makes."""
    if backbone.pooling != backbone.own_pooling:
        raise ConfigError(
            f"head {head} compares images with texts, which were trained with the feature of "
            f"'{backbone.name}' by '{backbone.own_pooling}' pooling; leave out backbone.pool, or "
            "use head linear or mlp"
        )


def _tuned(backbone: Backbone, tuning: str) -> Backbone:
    """The backbone itself when frozen; else a copy that trains what `tuning` names."""
    if tuning == "frozen":
        return backbone
    what = selected_by(tuning)
    tuned = copy.deepcopy(backbone)
    tuned.unfreeze(tuned.select(what))
    return tuned


def selected_by(tuning: str) -> str:
    """What `Backbone.select` calls the tensors that a tuning other than 'frozen' trains.

    Raises:
        ConfigError: the word is unknown.
    """
    words = {"full": "all", "bias": "biases", "norm": "norms"}
    what = f"blocks:{tuning}" if tuning.startswith("last:") else words.get(tuning)
    if what is None:
        raise ConfigError(f"unknown tuning '{tuning}'; use frozen, full, bias, norm or last:<k>")
    return what


def is_head_of_texts(name: str) -> bool:
    """Whether the classes of a registered head are texts."""
    return issubclass(HEADS[name].schema, TextOptions)


def check_head_options(head: str | Mapping[str, Any]) -> dict[str, Any]:
    """A classification head's options, every one filled in.

    Raises:
        ConfigError: one is unknown or wrong.
    """
    return validate(_ModelOptions, {"head": head}, source="create_model").head


def check_detector_options(
    head: str | Mapping[str, Any], neck: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a detector's neck and of its head, every one filled in.

    Raises:
        ConfigError: one is unknown or wrong.
    """
    given = {"head": head} | ({} if neck is None else {"neck": dict(neck)})
    options = validate(_DetectorOptions, given, source="create_detector")
    return options.neck.model_dump(mode="json"), options.head


def make_prompt(spec: PromptSpec, options: Mapping[str, Any], backbone: Backbone) -> Prompt:
    """A prompt for a backbone.

    Args:
        spec: a name, a mapping {name, options}, a `Prompt`, or a list of those.
        options: of a prompt that is given by name.
        backbone: whose dimensions the prompt has.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    if isinstance(spec, Prompt):
        return spec
    if not isinstance(spec, str | Mapping):
        return PromptList([make_prompt(each, {}, backbone) for each in spec])
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    checked = validate(
        _ModelOptions, {"prompt": given | dict(options), "head": "linear"}, source="create_model"
    )
    return _built(
        f"prompt {given.get('name')}", lambda: build_prompt(checked.prompt, backbone.dimensions)
    )


def _built(what: str, build: Callable[[], M]) -> M:
    """What `build` gives, after its size was counted without taking any memory.

    Raises:
        ConfigError: it has more trained values than fit anywhere.
    """
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build().parameters())
    if count > MAX_VALUES:
        raise ConfigError(
            f"{what} would have {count:,} trained values, {4 * count / 1e9:,.0f} GB; at most "
            f"{MAX_VALUES:,} are supported: lower its options"
        )
    return build()


def list_prompts() -> list[str]:
    """Names of the registered prompt methods."""
    return PROMPTS.names()
