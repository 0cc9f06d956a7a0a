"""Prompt files: a model's trained tensors and all that its use needs, out and back in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpt.api.file_tensors import check_tensors
from vpt.api.models import create_detector, create_model
from vpt.api.texts import check_text
from vpt.backbones import Backbone, create_backbone, outline_backbone, wrap_backbone
from vpt.class_names import checked_class_names
from vpt.config import AnyRunConfig, validate
from vpt.data.splits import ContentCut
from vpt.engine.prompt_file import (
    prompt_file_problem,
    read_prompt_file,
    read_prompt_outline,
    write_prompt_file,
)
from vpt.engine.prompt_header import (
    DETECTION_FEATURE,
    MULTI_LABEL_FEATURE,
    POOL_FEATURE,
    TEXT_FEATURE,
    VALUE_RANGE_FEATURE,
    PromptHeader,
    portable_config,
)
from vpt.errors import BackboneError, ConfigError, PromptFileError
from vpt.models import Classifier, Detector, model_in
from vpt.storage.sealed_file import Table

if TYPE_CHECKING:
    from vpt.text import TextTower


def save_prompt(
    model: Classifier | Detector | nn.Module,
    path: Path | str,
    *,
    class_names: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    config: AnyRunConfig | None = None,
    cut: ContentCut | None = None,
) -> None:
    """Write what training changed, and all that its use needs, to one safetensors file.

    Args:
        model: of `create_model` or `create_detector`, also inside of torch.compile, DataParallel
            or DistributedDataParallel.
        path: the file, replaced as a whole or not at all.
        class_names: of the logits; None takes the model's.
        metrics: as measured now.
        seed: of the run.
        config: of the run.
        cut: how the run's data were cut into splits, so that evaluation cuts them alike.

    Raises:
        PromptFileError: a tensor is not finite.
        ConfigError: the prompt is of a method that is not registered, or the names do not fit the
            head.
        RunError: the file cannot be written.
    """
    own = model_in(model)
    assert isinstance(own, Classifier | Detector)
    header = _header(
        own,
        class_names=class_names,
        metrics=dict(metrics or {}),
        seed=seed,
        config=config,
        cut=cut,
    )
    write_prompt_file(Path(path), dict(own.trained_tensors()), header)


def check_saveable(model: Classifier | Detector, config: AnyRunConfig) -> None:
    """Refuse a model whose prompt file could not be written, before it is trained.

    Raises:
        ConfigError: its class names, sentences or config take more than a header may, or see
            `save_prompt`.
    """
    tensors = dict(model.trained_tensors())
    problem = prompt_file_problem(tensors, _header(model, seed=config.seed, config=config))
    if problem is not None:
        raise ConfigError(f"the prompt file of this run could not be written: {problem}")


def _header(
    model: Classifier | Detector,
    *,
    class_names: Sequence[str] | None = None,
    metrics: dict[str, float] | None = None,
    seed: int | None = None,
    config: AnyRunConfig | None = None,
    cut: ContentCut | None = None,
) -> PromptHeader:
    if model.prompt.options is None:
        raise ConfigError(
            f"a {type(model.prompt).__name__} cannot be saved: register its method, set `options`"
        )
    names = model.class_names if class_names is None else class_names
    names = None if names is None else checked_class_names(names)
    _check_count(names, None if model.head is None else model.head.num_classes)
    if isinstance(model, Classifier):
        own = _of_classifier(model, names)
    else:
        own = {
            "task": "detection",
            "neck": model.neck.options,
            "category_ids": None if model.category_ids is None else list(model.category_ids),
            "requires": [DETECTION_FEATURE],
        }
    requires = own.pop("requires", [])
    if model.preprocess.value_range is not None:
        requires = [*requires, VALUE_RANGE_FEATURE]
    if model.backbone.pooling != model.backbone.own_pooling:
        requires = [*requires, POOL_FEATURE]
    head = model.head
    values = {
        "backbone": _record(model.backbone),
        "preprocess": model.preprocess.to_dict(),
        "prompt": model.prompt.options,
        "head": None if head is None else {**head.options, "num_classes": head.num_classes},
        "tuning": model.tuning,
        "class_names": names,
        "metrics": metrics or {},
        "seed": seed,
        "cut": None if cut is None else asdict(cut),
        "config": None if config is None else portable_config(config.model_dump()),
        "requires": requires,
        **own,
    }
    return validate(PromptHeader, values, source="the prompt file's header")


def _of_classifier(model: Classifier, names: Sequence[str] | None) -> dict[str, Any]:
    if model.multi_label:
        return {"requires": [MULTI_LABEL_FEATURE]}
    if model.text is None:
        return {}
    if names != model.class_names:
        raise ConfigError(
            "the classes of this model are texts: build it with other class_names to rename them"
        )
    return {"text": asdict(model.text), "requires": [TEXT_FEATURE]}


def _record(backbone: Backbone) -> dict[str, Any]:
    if backbone.sha256 is None:
        raise ConfigError("a model on the meta device has no weights to save")
    return {
        "name": backbone.name,
        "sha256": backbone.sha256,
        "pretrained": backbone.pretrained,
        "weights": None if backbone.weights is None else Path(backbone.weights).name,
        "image_size": backbone.preprocess.size,
        "pool": backbone.pooling,
        "grid": backbone.grid,
        "activation": backbone.activation,
    }


def _check_count(names: Sequence[str] | None, num_classes: int | None) -> None:
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise ConfigError(f"{len(names)} class names for a head of {num_classes} classes")


def check_prompt_file(
    path: Path | str, backbone: str | nn.Module | None = None, *, weights: Path | str | None = None
) -> None:
    """Refuse a file that `load_prompt` would refuse before it reads a tensor or loads a backbone.

    Raises:
        PromptFileError: see `load_prompt`.
        BackboneError: the backbone is unknown.
    """
    header, table = read_prompt_outline(path)
    body = _outline_of(header, Path(path), backbone, weights)
    if body is not None:
        _check_tensors(Path(path), header, table, body)


def check_weights(path: Path | str, weights: Path | str) -> None:
    """Refuse a local file that does not hold the weights of a prompt file's backbone.

    Raises:
        PromptFileError: they are others.
        BackboneError: it cannot be read, or does not fit the backbone.
    """
    check_prompt_file(path, weights=weights)
    header = read_prompt_outline(path)[0]
    record = header.backbone
    body = create_backbone(record.name, weights=weights, image_size=record.image_size)
    _check_belongs(header, Path(path), body)


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
        weights: a local file with the backbone's weights, where they are not downloaded. No file
            that `path` names is ever opened.
        class_names: other classes than the file's, for a head whose classes are texts.
        text_names: how a sentence calls them; None: as they are.
        text: a text tower that is already in memory.

    Raises:
        PromptFileError: the file is damaged, needs a newer version, or belongs to another backbone.
        BackboneError: the backbone cannot be created.
    """
    header, table = read_prompt_outline(path)
    if header.task != "classification":
        raise PromptFileError(f"{path} holds a model for {header.task}; use load_detector")
    header, tensors, body = _read(Path(path), header, table, backbone, weights)
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
            preprocess=header.preprocess.preprocess(),
            multi_label=header.multi_label,
        )
        check_text(header, model)
        model.load_trained(tensors)
    except (ConfigError, PromptFileError) as error:
        raise _of_file(path, error) from error
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
        weights: a local file with the backbone's weights, where they are not downloaded. No file
            that `path` names is ever opened.

    Raises:
        PromptFileError: the file is damaged, needs a newer version, belongs to another backbone,
            or holds no detector.
        BackboneError: the backbone cannot be created.
    """
    header, table = read_prompt_outline(path)
    if header.task != "detection":
        raise PromptFileError(f"{path} holds a model for {header.task}; use load_prompt")
    header, tensors, body = _read(Path(path), header, table, backbone, weights)
    head = dict(header.head or {})
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
            preprocess=header.preprocess.preprocess(),
        )
        model.load_trained(tensors)
    except (ConfigError, PromptFileError) as error:
        raise _of_file(path, error) from error
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


def _read(
    path: Path,
    outline: PromptHeader,
    table: Table,
    backbone: str | nn.Module | None,
    weights: Path | str | None,
) -> tuple[PromptHeader, dict[str, Tensor], Backbone]:
    """A file's header and tensors and the backbone they belong to; what is cheap is checked first.

    Before a tensor is read or a backbone is loaded, the shapes that the file states are compared
    with those that its header asks for.
    """
    known = _outline_of(outline, path, backbone, weights)
    if known is not None:
        _check_tensors(path, outline, table, known)
    header, tensors = read_prompt_file(path)
    if header.backbone != outline.backbone:
        raise PromptFileError(f"{path} was changed while it was read; try again")
    if known is not None and known.sha256 is not None:
        return header, tensors, known
    name = backbone if isinstance(backbone, str) else outline.backbone.name
    body = create_backbone(
        name,
        pretrained=outline.backbone.pretrained,
        weights=weights,
        image_size=outline.backbone.image_size,
        pool=outline.backbone.pool,
    )
    _check_belongs(header, path, body)
    if known is None:
        _check_tensors(path, header, table, body)
    return header, tensors, body


def _outline_of(
    header: PromptHeader, path: Path, given: str | nn.Module | None, weights: Path | str | None
) -> Backbone | None:
    """The backbone that was given, or the shapes of the one that the file names.

    None for the name of another one than the file's: whether that is meant, its weights tell.
    """
    record = header.backbone
    if isinstance(given, nn.Module):
        body = wrap_backbone(given)
        _check_belongs(header, path, body)
        return body
    name = given or record.name
    if not name:
        raise PromptFileError(f"{path}: its backbone was built by hand; pass it as backbone=")
    if weights is None and record.weights is not None:
        file = PurePath(record.weights).name
        raise PromptFileError(
            f"{path}: the backbone's weights are those of the local file '{file}' "
            f"(SHA-256 of its tensors {record.sha256[:12]}); name it with --weights FILE "
            "(weights= in Python)"
        )
    if weights is None and not record.pretrained:
        raise PromptFileError(
            f"{path} belongs to '{record.name}' with weights {record.sha256[:12]}, which were "
            "random and are in no file; pass that backbone as backbone="
        )
    if name != record.name:
        return None
    try:
        outline = outline_backbone(name, record.image_size, record.pool)
    except BackboneError as error:
        raise BackboneError(f"{path}: {error}") from error
    _check_shape(header, path, outline)
    return outline


def _check_tensors(path: Path, header: PromptHeader, table: Table, body: Backbone) -> None:
    try:
        check_tensors(header, table, body)
    except (ConfigError, BackboneError, PromptFileError) as error:
        raise _of_file(path, error) from error


def _of_file(path: Path | str, error: Exception) -> PromptFileError:
    """One line that names the file, and of several problems the first."""
    return PromptFileError(f"{path}: {str(error).partition(chr(10))[0]:.500}")


def _check_belongs(header: PromptHeader, path: Path, body: Backbone) -> None:
    """Refuse a backbone with other weights than the file's, or at another size."""
    record = header.backbone
    if body.sha256 != record.sha256:
        raise PromptFileError(
            f"{path} belongs to '{record.name}' with weights {record.sha256[:12]}, "
            f"not to '{body.name}' with {str(body.sha256)[:12]}"
        )
    _check_shape(header, path, body)


def _check_shape(header: PromptHeader, path: Path, body: Backbone) -> None:
    """Refuse a backbone that computes another activation, or takes images of another size."""
    record = header.backbone
    if record.activation is not None and body.activation != record.activation:
        raise PromptFileError(
            f"{path} was trained with {record.activation}, '{body.name}' computes "
            f"{body.activation}: same weights, other numbers"
        )
    if record.pool is not None and body.pooling != record.pool:
        raise PromptFileError(
            f"{path} was trained on features by '{record.pool}' pooling, the backbone given pools "
            f"'{body.pooling}'; create it with pool='{record.pool}'"
        )
    if body.preprocess.size != record.image_size or body.grid != record.grid:
        raise PromptFileError(
            f"{path} was trained at {record.image_size} pixels, "
            f"the backbone given is at {body.preprocess.size}"
        )
