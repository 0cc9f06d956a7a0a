"""What a run takes over from the prompt file of another one: `train.init_from`.

Prompts and layers that belong to no class are taken whole. What a class has of its own, a row of a
linear head or the channels of a detector's, goes by the class's name: classes may be added, left
out, or stand in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vpt.engine.prompt_file import read_prompt_file, read_prompt_header
from vpt.engine.prompt_header import PromptHeader
from vpt.errors import PromptFileError
from vpt.models import Classifier, Detector

_SHOWN = 5


def start_classifier(model: Classifier, path: Path) -> str:
    """Put a prompt file's tensors into a model; one line about what was taken.

    Raises:
        PromptFileError: the file is damaged, or its tensors would mean something else here.
    """
    header = read_prompt_header(path)
    _check_task(header, "classification", path)
    _check_backbone(model, header, path)
    before, now = _meaning(header.prompt), _meaning(model.prompt.options)
    if before != now:
        raise PromptFileError(
            f"train.init_from {path} holds another kind of prompt: {before} instead of {now}"
        )
    _, tensors = read_prompt_file(path)
    classes = _Classes.of(header.class_names, model.class_names)
    own = dict(model.trained_tensors())
    start = {name: tensor for name, tensor in tensors.items() if not _is_of_head(name)}
    other_head = _other_head(model, header)
    if other_head is None and _same_words(model, header):
        start |= _carried_head(model, own, tensors, classes)
        taken = classes.line("the head")
    else:
        start |= {name: t.detach().clone() for name, t in own.items() if _is_of_head(name)}
        if other_head is None and "head.log_scale" in own and "head.log_scale" in tensors:
            start["head.log_scale"] = tensors["head.log_scale"]
        taken = f"the head starts anew ({other_head or 'its words stand otherwise'})"
    _load(model, start, path)
    return f"train.init_from {path}: {taken}"


def start_detector(model: Detector, path: Path) -> str:
    """Put the tensors of a detector with the same prompt and neck into one; one line about it.

    Raises:
        PromptFileError: the file is damaged, or its tensors would mean something else here.
    """
    header = read_prompt_header(path)
    _check_task(header, "detection", path)
    own_parts = {
        "backbone.sha256": model.backbone.sha256,
        "prompt": model.prompt.options,
        "neck": model.neck.options,
    }
    there = {
        "backbone.sha256": header.backbone.sha256,
        "prompt": header.prompt,
        "neck": header.neck,
    }
    if differing := [key for key, value in own_parts.items() if there[key] != value]:
        raise PromptFileError(f"train.init_from {path} has another {', '.join(differing)}")
    _, tensors = read_prompt_file(path)
    classes = _Classes.of(header.class_names, model.class_names)
    start = {name: tensor for name, tensor in tensors.items() if not _is_of_head(name)}
    start |= _carried_head(model, dict(model.trained_tensors()), tensors, classes)
    _load(model, start, path)
    return f"train.init_from {path}: {classes.line('the head')}"


@dataclass(frozen=True)
class _Classes:
    """Which classes of a file are this run's.

    Attributes:
        before: how many the file has.
        now: how many the run has.
        places: of each class that both have, its places here and in the file.
        new: names that the file does not have.
        dropped: names that only the file has.
        named: whether both have names.
    """

    before: int
    now: int
    places: tuple[tuple[int, int], ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    named: bool = True

    @classmethod
    def of(cls, before: Sequence[str] | None, now: Sequence[str] | None) -> _Classes:
        there = {name: place for place, name in enumerate(before or ())}
        here = {name: place for place, name in enumerate(now or ())}
        return cls(
            len(there),
            len(here),
            tuple((here[name], place) for name, place in there.items() if name in here),
            tuple(name for name in here if name not in there),
            tuple(name for name in there if name not in here),
            before is not None and now is not None,
        )

    def line(self, what: str) -> str:
        """What became of the classes, in a line."""
        if not self.named:
            return f"no class of {what} was taken: the file has no class names"
        if not self.places:
            return (
                f"none of the file's {self.before:,} classes is here: their part of {what} is new"
            )
        if not self.new and not self.dropped:
            return f"{what} starts with all {self.now:,} classes"
        parts = [f"{what} starts with {len(self.places):,} of the file's {self.before:,} classes"]
        parts += [f"new here: {_listed(self.new)}"] if self.new else []
        parts += [f"not taken: {_listed(self.dropped)}"] if self.dropped else []
        return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _carried_head(
    model: Classifier | Detector,
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    classes: _Classes,
) -> dict[str, Tensor]:
    """The head's tensors of the file, with this run's own where a class is new."""
    assert model.head is not None
    per_class = {f"head.{name}": blocks for name, blocks in model.head.per_class.items()}
    carried = {name: tensor for name, tensor in tensors.items() if _is_of_head(name)}
    for name, blocks in per_class.items():
        if name in own and name in carried:
            rows = _carried_rows(own[name].detach(), carried[name], blocks, classes)
            if rows is not None:
                carried[name] = rows
    return carried


def _carried_rows(own: Tensor, other: Tensor, blocks: int, classes: _Classes) -> Tensor | None:
    """A tensor whose first axis is `blocks` times the classes; None: the file's does not fit."""
    if other.shape[0] != blocks * classes.before or other.shape[1:] != own.shape[1:]:
        return None if classes.named else own.clone()
    rows = own.clone()
    by_class = rows.view(blocks, classes.now, *own.shape[1:])
    theirs = other.view(blocks, classes.before, *own.shape[1:])
    for here, there in classes.places:
        by_class[:, here] = theirs[:, there].to(own.dtype)
    return rows


def _is_of_head(name: str) -> bool:
    return name.startswith("head.")


def _load(model: Classifier | Detector, start: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_trained(start)
    except PromptFileError as error:
        raise PromptFileError(f"train.init_from {path}: {error}") from error


def _check_task(header: PromptHeader, task: str, path: Path) -> None:
    if header.task != task:
        raise PromptFileError(
            f"train.init_from {path} holds a model for {header.task}, and this run is {task}"
        )


def _check_backbone(model: Classifier, header: PromptHeader, path: Path) -> None:
    """Refuse tensors that would mean something else here than where they were trained."""
    if header.backbone.sha256 != model.backbone.sha256:
        raise PromptFileError(
            f"train.init_from {path} belongs to '{header.backbone.name}' with other weights"
        )
    if header.backbone.activation != model.backbone.activation:
        raise PromptFileError(
            f"train.init_from {path} was trained with {header.backbone.activation}, "
            f"'{model.backbone.name}' computes {model.backbone.activation}"
        )


_NOT_MEANING = ("init", "std", "dropout", "chunk", "num_tokens")
"""Options of a prompt or a context that its tensors' meaning does not depend on; shapes tell M."""


def _meaning(options: Any) -> Any:
    """Options without those that a trained tensor does not depend on; `placement` came later."""
    if isinstance(options, list):
        return [_meaning(each) for each in options]
    kept = {k: v for k, v in (options or {}).items() if k not in _NOT_MEANING}
    return {"placement": "post_norm", **kept} if "layers" in kept else kept


_SHAPING = ("name", "layers", "width")


def _other_head(model: Classifier, header: PromptHeader) -> str | None:
    """Why nothing of the file's head means the same here; None where it does."""
    before, now = dict(header.head or {}), {} if model.head is None else dict(model.head.options)
    for option in _SHAPING:
        if before.get(option) != now.get(option):
            return f"the file's has {option} {before.get(option)}, not {now.get(option)}"
    if header.multi_label != model.multi_label:
        return "the file's is multi-label" if header.multi_label else "the file's is of one label"
    pool = header.backbone.pool
    if pool is not None and pool != model.backbone.pooling:
        return f"the file's reads features by '{pool}' pooling, not '{model.backbone.pooling}'"
    return None


def _same_words(model: Classifier, header: PromptHeader) -> bool:
    """Whether learned words stand where they stood; true of heads without texts."""
    before, now = dict(header.head or {}), {} if model.head is None else dict(model.head.options)
    texts = header.text, model.text
    same_tower = None in texts or header.text.sha256 == model.text.sha256  # type: ignore[union-attr]
    return same_tower and _meaning(before.get("context")) == _meaning(now.get("context"))
