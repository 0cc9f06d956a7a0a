"""Digits as pen strokes: several ways to write each, with wavering control points.

The skeletons are our own; no handwriting was traced, measured or looked up.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vpt.backbones.bundled.rendering import GLYPH_EXTENT, fit_drawing

VARIANTS = 48
"""Drawings of each way to write a digit."""

_WAVER = 0.035
_CANVAS = 8 * GLYPH_EXTENT

Stroke = tuple[tuple[float, float], ...]

# Control points (x, y) in a unit square, y down; a smooth curve runs through them in order.
_OVAL: Stroke = ((0.5, 0.0), (0.2, 0.2), (0.12, 0.5), (0.25, 0.88), (0.5, 1.0), (0.78, 0.86),
                 (0.88, 0.5), (0.78, 0.15), (0.5, 0.0))  # fmt: skip
_RING: Stroke = ((0.8, 0.12), (0.5, 0.0), (0.2, 0.15), (0.15, 0.38), (0.4, 0.52), (0.7, 0.42),
                 (0.82, 0.15))  # fmt: skip

SKELETONS: dict[int, tuple[tuple[Stroke, ...], ...]] = {
    0: (
        (_OVAL,),
        (((0.6, 0.02), (0.3, 0.1), (0.14, 0.5), (0.35, 0.95), (0.65, 0.9), (0.86, 0.5),
          (0.7, 0.08), (0.45, 0.06)),),
        (((0.4, 0.0), (0.15, 0.3), (0.2, 0.8), (0.5, 1.0), (0.85, 0.75), (0.8, 0.25),
          (0.5, 0.02), (0.3, 0.12)),),
    ),
    1: (
        (((0.5, 0.0), (0.5, 0.5), (0.5, 1.0)),),
        (((0.25, 0.28), (0.45, 0.12), (0.56, 0.0)), ((0.56, 0.0), (0.55, 0.5), (0.54, 1.0))),
        (((0.3, 0.22), (0.52, 0.0)), ((0.52, 0.0), (0.52, 0.5), (0.52, 1.0)),
         ((0.25, 1.0), (0.8, 1.0))),
        (((0.62, 0.0), (0.5, 0.5), (0.4, 1.0)),),
    ),
    2: (
        (((0.15, 0.25), (0.3, 0.03), (0.65, 0.02), (0.8, 0.25), (0.6, 0.55), (0.15, 1.0)),
         ((0.15, 1.0), (0.5, 0.98), (0.9, 1.0))),
        (((0.2, 0.2), (0.45, 0.0), (0.75, 0.12), (0.7, 0.4), (0.4, 0.75), (0.2, 0.95),
          (0.12, 0.82), (0.3, 0.78), (0.55, 0.95), (0.9, 0.92)),),
        (((0.1, 0.12), (0.5, 0.0), (0.82, 0.2), (0.55, 0.6), (0.1, 0.98)),
         ((0.1, 0.98), (0.9, 0.96))),
    ),
    3: (
        (((0.18, 0.12), (0.5, 0.0), (0.8, 0.15), (0.7, 0.4), (0.42, 0.48)),
         ((0.42, 0.48), (0.8, 0.58), (0.85, 0.82), (0.5, 1.0), (0.12, 0.9))),
        (((0.15, 0.03), (0.8, 0.02)), ((0.8, 0.02), (0.42, 0.42)),
         ((0.42, 0.42), (0.78, 0.52), (0.84, 0.8), (0.5, 1.0), (0.14, 0.88))),
        (((0.2, 0.15), (0.55, 0.0), (0.78, 0.2), (0.5, 0.45), (0.45, 0.48), (0.82, 0.65),
          (0.7, 0.95), (0.35, 1.0), (0.12, 0.85)),),
    ),
    4: (
        (((0.3, 0.0), (0.2, 0.3), (0.12, 0.62)), ((0.12, 0.62), (0.9, 0.6)),
         ((0.68, 0.1), (0.66, 0.5), (0.65, 1.0))),
        (((0.65, 0.0), (0.1, 0.68)), ((0.1, 0.68), (0.92, 0.68)), ((0.65, 0.0), (0.65, 1.0))),
        (((0.22, 0.02), (0.18, 0.3), (0.25, 0.5), (0.5, 0.55), (0.8, 0.45)),
         ((0.82, 0.0), (0.78, 0.5), (0.7, 1.0))),
        (((0.55, 0.0), (0.3, 0.3), (0.1, 0.6)), ((0.1, 0.6), (0.85, 0.62)),
         ((0.6, 0.35), (0.56, 0.7), (0.5, 1.0))),
    ),
    5: (
        (((0.85, 0.02), (0.25, 0.03)), ((0.25, 0.03), (0.2, 0.42)),
         ((0.2, 0.42), (0.55, 0.35), (0.85, 0.58), (0.75, 0.9), (0.42, 1.0), (0.12, 0.9))),
        (((0.8, 0.03), (0.35, 0.05), (0.25, 0.25), (0.4, 0.42), (0.75, 0.55), (0.78, 0.85),
          (0.45, 1.0), (0.15, 0.92)),),
        (((0.3, 0.0), (0.22, 0.4)), ((0.22, 0.4), (0.6, 0.38), (0.82, 0.65), (0.6, 0.95),
          (0.15, 0.96)), ((0.3, 0.02), (0.85, 0.0))),
    ),
    6: (
        (((0.7, 0.0), (0.35, 0.25), (0.15, 0.65), (0.3, 0.95), (0.65, 1.0), (0.85, 0.75),
          (0.65, 0.52), (0.35, 0.55), (0.18, 0.75)),),
        (((0.5, 0.0), (0.28, 0.3), (0.2, 0.7), (0.4, 0.98), (0.72, 0.9), (0.75, 0.65),
          (0.5, 0.55), (0.25, 0.72)),),
        (((0.78, 0.08), (0.5, 0.02), (0.22, 0.35), (0.16, 0.7), (0.4, 1.0), (0.78, 0.88),
          (0.8, 0.6), (0.5, 0.48), (0.2, 0.65)),),
    ),
    7: (
        (((0.1, 0.03), (0.88, 0.02)), ((0.88, 0.02), (0.6, 0.5), (0.4, 1.0))),
        (((0.1, 0.04), (0.86, 0.02)), ((0.86, 0.02), (0.6, 0.5), (0.42, 1.0)),
         ((0.3, 0.5), (0.85, 0.46))),
        (((0.14, 0.2), (0.14, 0.02), (0.5, 0.04), (0.88, 0.0)),
         ((0.88, 0.0), (0.66, 0.45), (0.55, 1.0))),
        (((0.12, 0.1), (0.4, 0.0), (0.85, 0.08), (0.7, 0.45), (0.35, 1.0)),),
    ),
    8: (
        (((0.5, 0.48), (0.22, 0.3), (0.3, 0.05), (0.7, 0.05), (0.78, 0.3), (0.5, 0.48),
          (0.18, 0.7), (0.28, 0.97), (0.72, 0.97), (0.84, 0.7), (0.5, 0.48)),),
        (((0.78, 0.12), (0.5, 0.0), (0.25, 0.18), (0.5, 0.45), (0.8, 0.75), (0.5, 1.0),
          (0.2, 0.78), (0.5, 0.45), (0.78, 0.12)),),
        (((0.5, 0.0), (0.25, 0.22), (0.5, 0.44), (0.75, 0.22), (0.5, 0.0)),
         ((0.5, 0.44), (0.16, 0.72), (0.5, 1.0), (0.84, 0.72), (0.5, 0.44))),
    ),
    9: (
        (_RING, ((0.82, 0.1), (0.8, 0.5), (0.76, 1.0))),
        (_RING, ((0.82, 0.1), (0.84, 0.5), (0.7, 0.88), (0.4, 1.0), (0.15, 0.9))),
        (((0.78, 0.3), (0.5, 0.5), (0.2, 0.35), (0.3, 0.05), (0.65, 0.02), (0.8, 0.3),
          (0.65, 0.7), (0.4, 1.0)),),
    ),
}  # fmt: skip
"""Digit to the ways it is written, each a tuple of strokes."""


@lru_cache(maxsize=1)
def pen_atlas() -> tuple[Tensor, Tensor]:
    """Cells (A, 64, 64) uint8 and the digit of each (A,); every digit has its share in full."""
    random = torch.Generator().manual_seed(20)
    cells, digits = [], []
    for digit, ways in SKELETONS.items():
        for way in ways:
            for _ in range(VARIANTS):
                cells.append(_draw(way, random))
                digits.append(digit)
    return torch.stack(cells), torch.tensor(digits)


def _draw(strokes: tuple[Stroke, ...], random: torch.Generator) -> Tensor:
    """One drawing: the whole leans and stretches a little, every control point wavers."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(canvas)
    span, margin = 6 * GLYPH_EXTENT, GLYPH_EXTENT
    low, high = 18, 58
    width = int(torch.randint(low, high, (), generator=random))
    stretch = 0.5 + 0.55 * float(torch.rand((), generator=random))
    for stroke in strokes:
        points = torch.tensor(stroke)
        points = points + _WAVER * torch.randn(points.shape, generator=random)
        points[:, 0] *= stretch
        path = [(x, y) for x, y in (smooth(points) * span + margin).tolist()]
        pen.line(path, fill=255, width=width, joint="curve")
        for x, y in (path[0], path[-1]):
            pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)
    return fit_drawing(canvas)


def smooth(points: Tensor, steps: int = 10) -> Tensor:
    """A Catmull-Rom curve through points (K, 2), K at least 2: ((K - 1) * steps + 1, 2)."""
    ends = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    before, start, stop, after = ends[:-3], ends[1:-2], ends[2:-1], ends[3:]
    time = torch.linspace(0, 1, steps + 1)[:-1].view(-1, 1, 1)
    curve = 0.5 * (
        2 * start
        + (stop - before) * time
        + (2 * before - 5 * start + 4 * stop - after) * time**2
        + (3 * start - before - 3 * stop + after) * time**3
    )
    return torch.cat([curve.transpose(0, 1).reshape(-1, 2), points[-1:]])
