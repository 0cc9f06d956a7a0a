"""Prompt files: a model's trained tensors and all that its use needs, out and back in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vpt.api.models import create_detector, create_model
from vpt.api.texts import check_text
from vpt.backbones import Backbone, create_backbone, wrap_backbone
from vpt.config import AnyRunConfig
from vpt.engine.prompt_file import (
    DETECTION_FEATURE,
    MULTI_LABEL_FEATURE,
    TEXT_FEATURE,
    BackboneRecord,
    PromptHeader,
    TextRecord,
    read_prompt_file,
    write_prompt_file,
)
from vpt.errors import ConfigError, PromptFileError
from vpt.models import Classifier, Detector
from vpt.structures import Preprocess

if TYPE_CHECKING:
    from vpt.text import TextTower


def save_prompt(
    model: Classifier | Detector,
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    config: AnyRunConfig | None = None,
) -> None:
    """Write what training changed, and all that its use needs, to one safetensors file.

    Args:
        model: of `create_model` or `create_detector`.
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
    if model.prompt.options is None:
        raise ConfigError(
            f"a {type(model.prompt).__name__} cannot be saved: register its method, set `options`"
        )
    names = list(class_names) if class_names is not None else model.class_names
    _check_names(names, None if model.head is None else model.head.num_classes)
    if isinstance(model, Classifier):
        own = _of_classifier(model, names)
    else:
        own = {
            "task": "detection",
            "neck": model.neck.options,
            "category_ids": None if model.category_ids is None else list(model.category_ids),
            "requires": [DETECTION_FEATURE],
        }
    head = model.head
    header = PromptHeader(
        backbone=_record(model.backbone),
        preprocess=model.preprocess.to_dict(),
        prompt=model.prompt.options,
        head=None if head is None else {**head.options, "num_classes": head.num_classes},
        tuning=model.tuning,
        class_names=names,
        metrics=dict(metrics or {}),
        seed=seed,
        config=None if config is None else config.model_dump(mode="json"),
        **own,
    )
    write_prompt_file(Path(path), dict(model.trained_tensors()), header)


def _of_classifier(model: Classifier, names: Sequence[str] | None) -> dict[str, Any]:
    if model.multi_label:
        return {"requires": [MULTI_LABEL_FEATURE]}
    if model.text is None:
        return {}
    if names != model.class_names:
        raise ConfigError(
            "the classes of this model are texts: build it with other class_names to rename them"
        )
    return {"text": TextRecord(**asdict(model.text)), "requires": [TEXT_FEATURE]}


def _record(backbone: Backbone) -> BackboneRecord:
    if backbone.sha256 is None:
        raise ConfigError("a model on the meta device has no weights to save")
    return BackboneRecord(
        name=backbone.name,
        sha256=backbone.sha256,
        pretrained=backbone.pretrained,
        weights=backbone.weights,
        image_size=backbone.preprocess.size,
        grid=backbone.grid,
        activation=backbone.activation,
    )


def _check_names(names: Sequence[str] | None, num_classes: int | None) -> None:
    if names is None or num_classes is None:
        return
    if len(names) != num_classes:
        raise ConfigError(f"{len(names)} class names for a head of {num_classes} classes")
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
    if header.task != "classification":
        raise PromptFileError(f"{path} holds a model for {header.task}; use load_detector")
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
            multi_label=header.multi_label,
        )
        check_text(header, model)
        model.load_trained(tensors)
    except (ConfigError, PromptFileError, TypeError) as error:
        raise PromptFileError(f"{path}: {error}") from error
    return model.eval()


def load_detector(
    path: Path | str,
    backbone: str | nn.Module | None = None,
    *,
    weights: Path | str | None = None,
) -> Detector:
    """The detector of a prompt file, in eval.

    Args:
        path: the file.
        backbone: one that is already in memory, which is shared; None creates the file's.
        weights: a local file with the backbone's weights, where the file's own note of it no longer
            holds.

    Raises:
        PromptFileError: the file is damaged, needs a newer version, belongs to another backbone,
            or holds no detector.
        BackboneError: the backbone cannot be created.
    """
    header, tensors = read_prompt_file(Path(path))
    if header.task != "detection" or header.head is None:
        raise PromptFileError(f"{path} holds a model for {header.task}; use load_prompt")
    body = _backbone_of(header, Path(path), backbone, weights)
    head = dict(header.head)
    num_classes = head.pop("num_classes")
    try:
        model = create_detector(
            body,
            header.prompt,
            num_classes=num_classes,
            head=head,
            neck=header.neck,
            tuning=header.tuning,
            class_names=header.class_names,
            category_ids=header.category_ids,
            preprocess=Preprocess.from_dict(header.preprocess),
        )
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
