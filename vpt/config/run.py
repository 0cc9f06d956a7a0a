"""The schema of a training run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from vpt.config.registered import Registered
from vpt.config.schema import AtMost, NamedSchema, Schema
from vpt.limits import MAX_SIDE
from vpt.registry import HEADS, PROMPTS

PromptConfig = Annotated[dict[str, Any] | list[dict[str, Any]], Registered(PROMPTS, many=True)]
HeadConfig = Annotated[dict[str, Any], Registered(HEADS)]


def _is_range(low: float, high: float) -> bool:
    return 0 < low <= high


def _check_scale(value: tuple[float, float]) -> tuple[float, float]:
    if not (_is_range(*value) and value[1] <= 1):
        raise ValueError("must be [low, high] with 0 < low <= high <= 1")
    return value


def _check_ratio(value: tuple[float, float]) -> tuple[float, float]:
    if not _is_range(*value):
        raise ValueError("must be [low, high] with 0 < low <= high")
    if value[0] < 0.01:
        raise ValueError("must be [low, high] with low of at least 0.01")
    return value


def _check_value_range(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("must be [low, high] with low < high")
    return value


def check_tuning(value: str) -> str:
    """The value, if it says which backbone tensors train."""
    if not re.fullmatch(r"frozen|full|bias|norm|last:[1-9]\d{0,3}", value):
        raise ValueError("must be frozen, full, bias, norm or last:<k> with k of at least 1")
    return value


def check_scan(on_bad_image: str, *, scan: bool) -> None:
    """ValueError where bad images are to be left out, but would not be found."""
    if on_bad_image == "skip" and not scan:
        raise ValueError("on_bad_image skip needs scan: true, which finds the bad images")


def check_device(value: str) -> str:
    """The value, if it is written as a device is."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, cuda:<n> or mps")
    return value


_NO_USE = "no training has a use for more"
_PIXELS = "a larger image would take gigabytes"

Positive = Annotated[float, Field(gt=0), AtMost(1e6, _NO_USE)]
NotNegative = Annotated[float, Field(ge=0), AtMost(1e6, _NO_USE)]
Count = Annotated[int, Field(gt=0), AtMost(10**9, _NO_USE)]
Pixels = Annotated[int, Field(gt=0), AtMost(MAX_SIDE, _PIXELS)]
BatchSize = Annotated[
    int, Field(gt=0), AtMost(65_536, "a batch is held in memory as a whole; use accumulation")
]
Processes = Annotated[int, Field(ge=0), AtMost(256, "each one is a process with its own memory")]
Gigabytes = Annotated[float, Field(gt=0), AtMost(1e6, "that is a petabyte")]
Share = Annotated[float, Field(ge=0, le=1)]
End = Annotated[float, Field(le=100)]  # of a range
Decay = Annotated[float, Field(ge=0, lt=1)]


RangeEnd = Annotated[float, Field(ge=-1e9, le=1e9)]
ValueRange = Annotated[tuple[RangeEnd, RangeEnd], AfterValidator(_check_value_range)]
VALUE_RANGE = Field(
    None,
    description="[low, high]: the values of images of more than 8 bits that become 0 and 255, e.g. "
    "[0, 4095] of a 12-bit camera that writes 16-bit files; kept in the prompt file; null: the "
    "whole range that the file's kind has",
)


class BackboneConfig(NamedSchema):
    """The pretrained transformer; a bare string is its name."""

    name: str = Field(
        min_length=1,
        description="timm/<model>[.tag], open_clip/<architecture>:<tag> or bundled/<model>",
    )
    pretrained: bool = Field(True, description="load pretrained weights; false: random ones")
    weights: Path | None = Field(
        None,
        description="a local safetensors file in the backbone's own tensor names, instead of a "
        "download",
    )
    image_size: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="input side, or [height, width], in pixels; null: the backbone's own"
    )
    pool: str | None = Field(
        None,
        max_length=100,
        description="what the feature is made of: token (the class token), avg, avgmax or max of "
        "the patch tokens, or map where the model has an attention pooling; null: as timm or "
        "open_clip do it for this model",
    )


class RandAugmentConfig(Schema):
    """Operations drawn at random for each training image (Cubuk et al. 2020)."""

    num_ops: Annotated[int, Field(ge=0, le=14)] = Field(
        2, description="operations per image, one after the other"
    )
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="their strength, of torchvision's 0..30; timm's 0..10 times three"
    )


class TransformConfig(NamedSchema):
    """What happens to training images; evaluation always uses the backbone's own transform."""

    name: Literal["random_resized_crop", "resize_crop", "none"] = Field(
        "random_resized_crop",
        description="random_resized_crop; resize_crop: short side to `resize`, then a random crop "
        "of the input size; none: the evaluation transform",
    )
    scale: Annotated[tuple[End, End], AfterValidator(_check_scale)] = Field(
        (0.35, 1.0), description="random_resized_crop: range of the crop's share of the area"
    )
    ratio: Annotated[tuple[End, End], AfterValidator(_check_ratio)] = Field(
        (0.75, 1.3333), description="random_resized_crop: range of the crop's width / height"
    )
    resize: Pixels = Field(256, description="resize_crop: short side in pixels before the crop")
    hflip: Share = Field(0.5, description="probability of a left-right flip")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="largest rotation to either side, in degrees"
    )
    color_jitter: Share = Field(
        0.0, description="largest relative change of brightness, contrast and saturation"
    )
    rand_augment: RandAugmentConfig | None = Field(
        None, description="RandAugment, after all of the above; {}: 2 operations of strength 9"
    )

    @model_validator(mode="after")
    def _check_rand_augment(self) -> TransformConfig:
        if self.name == "none" and self.rand_augment is not None:
            raise ValueError("transform none changes no image: leave out rand_augment")
        return self


class MixConfig(Schema):
    """Training images mixed with others of their batch, and so their targets; timm's words."""

    mixup_alpha: NotNegative = Field(
        0.0, description="mixup: share ~ Beta(alpha, alpha); 0: none (Zhang et al. 2018)"
    )
    cutmix_alpha: NotNegative = Field(
        0.0, description="CutMix: area ~ Beta(alpha, alpha); 0: none (Yun et al. 2019)"
    )
    prob: Share = Field(1.0, description="probability that a batch is mixed")
    switch_prob: Share = Field(0.5, description="probability of CutMix, where both are on")


class BoxTransformConfig(NamedSchema):
    """What happens to training images with boxes; evaluation always letterboxes, and no more."""

    name: Literal["jitter", "none"] = Field(
        "jitter",
        description="jitter: scale, crop, flip and colours at random; none: only the letterbox",
    )
    scale: Annotated[tuple[End, End], AfterValidator(_check_ratio)] = Field(
        (0.5, 2.0),
        description="range of the size relative to the letterboxed one; above 1 a random part is "
        "seen, below 1 the image fills less of the square",
    )
    hflip: Share = Field(0.5, description="probability of a left-right flip")
    color_jitter: Share = Field(
        0.2, description="largest relative change of brightness, contrast and saturation"
    )
    min_visibility: Share = Field(
        0.2, description="share of a box that a crop must keep for the box to stay a target"
    )
    min_side: NotNegative = Field(
        1.0, description="shortest side of a target, in pixels of the square"
    )


class DataConfig(Schema):
    """The data set and how batches are made of it."""

    dataset: Path = Field(description="a descriptor YAML, or a folder of images by class")
    root: Path | None = Field(None, description="where the images are; null: the descriptor's root")
    val_fraction: Decay | None = Field(
        None,
        description="share of the training images that is cut out for validation, by what the "
        "images hold; null: the data set's own, or 0.2 of a folder without; 0: none",
    )
    test_fraction: Decay | None = Field(
        None,
        description="likewise for testing; null: the data set's own, or 0.2 of a folder of class "
        "folders without splits",
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0,
        description="another one cuts out other images; the run's seed does not, so no image that "
        "was tested on is ever learned from",
    )
    preprocess: Literal["backbone", "imagenet", "squash"] = Field(
        "backbone",
        description="of all images: the backbone's own; or the paper's (ImageNet's mean and std, "
        "bilinear): imagenet for FGVC, short side to size / 0.875, cropped; squash for VTAB-1k, "
        "both sides to the size",
    )
    value_range: ValueRange | None = VALUE_RANGE
    transform: TransformConfig = Field(
        default_factory=TransformConfig, description="augmentation of training images"
    )
    mix: MixConfig = Field(
        default_factory=MixConfig, description="mixup and CutMix of training images"
    )
    batch_size: BatchSize = Field(
        description="images per batch in training; several processes share each batch out"
    )
    eval_batch_size: BatchSize | None = Field(
        None, description="images per forward pass in evaluation; null: batch_size"
    )
    num_workers: Processes | Literal["auto"] = Field(
        2,
        description="loader processes; 0: load in the main process; auto: the cores there are less "
        "one, at most 8, shared by the training processes of a machine",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="an unreadable image stops the run, or is left out"
    )
    scan: bool = Field(True, description="decode every image once before training starts")
    shots: Count | None = Field(
        None, description="training images per class, drawn by the seed; null: all"
    )
    sampling: Literal["hash", "coop"] = Field(
        "hash",
        description="how shots are drawn: hash, by each image's name, whatever their order; coop, "
        "the very images that CoOp draws for the seed, and at most 4 per class of val",
    )
    selection: Path | None = Field(
        None,
        description="a JSON file that names the images of train and val, in place of shots",
    )
    classes: Literal["all", "base", "new"] = Field(
        "all",
        description="base: the first half of the classes, one more if odd; new: the second; cut "
        "after shots are drawn",
    )
    train_on: Literal["train", "train_and_val"] = Field(
        "train",
        description="train_and_val: learn from both once everything is chosen; there is no "
        "validation then, and the last epoch is kept",
    )
    balance: bool = Field(
        False,
        description="draw every class equally often: images of rare classes several times an "
        "epoch, those of frequent ones in other epochs",
    )
    cache: Literal["none", "auto", "memory"] = Field(
        "none",
        description="keep what training does not change of images (features, or tokens before the "
        "first prompted or tuned block) for the next epoch, bit for bit; auto: where that is "
        "possible; memory: or refuse",
    )
    cache_gb: Gigabytes = Field(4.0, description="most gigabytes of memory for the cache")
    decoded: Literal["none", "auto", "disk"] = Field(
        "none",
        description="keep decoded training and validation images on the disk, bit for bit, as far "
        "as every epoch makes the same of them; auto: where that is possible and helps; disk: or "
        "refuse",
    )
    decoded_dir: Path | None = Field(
        None,
        description="folder of decoded images, for all runs; null: decoded in $VPT_CACHE, or else "
        "in ~/.cache/vpt",
    )
    decoded_gb: Gigabytes = Field(
        10.0, description="most gigabytes in that folder; those used longest ago go first"
    )

    @model_validator(mode="after")
    def _check_fractions(self) -> DataConfig:
        if (self.val_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ValueError("val_fraction and test_fraction leave no image for training")
        return self

    @model_validator(mode="after")
    def _check_choice(self) -> DataConfig:
        if self.selection is not None and self.shots is not None:
            raise ValueError("selection and shots both choose the training images; give one")
        chosen = "selection" if self.selection is not None else "shots"
        if self.train_on == "train_and_val" and (self.shots or self.selection):
            raise ValueError(f"train_on train_and_val takes all images of both; leave out {chosen}")
        return self

    @model_validator(mode="after")
    def _check_scan(self) -> DataConfig:
        check_scan(self.on_bad_image, scan=self.scan)
        return self


class OptimConfig(NamedSchema):
    """The optimiser and its schedule; rates are used as written, never rescaled."""

    name: Literal["sgd", "adamw"] = Field("adamw", description="the update rule")
    lr: Positive = Field(
        description="peak rate, per optimiser step at batch_size x accumulation images; never "
        "rescaled"
    )
    weight_decay: NotNegative = Field(0.0, description="decay of the prompt's tensors")
    head_lr: Positive | None = Field(None, description="peak rate of the head; null: lr")
    head_weight_decay: NotNegative | None = Field(
        None, description="decay of the head; null: weight_decay"
    )
    backbone_lr: Positive | None = Field(
        None, description="peak rate of tuned backbone tensors; null: lr"
    )
    momentum: Decay = Field(0.9, description="sgd: momentum")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="adamw: decay of the gradient's and its square's averages"
    )
    schedule: Literal["cosine", "cosine_epochs", "constant"] = Field(
        "cosine",
        description="the rate after warm-up: cosine down to min_lr, stepwise; cosine_epochs: "
        "changed once per epoch, as the CoOp family does; or constant",
    )
    warmup_epochs: NotNegative = Field(
        0.0, description="epochs of linear warm-up, stepwise, from above zero"
    )
    warmup_lr: Positive | None = Field(
        None, description="a constant rate for the warm-up; null: linear"
    )
    min_lr: NotNegative = Field(0.0, description="rate at the end of the cosine schedule")
    clip_grad_norm: Positive | None = Field(
        None, description="largest norm of the whole gradient; null: no clipping"
    )
    accumulation: Count = Field(1, description="batches per optimiser step")

    @model_validator(mode="after")
    def _check_rates(self) -> OptimConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}; lower min_lr")
        return self


class ConsistencyConfig(Schema):
    """Weights of the losses that keep a prompted CLIP near the frozen one; 0 leaves one out."""

    image: NotNegative = Field(
        0.0, description="distance of image features from the frozen model's; PromptSRC: 10"
    )
    text: NotNegative = Field(
        0.0, description="distance of learned from fixed text features; PromptSRC: 25"
    )
    logits: NotNegative = Field(
        0.0, description="divergence from the zero-shot model's probabilities; PromptSRC: 1"
    )


class LossConfig(Schema):
    """The training loss."""

    label_smoothing: Decay = Field(0.0, description="share of the target spread over all classes")
    class_weights: Literal["balanced"] | list[Positive] | None = Field(
        None,
        description="balanced: inversely to the class counts; or one weight per class, in the "
        "order of the classes; null: equal. Of multi-label data they weigh a class's images "
        "against all others, balanced by others / images of the class",
    )
    consistency: ConsistencyConfig = Field(
        default_factory=ConsistencyConfig,
        description="keep a prompted CLIP near the frozen one (PromptSRC)",
    )


class TrainConfig(Schema):
    """How long, where and how carefully to train."""

    epochs: Count = Field(description="passes over the training images")
    max_steps: Count | None = Field(None, description="stop after so many optimiser steps")
    max_hours: Positive | None = Field(None, description="stop after so many hours")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="arithmetic of forward and backward; trained tensors stay fp32"
    )
    device: Annotated[str, AfterValidator(check_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:<n> or mps; auto: the best there is"
    )
    evaluate_every: Count = Field(
        1, description="epochs from one validation to the next; the end is always validated"
    )
    early_stopping: Count | None = Field(
        None, description="stop after so many epochs without a better validation metric"
    )
    select: (
        Literal["top1", "mean_class_accuracy", "mAP", "macro_f1", "micro_f1", "loss", "last"] | None
    ) = Field(
        None,
        description="validation metric that picks the best epoch; last: the last one, unpicked; "
        "null: top1, of multi-label data mAP; ties go to the lower validation loss",
    )
    checkpoint_seconds: Positive = Field(
        600.0, description="seconds between checkpoints within an epoch"
    )
    keep_checkpoints: Annotated[
        int, Field(ge=2), AtMost(10_000, "the disk would be full of them")
    ] = Field(3, description="newest checkpoints kept; at least one to fall back to")
    log_every: Count = Field(20, description="optimiser steps between logged training values")
    init_from: Path | None = Field(
        None,
        description="a prompt file to start from; classes that it shares with the data keep their "
        "rows of the head, by name",
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        "none",
        description="torch.compile of the backbone with its prompts: default; reduce-overhead and "
        "max-autotune, with CUDA graphs on a GPU; none: as it is written",
    )
    grad_checkpointing: bool = Field(
        False,
        description="compute every block again in the backward pass instead of keeping what it "
        "made: less memory, more time, the same numbers",
    )


class RunConfig(Schema):
    """Everything that decides a training run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="of everything random: initialisation, order, augmentation, dropout, splits"
    )
    run_dir: Path = Field(description="folder of the run's files; new or empty")
    backbone: BackboneConfig = Field(description="the pretrained transformer, by name or mapping")
    prompt: PromptConfig = Field(
        default_factory=lambda: {"name": "none"},
        description="prompt method: a name, a mapping with its options, or a list of those",
    )
    head: HeadConfig = Field(
        default_factory=lambda: {"name": "linear"},
        description="head: a name, or a mapping with its options",
    )
    tuning: Annotated[str, AfterValidator(check_tuning)] = Field(
        "frozen",
        description="backbone tensors that train too: frozen, full, bias, norm or last:<k> blocks",
    )
    data: DataConfig = Field(description="the data set and how batches are made of it")
    optim: OptimConfig = Field(description="the optimiser and its schedule")
    loss: LossConfig = Field(default_factory=LossConfig, description="the training loss")
    train: TrainConfig = Field(description="how long, where and how carefully to train")

    @model_validator(mode="after")
    def _check_balance(self) -> RunConfig:
        if self.data.balance and self.loss.class_weights == "balanced":
            raise ValueError(
                "data.balance and loss.class_weights balanced both even out the classes; give one"
            )
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> RunConfig:
        if self.data.train_on == "train_and_val":
            if self.train.select != "last":
                raise ValueError(
                    f"train.select {self.train.select or 'null'} needs a validation split, which "
                    "data.train_on train_and_val learns from; set train.select: last"
                )
            if self.train.early_stopping is not None:
                raise ValueError(
                    "train.early_stopping needs a validation split, which data.train_on "
                    "train_and_val learns from; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> RunConfig:
        warmup, epochs = self.optim.warmup_epochs, self.train.epochs
        if warmup > epochs:
            raise ValueError(
                f"optim.warmup_epochs {warmup} exceeds train.epochs {epochs}; lower it"
            )
        return self


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration, for editors."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **schema.model_json_schema()}
