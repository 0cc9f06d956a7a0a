"""Anchor boxes of detection heads: at the centres of the cells, at exact strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class CellAnchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, except that their centres and sizes are exact.

    There the anchors stand on the cells' top left corners, strides are inferred as whole pixels
    from image and map, and sides are rounded, which is off at patch size 14 (strides 7 and 3.5).

    Args:
        strides: pixels per cell of each map.
        sizes: for each map the square roots of the anchors' areas in pixels.
        aspect_ratios: height / width of the anchors in every cell.
    """

    def __init__(
        self,
        strides: Sequence[float],
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (1.0,),
    ):
        super().__init__(
            tuple(tuple(level) for level in sizes), (tuple(aspect_ratios),) * len(sizes)
        )
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """(ratios * scales, 4) xyxy around the origin, not rounded."""
        roots = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        areas = torch.tensor(scales, dtype=dtype, device=device)
        heights = (roots[:, None] * areas).flatten()
        widths = (areas / roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def per_level(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """For each map (B, channels, h, w) its anchors (h * w * A, 4) xyxy in the image's pixels.

        In the order of the heads' outputs: row by row, and in a cell ratio by ratio.
        """
        pairs = zip(levels, self.strides, self.cell_anchors, strict=True)
        return [_at_cells(level, stride, shapes) for level, stride, shapes in pairs]


def _at_cells(level: Tensor, stride: float, shapes: Tensor) -> Tensor:
    height, width = level.shape[-2:]
    y = (torch.arange(height, device=level.device) + 0.5) * stride
    x = (torch.arange(width, device=level.device) + 0.5) * stride
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
    return (centres + shapes.to(level.device)).reshape(-1, 4)
