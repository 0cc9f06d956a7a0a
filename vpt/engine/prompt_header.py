"""The header of a prompt file: what it says about its tensors, and the bounds of each field."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, FailFast, Field, model_validator

from vpt.choices import CropMode
from vpt.class_names import class_names_problem
from vpt.config import Schema
from vpt.config.run import ValueRange, check_tuning
from vpt.limits import MAX_CLASSES, MAX_METHODS, MAX_NAME, MAX_SIDE
from vpt.structures import Preprocess

FORMAT_VERSION = 1

TEXT_FEATURE = "text"
"""Required by files whose classes are texts: the head's options and `text` say which."""

DETECTION_FEATURE = "detection"
"""Required by files of detectors: `neck` and the head's options say which."""

MULTI_LABEL_FEATURE = "multi_label"
"""Required by files of models whose images may be of several classes: logits are no softmax's."""

POOL_FEATURE = "pool"
"""Required where the feature is made in another way than the backbone's own."""

SENTENCES_FEATURE = "sentences"
"""Required by files whose sentences of each class are in a tensor: they may be many."""

VALUE_RANGE_FEATURE = "value_range"
"""Required where `preprocess` says which values of images of more than 8 bits are 0 and 255."""

KNOWN_FEATURES = frozenset(
    {
        TEXT_FEATURE,
        DETECTION_FEATURE,
        MULTI_LABEL_FEATURE,
        POOL_FEATURE,
        SENTENCES_FEATURE,
        VALUE_RANGE_FEATURE,
    }
)
"""What a header's `requires` may name; format 1 as such needs nothing beyond itself."""

MAX_SENTENCE = 1_000
"""Most characters of a sentence: a tokenizer takes a second for a word of five times as many."""

MAX_TEXTS = 2_000_000
"""Most sentences of all classes together: ImageNet-21k in 80 templates has 1.7 million."""


def _check_printable(text: str) -> str:
    """What messages quote of a file must not end their line."""
    if not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Share = Annotated[float, Field(ge=-100, le=100)]
Spread = Annotated[float, Field(ge=1e-4, le=100)]
Colour = Annotated[int, Field(ge=0, le=255)]
Word = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_check_printable)]
TextName = Annotated[str, Field(max_length=500)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BackboneRecord(Schema):
    """Which backbone the tensors belong to.

    Attributes:
        name: as in a config, e.g. 'timm/vit_tiny_patch16_224'.
        sha256: of the image tower's weights as loaded.
        pretrained: whether the published weights were loaded.
        weights: the name of the local weight file that the user gave, or None. It is shown to
            people, and never opened.
        image_size: (H, W) in pixels.
        grid: (h, w) of the patch tokens.
        pool: what the feature is made of, see `Backbone.pooling`; None in files of older versions.
        activation: class name of the blocks' activation, which the weights do not tell.
    """

    name: Word
    sha256: Digest
    pretrained: bool
    weights: Annotated[str, Field(max_length=4_096), AfterValidator(_check_printable)] | None = None
    image_size: tuple[Side, Side]
    grid: tuple[Side, Side]
    activation: Word | None = None
    pool: Word | None = None


class PreprocessRecord(Schema):
    """How the images of a model are prepared: the fields of `Preprocess`, within their bounds."""

    size: tuple[Side, Side]
    mean: tuple[Share, Share, Share]
    std: tuple[Spread, Spread, Spread]
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    crop_pct: float = Field(1.0, ge=0.1, le=2.0)
    crop_mode: CropMode = "center"
    fill: tuple[Colour, Colour, Colour] | None = None
    value_range: ValueRange | None = None

    @model_validator(mode="after")
    def _check_resized(self) -> PreprocessRecord:
        if max(self.size) / self.crop_pct > MAX_SIDE:
            raise ValueError(
                f"size {self.size} and crop_pct {self.crop_pct} resize images to more than "
                f"{MAX_SIDE} pixels"
            )
        return self

    def preprocess(self) -> Preprocess:
        """The same as what transforms take."""
        return Preprocess(**dict(self))


class TextRecord(Schema):
    """Which text tower a head's classes were written for.

    Attributes:
        sha256: of the text tower's weights.
        structure: digest of what shapes its features besides: activation, masks, pooling, heads.
        tokenizer: digest of how it reads texts.
        context_length: tokens of a text.
        names: the classes as the sentences call them, in label order.
    """

    sha256: Digest
    structure: Word
    tokenizer: Word
    context_length: int = Field(ge=1, le=65_536)
    names: Annotated[tuple[TextName, ...], FailFast()] = Field(min_length=1, max_length=50_000)


class CutRecord(Schema):
    """How the run's data were cut into splits by what images hold; see `vpt.data.ContentCut`.

    Attributes:
        val: fraction of the images that was cut out for validation, or None.
        test: likewise for testing.
        seed: of the cut.
        images: in each split.
        sha256: of each split's images.
    """

    val: float | None = Field(default=None, gt=0, lt=1)
    test: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(ge=0, lt=2**63)
    images: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=1)]]
    sha256: dict[Literal["train", "val", "test"], Digest]


def _check_method(options: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(options.get("name"), str):
        raise ValueError("has no name")
    return options


def _check_head(options: dict[str, Any]) -> dict[str, Any]:
    """The number of classes, and sentences that are written out: a name of a file is no sentence.

    Everything else is for the head's own schema to check.
    """
    _check_method(options)
    classes = options.get("num_classes")
    if type(classes) is not int or not 1 <= classes <= MAX_CLASSES:
        raise ValueError(f"num_classes is no number of classes from 1 to {MAX_CLASSES:,}")
    templates, context = options.get("templates"), options.get("context")
    if templates is not None and not _are_sentences(templates):
        raise ValueError("templates are not a list of sentences; a file holds them written out")
    check_sentences(options.get("class_prompts"))
    if context is not None and not isinstance(context, dict):
        raise ValueError("context is no mapping of options")
    return options


def check_sentences(prompts: Any) -> None:
    """Refuse anything but a list of sentences for each class; None is fine.

    Raises:
        ValueError: with the rule.
    """
    if prompts is None:
        return
    if not isinstance(prompts, dict) or not all(map(_are_sentences, prompts.values())):
        raise ValueError("class_prompts are not a list of sentences for each class")


def _are_sentences(values: Any) -> bool:
    good = isinstance(values, list | tuple) and len(values) > 0
    return good and all(isinstance(value, str) and len(value) <= MAX_SENTENCE for value in values)


def _check_names(names: list[Any]) -> list[str]:
    problem = class_names_problem(names)
    if problem is not None:
        raise ValueError(f"class_names{problem}")
    return names


def _check_ids(ids: list[Any]) -> list[int]:
    if not all(type(each) is int and -(2**63) <= each < 2**63 for each in ids):
        raise ValueError("must be a list of integers of 64 bits")
    if len(set(ids)) < len(ids):
        raise ValueError("holds the same id twice")
    return ids


def _check_used(config: dict[str, Any]) -> dict[str, Any]:
    """Of a run's config only a few values are used with its prompt file: those must be sound."""
    _UsedConfig.model_validate(config)
    return config


class _UsedTrain(Schema, extra="ignore"):
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class _UsedData(Schema, extra="ignore"):
    batch_size: int | None = Field(None, ge=1, le=65_536)
    eval_batch_size: int | None = Field(None, ge=1, le=65_536)


class _UsedConfig(Schema, extra="ignore"):
    train: _UsedTrain = _UsedTrain()
    data: _UsedData = _UsedData()


Method = Annotated[dict[str, Any], AfterValidator(_check_method)]
HeadOptions = Annotated[dict[str, Any], AfterValidator(_check_head)]
# Of Any: their own checks stop at the first wrong one, pydantic would describe each of thousands.
ClassNames = Annotated[list[Any], AfterValidator(_check_names)]
CategoryIds = Annotated[list[Any], AfterValidator(_check_ids)]


class PromptHeader(Schema):
    """What a prompt file says about its tensors.

    Attributes:
        format_version: of the file's layout.
        vpt_version: that wrote the file.
        task: what the model does.
        backbone: the backbone the tensors belong to.
        preprocess: of the images the model was trained on.
        prompt: the prompt's config, or a list of them.
        neck: of a detector, the feature pyramid's config.
        head: the head's config; None gives features.
        tuning: 'frozen', 'full', 'bias', ...: which backbone tensors the file holds.
        class_names: of the logits, in order.
        category_ids: of a detector, what the annotation files call the classes, in order.
        text: the text tower and the names in the sentences, for a head whose classes are texts.
        metrics: name to value, as measured when the file was written.
        seed: of the run.
        cut: how the run's data were cut into splits, where they had none; else None.
        config: the run's resolved config, of absolute paths only the last part.
        requires: features that a reader has to know to use the file rightly.
    """

    format_version: Literal[1] = 1
    vpt_version: Word = Field(default_factory=lambda: version("vpt"))
    task: Literal["classification", "detection"] = "classification"
    backbone: BackboneRecord
    preprocess: PreprocessRecord
    prompt: Method | Annotated[list[Method], Field(min_length=1, max_length=MAX_METHODS)]
    neck: dict[str, Any] | None = None
    head: HeadOptions | None = None
    tuning: Annotated[str, AfterValidator(check_tuning)] = "frozen"
    class_names: ClassNames | None = None
    category_ids: CategoryIds | None = None
    text: TextRecord | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    cut: CutRecord | None = None
    config: Annotated[dict[str, Any], AfterValidator(_check_used)] | None = None
    requires: list[str] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _check_classes(self) -> PromptHeader:
        if self.task == "detection" and self.head is None:
            raise ValueError("a detector without a head")
        classes = None if self.head is None else self.head["num_classes"]
        for name, given in (
            ("class_names", self.class_names),
            ("category_ids", self.category_ids),
            ("text.names", None if self.text is None else self.text.names),
        ):
            if given is not None and classes is not None and len(given) != classes:
                raise ValueError(f"{len(given)} {name} for a head of {classes} classes")
        templates = (self.head or {}).get("templates") or ()
        if self.text is not None and len(self.text.names) * len(templates) > MAX_TEXTS:
            raise ValueError(f"more than {MAX_TEXTS:,} sentences of all classes")
        return self

    @property
    def precision(self) -> str:
        """The arithmetic of the file's run; fp32 where it does not say."""
        return self._used.train.precision

    @property
    def eval_batch_size(self) -> int | None:
        """Images per forward pass in the run's evaluation; None where it does not say."""
        return self._used.data.eval_batch_size or self._used.data.batch_size

    @property
    def _used(self) -> _UsedConfig:
        return _UsedConfig.model_validate(self.config or {})

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return MULTI_LABEL_FEATURE in self.requires


def portable_config(values: Any) -> Any:
    """A config's values for a prompt file: of absolute paths the last part, as text.

    Where a machine keeps its files is private, and means nothing elsewhere.
    """
    if isinstance(values, Mapping):
        return {
            key: _portable_text(value) if key in _FILE_KEYS else portable_config(value)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [portable_config(value) for value in values]
    if isinstance(values, PurePath):
        return values.name if values.is_absolute() else str(values)
    return values


_FILE_KEYS = ("templates", "class_prompts")
"""Keys of a head that may be text that names a file."""


def _portable_text(value: Any) -> Any:
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return portable_config(value)
