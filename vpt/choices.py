"""The fixed words that configs and values share; without torch, so that a config needs none."""

from __future__ import annotations

from typing import Literal

CropMode = Literal["center", "squash", "border"]
"""See `Preprocess.crop_mode`."""

PromptPlacement = Literal["pre_norm", "post_norm"]
"""Whether a prompt's first rows pass the backbone's pre-norm or join the sequence after it."""

PromptInit = Literal["uniform", "normal"]
"""How prompt tokens start where a config does not say."""

Projection = Literal["query", "key", "value"]
"""Of an attention."""
