"""The prompt file, what a user keeps of a run: trained tensors and all that their use needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpt.config import validate
from vpt.engine.prompt_header import (
    FORMAT_VERSION,
    KNOWN_FEATURES,
    MAX_TEXTS,
    SENTENCES_FEATURE,
    PromptHeader,
    check_sentences,
)
from vpt.errors import ConfigError, PromptFileError
from vpt.storage.sealed_file import (
    HEAD_LIMIT,
    SealedFileError,
    Table,
    read_sealed,
    read_sealed_head,
    sealed_head_size,
    write_sealed,
)

HEADER_LIMIT = 3 * 2**20
"""Most bytes that the header's JSON may take."""

MAX_KEYS = 50_000
"""Most keys of an object in the header."""

SENTENCES = "text.sentences"
"""The tensor with `head.class_prompts`: the bytes of its JSON, uint8."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_UPGRADE = "it needs a newer vpt: pip install -U vpt"


def write_prompt_file(path: Path, tensors: Mapping[str, Tensor], header: PromptHeader) -> None:
    """Replace `path` with a prompt file, as a whole or not at all.

    Raises:
        PromptFileError: a tensor or a number is not finite, or the header is over the limit.
        RunError: the disk is full, forbidden or broken.
    """
    for name, tensor in tensors.items():
        if _holds_nan(tensor):
            raise PromptFileError(
                f"cannot write {path}: tensor '{name}' holds NaN or infinity; "
                f"take an earlier checkpoint or a lower learning rate"
            )
    values, stored = _stored(header, tensors)
    problem = _size_problem(values, stored)
    if problem is not None:
        raise PromptFileError(f"cannot write {path}: {problem}")
    try:
        write_sealed(path, stored, values)
    except SealedFileError as error:
        raise PromptFileError(str(error)) from error


def prompt_file_problem(tensors: Mapping[str, Tensor], header: PromptHeader) -> str | None:
    """Why no file of these can be written, whatever the tensors' values; None: it can."""
    return _size_problem(*_stored(header, tensors))


def _stored(
    header: PromptHeader, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header's JSON values, and the tensors with the sentences of each class among them."""
    values = header.model_dump(mode="json")
    prompts = (header.head or {}).get("class_prompts")
    if prompts is None:
        return values, dict(tensors)
    values["head"] = {**values["head"], "class_prompts": None}
    values["requires"] = [*values["requires"], SENTENCES_FEATURE]
    text = json.dumps(prompts, ensure_ascii=False, separators=(",", ":")).encode()
    return values, {**tensors, SENTENCES: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def _size_problem(values: dict[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    size, head_size = len(json.dumps(values)), sealed_head_size(tensors, values)
    if size <= HEADER_LIMIT and head_size <= HEAD_LIMIT:
        return None
    parts = {key: len(json.dumps(value)) for key, value in values.items()}
    largest = sorted(parts, key=lambda key: -parts[key])[:2]
    shown = " and ".join(f"'{key}' ({parts[key]:,})" for key in largest)
    return (
        f"its header takes {max(size, head_size)} bytes, at most {HEADER_LIMIT} are allowed; "
        f"most of it are {shown}: shorten the class names or the config"
    )


def read_prompt_file(path: Path | str) -> tuple[PromptHeader, dict[str, Tensor]]:
    """The header and the tensors (on the CPU) of a prompt file, after every byte was verified.

    Raises:
        PromptFileError: the file is missing, damaged, of another kind, needs a newer vpt, or holds
            a tensor that no model has: not of floating point, or not finite.
    """
    path = Path(path)
    read_prompt_outline(path)  # so that nothing is read that would be refused
    try:
        values, tensors = read_sealed(path)
    except SealedFileError as error:
        raise PromptFileError(str(error)) from error
    header = _validate(path, values)
    header = _with_sentences(path, header, tensors.pop(SENTENCES, None))
    for name, tensor in tensors.items():
        if _holds_nan(tensor.float()):  # as a model takes it: a double may be too large
            raise PromptFileError(f"{path}: tensor {name!r} holds NaN or infinity")
    return header, tensors


def read_prompt_header(path: Path | str) -> PromptHeader:
    """The header alone, without reading the tensors.

    The sentences of each class (`class_prompts`) may be among the tensors; they are None then.

    Raises:
        PromptFileError: the file is missing, damaged in its head, of another kind, or needs a
            newer vpt.
    """
    return read_prompt_outline(path)[0]


def read_prompt_outline(path: Path | str) -> tuple[PromptHeader, Table]:
    """The header, and which tensors of what shapes the file states that it holds.

    Raises:
        PromptFileError: see `read_prompt_header`; or a tensor is of a type that no model has.
    """
    path = Path(path)
    try:
        values, table = read_sealed_head(path)
    except SealedFileError as error:
        inside = path / "prompt.safetensors"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise PromptFileError(f"{error}{hint}") from error
    header = _validate(path, values)
    sentences = table.pop(SENTENCES, None)
    if (sentences is not None) != (SENTENCES_FEATURE in header.requires):
        raise PromptFileError(f"{path}: its sentences and what it requires contradict each other")
    if sentences is not None and (sentences.dtype, len(sentences.shape)) != (torch.uint8, 1):
        raise PromptFileError(f"{path}: its sentences are no bytes")
    for name, stated in table.items():
        if stated.dtype not in _FLOATS:
            raise PromptFileError(
                f"{path}: tensor {name!r} is of type {stated.dtype}; a model's are floating point"
            )
    return header, table


def _with_sentences(path: Path, header: PromptHeader, sentences: Tensor | None) -> PromptHeader:
    if sentences is None:
        return header
    try:
        prompts = json.loads(bytes(sentences.numpy()))
        check_sentences(prompts)
        if header.head is None or prompts is None:
            raise ValueError("there is no head that they are for")
        if sum(map(len, prompts.values())) > MAX_TEXTS:
            raise ValueError(f"there are more than {MAX_TEXTS:,}")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise PromptFileError(f"{path}: its sentences cannot be read: {reason}") from error
    return header.model_copy(update={"head": {**header.head, "class_prompts": prompts}})


def _holds_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _validate(path: Path, values: dict[str, Any]) -> PromptHeader:
    # Before the schema: a newer file may hold fields that this schema does not know.
    _refuse_newer(path, values)
    try:
        # A lone surrogate could be neither printed nor written.
        size = len(json.dumps(values, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise PromptFileError(f"{path}: its header holds text that is no Unicode") from error
    if size > HEADER_LIMIT:
        raise PromptFileError(f"{path}: its header is over the {HEADER_LIMIT} bytes allowed")
    if _is_broad(values):
        raise PromptFileError(f"{path}: its header has an object of more than {MAX_KEYS:,} keys")
    try:
        return validate(PromptHeader, values, source="its header")
    except ConfigError as error:
        first = str(error).splitlines()[0]
        hint = _CHECKPOINT_HINT if "backbone" not in values and "step" in values else ""
        raise PromptFileError(f"{path} is no prompt file of this version: {first}{hint}") from error


def _is_broad(values: Any) -> bool:
    if isinstance(values, dict):
        return len(values) > MAX_KEYS or any(map(_is_broad, values.values()))
    return isinstance(values, list) and any(map(_is_broad, values))


_CHECKPOINT_HINT = "; it is a checkpoint, use the run's prompt.safetensors"


def _refuse_newer(path: Path, values: dict[str, Any]) -> None:
    written = values.get("format_version")
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise PromptFileError(f"{path} has format {_short(written)}; {_UPGRADE}")
    requires = values.get("requires", [])
    for feature in requires if isinstance(requires, list) else []:
        if not isinstance(feature, str) or feature not in KNOWN_FEATURES:
            raise PromptFileError(f"{path} requires the feature {_short(feature)}; {_UPGRADE}")


def _short(value: Any) -> str:
    return f"{value!r:.60}"
