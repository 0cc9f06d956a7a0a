"""Which tensors a prompt file's header asks for, known before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vpt.api.models import (
    check_detector_options,
    check_head_options,
    is_head_of_texts,
    make_prompt,
    selected_by,
)
from vpt.backbones import Backbone
from vpt.engine.prompt_header import PromptHeader
from vpt.errors import PromptFileError
from vpt.heads import TextParts, build_detection_head, build_head, build_pyramid
from vpt.storage.sealed_file import Table

_LISTED = 5


def check_tensors(header: PromptHeader, table: Table, body: Backbone) -> None:
    """Refuse a file whose tensors are not those of the model that its header describes.

    The model's shapes are computed on the meta device, which takes no memory: a header of few bytes
    that asks for gigabytes costs nothing.

    Args:
        header: of the file.
        table: the names, types and shapes that the file states.
        body: the backbone, or its outline.

    Raises:
        PromptFileError: a tensor is missing, unknown, or of another shape.
        ConfigError: an option of the header is unknown or wrong.
        BackboneError: `tuning` names blocks that the backbone does not have.
    """
    asked = _asked(header, table, body)
    missing, unknown = sorted(asked.keys() - table.keys()), sorted(table.keys() - asked.keys())
    if missing or unknown:
        raise PromptFileError(
            "its tensors are not those that its header asks for: "
            f"missing {_listed(missing)}, unknown {_listed(unknown)}"
        )
    for name, shape in asked.items():
        if table[name].shape != shape:
            raise PromptFileError(
                f"tensor {name} has shape {table[name].shape}, its header asks for {shape}"
            )


def _listed(names: list[str]) -> str:
    shown = f"[{', '.join(f'{name!r:.100}' for name in names[:_LISTED])}]"
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _asked(header: PromptHeader, table: Table, body: Backbone) -> dict[str, tuple[int, ...]]:
    """The shapes by the tensors' names, as `PromptedModel.trained_tensors` would give them."""
    with torch.device("meta"):
        parts: dict[str, nn.Module | None] = {"prompt": make_prompt(header.prompt, {}, body)}
        if header.task == "detection":
            parts |= _detector_parts(header, body)
        else:
            parts["head"] = _classification_head(header, table, body)
    tensors: dict[str, Tensor] = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    if header.tuning != "frozen":
        selected = frozenset(body.select(selected_by(header.tuning)))
        own = body.state_dict().items()
        tensors |= {f"backbone.{name}": tensor for name, tensor in own if name in selected}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _detector_parts(header: PromptHeader, body: Backbone) -> dict[str, nn.Module | None]:
    head = dict(header.head or {})
    classes = head.pop("num_classes")
    neck, options = check_detector_options(head, header.neck)
    pyramid = build_pyramid(neck, body.dimensions, options["channels"])
    return {"neck": pyramid, "head": build_detection_head(options, classes, pyramid.strides)}


def _classification_head(header: PromptHeader, table: Table, body: Backbone) -> nn.Module | None:
    if header.head is None:
        return None
    head = dict(header.head)
    classes = head.pop("num_classes")
    options = check_head_options(head)
    text = _texts(options, classes, table, body) if is_head_of_texts(options["name"]) else None
    return build_head(options, body.dimensions, classes, text)


def _texts(options: Mapping[str, Any], classes: int, table: Table, body: Backbone) -> TextParts:
    """Stands for what the text tower would give, of which only the shapes are looked at."""
    context = None
    if options.get("context") is not None:
        context = _Context(_context_shape(options["context"], classes, table))
    weight = torch.empty(classes, body.feature_dim)
    return TextParts(weight=weight, logit_scale=1.0, logit_bias=None, context=context)


class _Context(nn.Module):
    """Stands for a learned context: its one tensor."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(shape))


def _context_shape(options: Mapping[str, Any], classes: int, table: Table) -> tuple[int, ...]:
    """([C,] M, W) of a learned context; W, and M where words start it, only its file can tell."""
    stated = table.get("head.context.tokens")
    tokens, width = stated.shape[-2:] if stated and len(stated.shape) > 1 else (0, 0)
    if options["num_tokens"] is not None or options["init"] is None:
        tokens = options["num_tokens"] or 16
    return (classes, tokens, width) if options["class_specific"] else (tokens, width)
