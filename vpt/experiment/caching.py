"""What of a run's images can be kept in memory without changing a bit of its results."""

from __future__ import annotations

from dataclasses import dataclass, field

from vpt.config import RunConfig
from vpt.data import Mixing, Splits
from vpt.engine.distributed import world_size
from vpt.errors import ConfigError
from vpt.models import Classifier

_BYTES = 4
"""Of a number that is kept; under autocast some are half as wide."""


@dataclass(frozen=True)
class CachePlan:
    """Which images are kept as the unchanging part of the model leaves them.

    Attributes:
        train: the training images.
        val: the validation images.
        lines: by split, how much that is, or why it is not kept.
    """

    train: bool = False
    val: bool = False
    lines: dict[str, str] = field(default_factory=dict)


def plan_cache(config: RunConfig, model: Classifier, splits: Splits) -> CachePlan:
    """What `data.cache` comes to for a model and its data; training images come first.

    Raises:
        ConfigError: `memory` is asked for what cannot be kept exactly, or does not fit.
    """
    if config.data.cache == "none":
        return CachePlan()
    if world_size() > 1 or config.train.compile != "none":
        return _without(config)
    room, kept, lines = config.data.cache_gb * 1e9, set[str](), dict[str, str]()
    for name, what in (("train", "training"), ("val", "validation")):
        split = splits.get(name)  # type: ignore[arg-type] # one of the literals
        if split is None:
            continue
        count = len(split)
        reason = _changes(config, model, name) or _does_not_fit(config, model, count, room)
        if reason is None:
            kept.add(name)
            room -= count * _image_bytes(model)
            lines[name] = f"keeps {count:,} {what} images {_told(model, count)}"
        elif config.data.cache == "memory":
            raise ConfigError(
                f"data.cache memory: {what} images cannot be kept, because {reason}; set "
                "data.cache=auto, which does without, or none"
            )
        else:
            lines[name] = f"computes {what} images every epoch, because {reason}"
    return CachePlan("train" in kept, "val" in kept, lines)


def _without(config: RunConfig) -> CachePlan:
    """Several processes share the images of every epoch out anew: each would keep all of them.

    What a compiled model makes of them has other last bits than what is kept.
    """
    reason, way_out = "train.compile changes the last bits of what is kept", "train.compile=none"
    if world_size() > 1:
        reason = f"{world_size()} processes train this run, and each would keep all of them"
        way_out = "start one process"
    if config.data.cache == "memory":
        raise ConfigError(
            f"data.cache memory: training images cannot be kept, because {reason}; set "
            f"data.cache=auto, which does without, or {way_out}"
        )
    return CachePlan(lines={"train": f"computes all images every epoch, because {reason}"})


def _changes(config: RunConfig, model: Classifier, split: str) -> str | None:
    """Why the start of the model does not make the same of an image every epoch, if so."""
    prompted = model.prompted
    if prompted.prompt.first_touched == -1:
        return "the prompt changes the images themselves"
    if prompted.first_change == -1:
        return f"tuning {config.tuning} trains what comes before the first block"
    if split == "train" and Mixing(**config.data.mix.model_dump()):
        return "data.mix mixes them with others each time"
    if split == "train" and config.data.transform.name != "none":
        return f"data.transform {config.data.transform.name} changes them each time"
    return None


def _does_not_fit(config: RunConfig, model: Classifier, count: int, room: float) -> str | None:
    needed = count * _image_bytes(model)
    if needed <= room:
        return None
    return (
        f"{count:,} images {_told(model, count)}, are more than is left of data.cache_gb "
        f"{config.data.cache_gb:g} ({bytes_text(room)}; raise it)"
    )


def _shape(model: Classifier) -> tuple[int, ...]:
    """Of what is kept of one image: (F,), or (P + N, D)."""
    backbone = model.backbone
    if model.begins_with_pooled:
        return (backbone.feature_dim,)
    height, width = backbone.grid
    return backbone.num_prefix + height * width, backbone.embed_dim


def _image_bytes(model: Classifier) -> int:
    numbers = _BYTES
    for side in _shape(model):
        numbers *= side
    return numbers


def _told(model: Classifier, count: int) -> str:
    """The arithmetic of a size: 'x 197 tokens x 768 x 4 bytes = 1.21 GB, before block 8'."""
    shape, layer = _shape(model), model.prompted.first_change
    tokens = f"{shape[0]:,} tokens x " if len(shape) == 2 else ""
    where = f", before block {layer}" if len(shape) == 2 else ", the pooled feature"
    needed = bytes_text(count * _image_bytes(model))
    return f"x {tokens}{shape[-1]:,} x {_BYTES} bytes = {needed}{where}"


def bytes_text(count: float) -> str:
    """Bytes for people: '1.21 GB' or '3.10 kB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count / 1e3:.2f} kB"
