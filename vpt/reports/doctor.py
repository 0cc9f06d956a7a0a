"""What a user is asked for first when something does not work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from vpt.api import create_model
from vpt.engine.run_dir import environment, free_bytes
from vpt.errors import VptError


@dataclass(frozen=True)
class Health:
    """Names and values to print, and whether the bundled model runs."""

    lines: tuple[tuple[str, str], ...]
    healthy: bool


def examine() -> Health:
    """Versions, devices, free disk space, and one forward pass of the bundled model."""
    found = environment()
    lines = [(str(name), _text(value)) for name, value in found.items()]
    lines.append(("free disk", f"{free_bytes(Path.cwd()) / 2**30:.1f} GB in {Path.cwd()}"))
    state, healthy = _bundled_model()
    lines.append(("bundled model", state))
    return Health(tuple(lines), healthy)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _bundled_model() -> tuple[str, bool]:
    began = time.perf_counter()
    try:
        model = create_model("bundled/glyph_vit", "vpt_deep", num_classes=10).eval()
        with torch.no_grad():
            finite = bool(model(torch.zeros(1, 3, *model.preprocess.size)).isfinite().all())
    except VptError as error:
        return f"does not run: {error}", False
    return ("runs" if finite else "gives numbers that are not finite") + (
        f", {time.perf_counter() - began:.1f} s"
    ), finite
