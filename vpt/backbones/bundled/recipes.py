"""How each bundled backbone is trained: its settings, its loop, its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vpt.backbones.bundled.clip_pretraining import (
    ClipPretrainSettings,
    export_clip,
    pretrain_clip,
)
from vpt.backbones.bundled.pretraining import PretrainSettings, export_weights, pretrain


@dataclass(frozen=True)
class Recipe:
    """One run that makes a bundled backbone.

    Attributes:
        model: 'glyph_vit' or 'glyph_clip'.
        settings: of the run.
        pretrain: (settings, checkpoint=, log=) trains, or goes on from the checkpoint.
        export: (checkpoint, path, settings=, date=) writes the packaged weights.
    """

    model: str
    settings: PretrainSettings | ClipPretrainSettings
    pretrain: Callable[..., Any]
    export: Callable[..., Any]


def read(values: Mapping[str, Any]) -> Recipe:
    """The recipe that plain values describe; `model` says which backbone, glyph_vit by default.

    Raises:
        ValueError: an unknown model, an unknown key, or a value that is not allowed.
    """
    model = values.get("model", "glyph_vit")
    own = {key: value for key, value in values.items() if key != "model"}
    if model == "glyph_vit":
        return Recipe(model, PretrainSettings.from_dict(own), pretrain, export_weights)
    if model == "glyph_clip":
        return Recipe(model, ClipPretrainSettings.from_dict(own), pretrain_clip, export_clip)
    raise ValueError(f"model '{model}' is none of glyph_vit, glyph_clip")
