"""What the CLIP protocols start from: the config of an evaluation, and the objects they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from vpt.api import create_model
from vpt.backbones import Backbone, is_clip_name
from vpt.config import RunConfig, Schema, load_yaml, validate
from vpt.config.run import Count
from vpt.data import (
    Descriptor,
    ScanMemory,
    Split,
    Splits,
    evaluation_transform,
    layout_lines,
    read_splits,
    scan_images,
)
from vpt.engine.device import choose_device
from vpt.engine.run_dir import OpenMode
from vpt.errors import ConfigError, DataError
from vpt.evaluation import FREE_BASELINES, Measured
from vpt.experiment import backbone_of, head_with_templates, preprocess_of
from vpt.experiment.classification import described
from vpt.models import Classifier
from vpt.protocols.setup import (
    OWN_KEYS,
    SHARED_KEYS,
    Advance,
    Name,
    Seed,
    Threads,
    laid_over,
    refuse_flat_data,
    refuse_keys,
)
from vpt.runs import evaluate_split
from vpt.text import TextTower, create_text_tower

Protocol = Literal["zero_shot", "few_shot", "base_to_new"]
Part = Literal["all", "base", "new"]
Shots = Count

PROTOCOL_KEYS = ("shots", "classes", "selection")
"""Keys of a run's data that the protocols set."""


def _zero_shot_alone() -> list[Protocol]:
    return ["zero_shot"]


def _linear_from_text() -> dict[str, Any]:
    return {"optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "warmup_epochs": 1}}


class ClipEvalConfig(Schema):
    """One data set, one CLIP, the protocols to run on them and the methods to compare."""

    run_dir: Path = Field(description="folder of the result and of all runs")
    protocols: Annotated[list[Protocol], Field(min_length=1)] = Field(
        default_factory=_zero_shot_alone,
        description="zero_shot, which is measured in any case; few_shot: every method at every "
        "number of shots; base_to_new: trained on one half of the classes, tested on both",
    )
    base: dict[str, Any] = Field(
        description="a run's config without run_dir and seed, common to all methods; head: "
        "zero_shot unless it says otherwise"
    )
    methods: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="what each method changes in the base"
    )
    linear_from_text: dict[str, Any] = Field(
        default_factory=_linear_from_text,
        description="what the free baseline, a linear classifier that starts as the zero-shot "
        "one, changes in the base",
    )
    shots: Annotated[list[Shots], Field(min_length=1)] = Field(
        default_factory=lambda: [16], description="images per class in few_shot"
    )
    base_to_new_shots: Shots = Field(16, description="images per class in base_to_new")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        default_factory=lambda: [1, 2, 3], description="of the images, the start and the order"
    )
    prompt_files: list[Path] = Field(
        default_factory=list, description="prompt files to measure on the data set as well"
    )
    threads: Threads | None = Field(
        None, description="CPU threads, on which the last bits depend; null: torch's own number"
    )

    @field_validator("base")
    @classmethod
    def _check_base(cls, base: dict[str, Any]) -> dict[str, Any]:
        refuse_flat_data(base)
        refuse_keys(base, OWN_KEYS, "is set by the protocol; leave it out")
        refuse_keys(base.get("data", {}), PROTOCOL_KEYS, "of data is set by the protocol")
        return base

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in methods.items():
            if name in FREE_BASELINES:
                raise ValueError(f"{name} is a free baseline and always there; use another name")
            refuse_keys(changes, OWN_KEYS, "is set by the protocol; leave it out")
            refuse_keys(changes, SHARED_KEYS, "is the same for all methods; set it in base")
        return methods

    @field_validator("linear_from_text")
    @classmethod
    def _check_baseline(cls, changes: dict[str, Any]) -> dict[str, Any]:
        refuse_keys(changes, OWN_KEYS, "is set by the protocol; leave it out")
        refuse_keys(changes, SHARED_KEYS, "is the same for all methods; set it in base")
        refuse_keys(changes, ("head", "prompt"), "is what makes it linear from text; leave it out")
        return changes

    @model_validator(mode="after")
    def _check_lists(self) -> ClipEvalConfig:
        for key in ("shots", "seeds", "protocols"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} {values} repeat a value; use each once")
        if "base_to_new" in self.protocols and not self.methods:
            raise ValueError("protocols base_to_new needs methods to train")
        return self

    @property
    def text_head(self) -> dict[str, Any]:
        """The base's zero-shot head with fixed sentences: that of the zero-shot baseline."""
        head = self.base.get("head", "zero_shot")
        options = {"name": head} if isinstance(head, str) else dict(head)
        kept = {k: v for k, v in options.items() if k in ("templates", "class_prompts")}
        return {"name": "zero_shot", **kept}

    def run_config(
        self, method: str, *, place: Path, seed: int, shots: int | None, part: Part = "all"
    ) -> RunConfig:
        """The config of one run, in run_dir / place / seed_<seed>.

        Raises:
            ConfigError: base and method together are no valid run.
        """
        values = laid_over({"head": self.text_head}, self.base)
        values = laid_over(values, self._changes(method))
        values = laid_over(values, {"data": {"shots": shots, "classes": part}, "seed": seed})
        values["run_dir"] = str(self.run_dir / place / f"seed_{seed}")
        return validate(RunConfig, values, f"method {method}")

    def base_config(self) -> RunConfig:
        """The config of the zero-shot model: data, preprocessing and precision of all methods."""
        own = {"head": self.text_head, "prompt": "none", "run_dir": str(self.run_dir)}
        return validate(RunConfig, {**self.base, **own}, "base")

    def _changes(self, method: str) -> dict[str, Any]:
        """What a method changes in the base; linear from text, the free one, is built in.

        All that it trains is its head: a rate that the base has for heads would stand in for its
        own.
        """
        if method != "linear_from_text":
            return self.methods.get(method, {})
        own = {
            "prompt": "none",
            "head": {**self.text_head, "name": "linear_from_text"},
            "optim": {"head_lr": None, "head_weight_decay": None},
            "loss": {"consistency": {"text": 0}},
        }
        return laid_over(own, self.linear_from_text)


def load_clip_eval(path: Path, overrides: Sequence[str] = ()) -> ClipEvalConfig:
    """The evaluation that a YAML file and `key=value` overrides describe, every method checked.

    Raises:
        ConfigError: one line per problem.
    """
    values = load_yaml(path, overrides)
    if "base" not in values and "backbone" in values:
        raise ConfigError(f"{path} is the config of one run: use it with vpt train")
    config = validate(ClipEvalConfig, values, str(path))
    try:
        _check_methods_of(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _check_methods_of(config: ClipEvalConfig) -> None:
    """Refuse a base or a method that is no valid run, or cannot do what a protocol asks."""
    name = config.base_config().backbone.name
    if not is_clip_name(name):
        raise ConfigError(
            f"base.backbone '{name}' is no CLIP; take open_clip/<architecture>:<tag> or "
            "bundled/glyph_clip"
        )
    for method in ("linear_from_text", *config.methods):
        config.run_config(method, place=Path(method), seed=config.seeds[0], shots=1)
    if "base_to_new" in config.protocols:
        reasons = {method: cannot_name_new(config, method) for method in config.methods}
        if all(reasons.values()):
            listed = "; ".join(f"{method}: {reason}" for method, reason in reasons.items())
            raise ConfigError(f"no method can do base_to_new ({listed})")


def cannot_name_new(config: ClipEvalConfig, method: str) -> str | None:
    """Why a method cannot name classes that it has not seen, if it cannot."""
    head = config.run_config(method, place=Path(method), seed=0, shots=1).head
    if head["name"] != "zero_shot":
        return f"head {head['name']} knows only the classes it was trained on"
    if (head["context"] or {}).get("class_specific"):
        return "its contexts belong to the classes it was trained on"
    return None


@dataclass(frozen=True)
class Bench:
    """The objects that all protocols of one evaluation share.

    Attributes:
        config: of the evaluation.
        run: the base's config: data and backbone are the same in all runs.
        descriptor: of the data set.
        splits: all classes, nothing cut.
        backbone: the image tower.
        text: the text tower.
        device: where to compute.
        mode: of the run directories.
        log: takes plain lines.
        advance: called as a run begins.
    """

    config: ClipEvalConfig
    run: RunConfig
    descriptor: Descriptor
    splits: Splits
    backbone: Backbone
    text: TextTower
    device: torch.device
    mode: OpenMode
    log: Callable[[str], None]
    advance: Advance

    def zero_shot_model(self, splits: Splits) -> Classifier:
        """The untrained model that knows the classes of the splits by their names alone."""
        return create_model(
            self.backbone,
            "none",
            num_classes=len(splits.class_names),
            head=head_with_templates(self.run.head, self.descriptor),
            class_names=splits.class_names,
            text_names=splits.text_names,
            text=self.text,
            preprocess=preprocess_of(
                self.backbone, self.run.data.preprocess, self.run.data.value_range
            ),
        ).to(self.device)

    def measure(self, model: Classifier, split: Split, *, precision: str) -> Measured:
        """Every metric of a model on a split."""
        data = self.run.data
        metrics, evaluator = evaluate_split(
            model,
            split,
            evaluation_transform(model.preprocess),
            device=self.device,
            batch_size=data.eval_batch_size or data.batch_size,
            num_workers=data.num_workers,
            precision=precision,
        )
        per_class = dict(zip(split.class_names, evaluator.per_class_accuracy(), strict=True))
        return Measured(metrics, per_class, len(split))


def set_up(
    config: ClipEvalConfig, *, mode: OpenMode, log: Callable[[str], None], advance: Advance
) -> Bench:
    """Read the data set and load both towers; every image is decoded once.

    Raises:
        VptError: anything that does not fit together.
    """
    run = config.base_config()
    descriptor = described(run)
    splits = read_splits(descriptor, run.data.root)
    for line in [*layout_lines(descriptor), *splits.notes]:
        log(line)
    splits.require_single_label("clip-eval")
    splits.require("test")
    options, backbone = run.backbone, backbone_of(run)
    text = create_text_tower(options.name, pretrained=options.pretrained, weights=options.weights)
    _check_images(run, splits)
    device = choose_device(run.train.device)
    return Bench(config, run, descriptor, splits, backbone, text, device, mode, log, advance)


def without_scan(config: RunConfig) -> RunConfig:
    """A run of the protocol: its images have been decoded once, for all runs."""
    data = config.data.model_copy(update={"scan": False})
    return config.model_copy(update={"data": data})


def _check_images(run: RunConfig, splits: Splits) -> None:
    if not run.data.scan:
        return
    present = [split for name in ("train", "val", "test") if (split := splits.get(name))]
    memory = ScanMemory.of_user()
    bad = [
        image
        for split in present
        for image in scan_images(
            split, run.data.num_workers, value_range=run.data.value_range, memory=memory
        )
    ]
    if bad:
        listing = "\n".join(f"{image.path}: {image.reason}" for image in bad)
        raise DataError(
            f"{len(bad)} unreadable images; remove them from the data set, so that every method "
            f"is measured on the same ones:\n{listing}"
        )
