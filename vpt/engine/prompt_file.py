"""The prompt file, what a user keeps of a run: trained tensors and all that their use needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError
from torch import Tensor

from vpt.errors import PromptFileError
from vpt.storage.sealed_file import SealedFileError, read_sealed, read_sealed_header, write_sealed

FORMAT_VERSION = 1
HEADER_LIMIT = 3 * 2**20
"""Most bytes that the header's JSON may take."""

TEXT_FEATURE = "text"
"""Required by files whose classes are texts: the head's options and `text` say which."""

DETECTION_FEATURE = "detection"
"""Required by files of detectors: `neck` and the head's options say which."""

MULTI_LABEL_FEATURE = "multi_label"
"""Required by files of models whose images may be of several classes: logits are no softmax's."""

VALUE_RANGE_FEATURE = "value_range"
"""Required where `preprocess` says which values of images of more than 8 bits are 0 and 255."""

KNOWN_FEATURES = frozenset(
    {TEXT_FEATURE, DETECTION_FEATURE, MULTI_LABEL_FEATURE, VALUE_RANGE_FEATURE}
)
"""What a header's `requires` may name; format 1 as such needs nothing beyond itself."""

_UPGRADE = "it needs a newer vpt: pip install -U vpt"


class BackboneRecord(BaseModel):
    """Which backbone the tensors belong to.

    Attributes:
        name: as in a config, e.g. 'timm/vit_tiny_patch16_224'.
        sha256: of the image tower's weights as loaded.
        pretrained: whether the published weights were loaded.
        weights: the local weight file that the user gave, or None.
        image_size: (H, W) in pixels.
        grid: (h, w) of the patch tokens.
        activation: class name of the blocks' activation, which the weights do not tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    pretrained: bool
    weights: str | None = None
    image_size: tuple[PositiveInt, PositiveInt]
    grid: tuple[PositiveInt, PositiveInt]
    activation: str | None = None


class TextRecord(BaseModel):
    """Which text tower a head's classes were written for.

    Attributes:
        sha256: of the text tower's weights.
        structure: digest of what shapes its features besides: activation, masks, pooling, heads.
        tokenizer: digest of how it reads texts.
        context_length: tokens of a text.
        names: the classes as the sentences call them, in label order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    structure: str
    tokenizer: str
    context_length: PositiveInt
    names: tuple[str, ...]


class PromptHeader(BaseModel):
    """What a prompt file says about its tensors.

    Attributes:
        format_version: of the file's layout.
        vpt_version: that wrote the file.
        task: what the model does.
        backbone: the backbone the tensors belong to.
        preprocess: `Preprocess.to_dict()` of the images the model was trained on.
        prompt: the prompt's config, or a list of them.
        neck: of a detector, the feature pyramid's config.
        head: the head's config; None gives features.
        tuning: 'frozen', 'full', 'bias', ...: which backbone tensors the file holds.
        class_names: of the logits, in order.
        category_ids: of a detector, what the annotation files call the classes, in order.
        text: the text tower and the names in the sentences, for a head whose classes are texts.
        metrics: name to value, as measured when the file was written.
        seed: of the run.
        config: the run's resolved config.
        requires: features that a reader has to know to use the file rightly.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    vpt_version: str = Field(default_factory=lambda: version("vpt"))
    task: Literal["classification", "detection"] = "classification"
    backbone: BackboneRecord
    preprocess: dict[str, Any]
    prompt: dict[str, Any] | list[dict[str, Any]]
    neck: dict[str, Any] | None = None
    head: dict[str, Any] | None = None
    tuning: str = "frozen"
    class_names: list[str] | None = None
    category_ids: list[int] | None = None
    text: TextRecord | None = None
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    seed: int | None = None
    config: dict[str, Any] | None = None
    requires: list[str] = Field(default_factory=list)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return MULTI_LABEL_FEATURE in self.requires


def write_prompt_file(path: Path, tensors: Mapping[str, Tensor], header: PromptHeader) -> None:
    """Replace `path` with a prompt file, as a whole or not at all.

    Raises:
        PromptFileError: a tensor or a number is not finite, or the header is over the limit.
        RunError: the disk is full, forbidden or broken.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise PromptFileError(
                f"cannot write {path}: tensor '{name}' holds NaN or infinity; "
                f"take an earlier checkpoint or a lower learning rate"
            )
    values = header.model_dump(mode="json")
    size = len(json.dumps(values))
    if size > HEADER_LIMIT:
        raise PromptFileError(
            f"cannot write {path}: its header takes {size} bytes, at most {HEADER_LIMIT} are "
            f"allowed; shorten the class names or the config"
        )
    try:
        write_sealed(path, tensors, values)
    except SealedFileError as error:
        raise PromptFileError(str(error)) from error


def read_prompt_file(path: Path | str) -> tuple[PromptHeader, dict[str, Tensor]]:
    """The header and the tensors (on the CPU) of a prompt file, after every byte was verified.

    Raises:
        PromptFileError: the file is missing, damaged, of another kind, or needs a newer vpt.
    """
    path = Path(path)
    try:
        values, tensors = read_sealed(path)
    except SealedFileError as error:
        raise PromptFileError(str(error)) from error
    return _validate(path, values), tensors


def read_prompt_header(path: Path | str) -> PromptHeader:
    """The header alone, without reading the tensors.

    Raises:
        PromptFileError: the file is missing, damaged in its head, of another kind, or needs a
            newer vpt.
    """
    path = Path(path)
    try:
        values = read_sealed_header(path)
    except SealedFileError as error:
        inside = path / "prompt.safetensors"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise PromptFileError(f"{error}{hint}") from error
    return _validate(path, values)


def _validate(path: Path, values: dict[str, Any]) -> PromptHeader:
    # Before the schema: a newer file may hold fields that this schema does not know.
    _refuse_newer(path, values)
    if len(json.dumps(values)) > HEADER_LIMIT:
        raise PromptFileError(f"{path}: its header is over the {HEADER_LIMIT} bytes allowed")
    try:
        return PromptHeader.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise PromptFileError(
            f"{path} is no prompt file of this version: header field '{key}': {first['msg']}"
        ) from error


def _refuse_newer(path: Path, values: dict[str, Any]) -> None:
    written = values.get("format_version")
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise PromptFileError(f"{path} has format {written}; {_UPGRADE}")
    requires = values.get("requires", [])
    for feature in requires if isinstance(requires, list) else []:
        if feature not in KNOWN_FEATURES:
            raise PromptFileError(f"{path} requires the feature '{feature}'; {_UPGRADE}")
