"""The composition of a model: names and options become backbone, prompt and head, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from vpt.backbones import Backbone, create_backbone, is_clip_name, wrap_backbone
from vpt.config import HeadConfig, PromptConfig, RunConfig, Schema, validate
from vpt.engine.prompt_file import (
    TEXT_FEATURE,
    BackboneRecord,
    PromptHeader,
    TextRecord,
    read_prompt_file,
    write_prompt_file,
)
from vpt.errors import ConfigError, PromptFileError
from vpt.heads import Head, TextOptions, TextParts, build_head
from vpt.models import Classifier, PromptedBackbone
from vpt.prompts import Prompt, PromptList, build_prompt
from vpt.registry import HEADS, PROMPTS
from vpt.structures import Preprocess, TextIdentity
from vpt.text import (
    LearnedContext,
    TextTower,
    build_classifier,
    create_text_tower,
    default_cache,
    resolve_class_prompts,
    resolve_templates,
)

PromptSpec = str | Mapping[str, Any] | Prompt | Sequence["str | Mapping[str, Any] | Prompt"]


class _ModelOptions(Schema):
    """What `create_model` checks of its arguments."""

    prompt: PromptConfig = Field(default_factory=lambda: {"name": "none"})
    head: HeadConfig


# ------------------------------------------------------------------------------------------ models


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
    class_names: Sequence[str] | None = None,
    text_names: Sequence[str] | None = None,
    text: TextTower | None = None,
    preprocess: Preprocess | None = None,
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
        class_names: C names for predictions and the prompt file.
        text_names: the classes as a sentence calls them; None: `class_names`. Heads without texts
            have no use for them.
        text: the text tower for heads of texts; None loads the one that belongs to the backbone.
        preprocess: other than the backbone's own.
        **prompt_options: options of a prompt that is given by name, e.g. num_tokens=10.

    Raises:
        ConfigError: an option is unknown or wrong.
        BackboneError: the backbone is unknown, unsupported, or its weights are missing.
    """
    if class_names is not None and num_classes is None:
        num_classes = len(class_names)
    if class_names is not None and num_classes != len(class_names):
        raise ConfigError(f"{len(class_names)} class_names for num_classes {num_classes}")
    if isinstance(backbone, str):
        check_head(head, backbone)
        body = create_backbone(
            backbone, pretrained=pretrained, weights=weights, image_size=image_size
        )
    else:
        body = wrap_backbone(backbone)
    body = _tuned(body, tuning)
    learned = _make_prompt(prompt, prompt_options, body)
    built_head, identity = None, None
    if num_classes is not None:
        options = validate(_ModelOptions, {"head": head}, source="create_model").head
        parts = None
        if issubclass(HEADS[options["name"]].schema, TextOptions):
            names = text_names if text_names is not None else class_names
            if names is not None and len(names) != num_classes:
                raise ConfigError(f"{len(names)} text_names for num_classes {num_classes}")
            options, parts, identity = _text_parts(options, body, names, text)
        built_head = build_head(options, body.dimensions, num_classes, parts)
    prompted = PromptedBackbone(body, learned)
    return Classifier(
        prompted, built_head, class_names, preprocess=preprocess, tuning=tuning, text=identity
    )


def _text_parts(
    options: dict[str, Any], body: Backbone, names: Sequence[str] | None, text: TextTower | None
) -> tuple[dict[str, Any], TextParts, TextIdentity]:
    """The head's options with every sentence written out, what it is built from, and its source.

    Without a learned context the tower is not kept: its classifier is all that is needed of it.
    """
    if names is None:
        raise ConfigError(f"head {options['name']} needs class_names: they are what is classified")
    # Drawn before a tower is made, so that start values do not depend on whether it was there.
    seed = int(torch.randint(2**62, ()))
    tower = text or _text_tower_of(body, options["name"])
    if text is not None and text.name and body.name and text.name != body.name:
        raise ConfigError(f"the text tower of '{text.name}' does not belong to '{body.name}'")
    options = options | _written_out(options, names)
    classifier = build_classifier(
        tower,
        names,
        options["templates"] or "a_photo",
        class_prompts=options["class_prompts"],
        cache=default_cache() if body.pretrained or body.weights else None,
    )
    context = options.get("context")
    random = torch.Generator().manual_seed(seed)
    assert tower.sha256 is not None, "the classifier was built from weights"
    parts = TextParts(
        weight=classifier.weight,
        logit_scale=classifier.logit_scale,
        logit_bias=classifier.logit_bias,
        context=LearnedContext(tower, names, generator=random, **context) if context else None,
    )
    identity = TextIdentity(
        sha256=tower.sha256,
        structure=tower.structure,
        tokenizer=tower.tokenizer.fingerprint,
        context_length=tower.context_length,
        names=tuple(names),
    )
    return options, parts, identity


def _written_out(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Every sentence that the classes are made of, and no others."""
    if options["class_prompts"] is not None:
        prompts = resolve_class_prompts(options["class_prompts"])
        return {
            "templates": None,
            "class_prompts": {name: prompts[name] for name in names if name in prompts},
        }
    templates = options["templates"]
    return {"templates": resolve_templates("a_photo" if templates is None else templates)}


def check_head(head: str | Mapping[str, Any], backbone: str) -> None:
    """Refuse a head of texts on a backbone without a text tower, before any weight is loaded.

    Raises:
        ConfigError: naming both.
    """
    name = head if isinstance(head, str) else head.get("name")
    if name not in HEADS.names() or not issubclass(HEADS[name].schema, TextOptions):
        return
    if not is_clip_name(backbone):
        raise ConfigError(
            f"head {name} needs a text tower, which '{backbone}' has not; take bundled/glyph_clip "
            "or open_clip/<architecture>:<tag>" + ("" if backbone else ", or pass it as text=")
        )


def _text_tower_of(body: Backbone, head: str) -> TextTower:
    check_head(head, body.name)
    return create_text_tower(body.name, pretrained=body.pretrained, weights=body.weights)


def _tuned(backbone: Backbone, tuning: str) -> Backbone:
    """The backbone itself when frozen; else a copy that trains what `tuning` names."""
    if tuning == "frozen":
        return backbone
    words = {"full": "all", "bias": "biases", "norm": "norms"}
    what = f"blocks:{tuning}" if tuning.startswith("last:") else words.get(tuning)
    if what is None:
        raise ConfigError(f"unknown tuning '{tuning}'; use frozen, full, bias, norm or last:<k>")
    tuned = copy.deepcopy(backbone)
    tuned.unfreeze(tuned.select(what))
    return tuned


def _make_prompt(spec: PromptSpec, options: Mapping[str, Any], backbone: Backbone) -> Prompt:
    if isinstance(spec, Prompt):
        return spec
    if not isinstance(spec, str | Mapping):
        return PromptList([_make_prompt(each, {}, backbone) for each in spec])
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    checked = validate(
        _ModelOptions, {"prompt": given | dict(options), "head": "linear"}, source="create_model"
    )
    return build_prompt(checked.prompt, backbone.dimensions)


def list_prompts() -> list[str]:
    """Names of the registered prompt methods."""
    return PROMPTS.names()


# ------------------------------------------------------------------------------------ prompt files


def save_prompt(
    model: Classifier,
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    config: RunConfig | None = None,
) -> None:
    """Write what training changed, and all that its use needs, to one safetensors file.

    Args:
        model: of `create_model`.
        path: the file, replaced as a whole or not at all.
        class_names: of the logits; None takes the model's.
        metrics: as measured now.
        seed: of the run.
        config: of the run.

    Raises:
        PromptFileError: a tensor is not finite.
        ConfigError: the prompt is of a method that is not registered, or the names do not fit the
            head.
        RunError: the file cannot be written.
    """
    backbone, options = model.backbone, model.prompt.options
    if options is None:
        raise ConfigError(
            f"a {type(model.prompt).__name__} cannot be saved: register its method, set `options`"
        )
    if backbone.sha256 is None:
        raise ConfigError("a model on the meta device has no weights to save")
    names = list(class_names) if class_names is not None else model.class_names
    _check_names(names, model.head)
    if model.text is not None and names != model.class_names:
        raise ConfigError(
            "the classes of this model are texts: build it with other class_names to rename them"
        )
    record = BackboneRecord(
        name=backbone.name,
        sha256=backbone.sha256,
        pretrained=backbone.pretrained,
        weights=backbone.weights,
        image_size=backbone.preprocess.size,
        grid=backbone.grid,
        activation=backbone.activation,
    )
    header = PromptHeader(
        backbone=record,
        preprocess=model.preprocess.to_dict(),
        prompt=options,
        head=None
        if model.head is None
        else {**model.head.options, "num_classes": model.head.num_classes},
        tuning=model.tuning,
        class_names=names,
        text=None if model.text is None else TextRecord(**asdict(model.text)),
        metrics=dict(metrics or {}),
        seed=seed,
        config=None if config is None else config.model_dump(mode="json"),
        requires=[] if model.text is None else [TEXT_FEATURE],
    )
    write_prompt_file(Path(path), dict(model.trained_tensors()), header)


def _check_names(names: Sequence[str] | None, head: Head | None) -> None:
    if names is None or head is None:
        return
    if len(names) != head.num_classes:
        raise ConfigError(f"{len(names)} class names for a head of {head.num_classes} classes")
    if len(set(names)) < len(names):
        raise ConfigError("class names must differ from each other")


def load_prompt(
    path: Path | str,
    backbone: str | nn.Module | None = None,
    *,
    weights: Path | str | None = None,
    class_names: Sequence[str] | None = None,
    text_names: Sequence[str] | None = None,
    text: TextTower | None = None,
) -> Classifier:
    """The model of a prompt file, in eval.

    Args:
        path: the file.
        backbone: one that is already in memory, which is shared; None creates the file's.
        weights: a local file with the backbone's weights, where the file's own note of it no longer
            holds.
        class_names: other classes than the file's, for a head whose classes are texts.
        text_names: how a sentence calls them; None: as they are.
        text: a text tower that is already in memory.

    Raises:
        PromptFileError: the file is damaged, needs a newer version, or belongs to another backbone.
        BackboneError: the backbone cannot be created.
    """
    header, tensors = read_prompt_file(Path(path))
    body = _backbone_of(header, Path(path), backbone, weights)
    head = dict(header.head) if header.head else None
    num_classes = head.pop("num_classes") if head else None
    if text_names is not None and class_names is None:
        raise ConfigError("text_names say how sentences call class_names; give both")
    names = header.class_names
    written: Sequence[str] | None = header.text.names if header.text else None
    if class_names is not None:
        _refuse_other_classes(path, header)
        names, written, num_classes = list(class_names), text_names, len(class_names)
    try:
        model = create_model(
            body,
            header.prompt,
            num_classes=num_classes,
            head=head or "linear",
            tuning=header.tuning,
            class_names=names if head else None,
            text_names=written,
            text=text,
            preprocess=Preprocess.from_dict(header.preprocess),
        )
        _check_text(header, model)
        model.load_trained(tensors)
    except (ConfigError, PromptFileError, TypeError) as error:
        raise PromptFileError(f"{path}: {error}") from error
    return model.eval()


def _refuse_other_classes(path: Path | str, header: PromptHeader) -> None:
    """Only texts that are fixed, or share one learned context, can be about other classes."""
    head = header.head or {}
    context = head.get("context") or {}
    if header.text is None or head["name"] != "zero_shot" or context.get("class_specific"):
        kind = "a context for each class" if context else f"head {head.get('name')}"
        raise PromptFileError(
            f"{path} was trained for its own classes ({kind}): it cannot name others; "
            "use head zero_shot"
        )


def _check_text(header: PromptHeader, model: Classifier) -> None:
    if header.text is None or model.text is None:
        return
    if model.text.sha256 != header.text.sha256:
        raise PromptFileError(
            f"it belongs to a text tower with weights {header.text.sha256[:12]}, not "
            f"{model.text.sha256[:12]}"
        )
    for what in ("structure", "tokenizer", "context_length"):
        if getattr(model.text, what) != getattr(header.text, what):
            raise PromptFileError(
                f"its text tower has the same weights, but another {what.replace('_', ' ')}: "
                "same weights, other numbers"
            )


def _backbone_of(
    header: PromptHeader, path: Path, given: str | nn.Module | None, weights: Path | str | None
) -> Backbone:
    record = header.backbone
    if given is None or isinstance(given, str):
        name = given or record.name
        if not name:
            raise PromptFileError(f"{path}: its backbone was built by hand; pass it as backbone=")
        file = weights or record.weights
        if weights is None and file is not None and not Path(file).is_file():
            raise PromptFileError(
                f"{path}: the backbone's weight file {file} is gone; name it with weights"
            )
        body = create_backbone(
            name, pretrained=record.pretrained, weights=file, image_size=record.image_size
        )
    else:
        body = wrap_backbone(given)
    if body.sha256 != record.sha256:
        raise PromptFileError(
            f"{path} belongs to '{record.name}' with weights {record.sha256[:12]}, "
            f"not to '{body.name}' with {str(body.sha256)[:12]}"
        )
    if record.activation is not None and body.activation != record.activation:
        raise PromptFileError(
            f"{path} was trained with {record.activation}, '{body.name}' computes "
            f"{body.activation}: same weights, other numbers"
        )
    if body.preprocess.size != record.image_size or body.grid != record.grid:
        raise PromptFileError(
            f"{path} was trained at {record.image_size} pixels, "
            f"the backbone given is at {body.preprocess.size}"
        )
    return body
