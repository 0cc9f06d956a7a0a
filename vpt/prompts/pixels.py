"""Visual prompting in pixel space: a learned frame added to the image.

Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022 (the padding prompt).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vpt.config import Schema
from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.registry import PROMPTS
from vpt.structures import Dimensions


class PixelOptions(Schema):
    """Options of `pixels`."""

    width: int = Field(30, gt=0, description="of the frame, in pixels of the preprocessed image")
    init: Literal["zeros", "normal"] = Field(
        "zeros", description="normal: standard deviation `std`"
    )
    std: float = Field(0.02, gt=0.0, description="in normalised pixel values")


class PixelPrompt(Prompt):
    """A frame of learned values, added to the normalised image.

    69,840 numbers for 30 pixels at 224.

    Parameters: `top` and `bottom` (3, width, W), `left` and `right` (3, H - 2 width, width).

    Args:
        width: of the frame in pixels.
        image_size: (H, W) in pixels.
        init: 'zeros' or 'normal'.
        std: of 'normal'.
    """

    def __init__(
        self,
        width: int,
        image_size: tuple[int, int],
        *,
        init: Literal["zeros", "normal"] = "zeros",
        std: float = 0.02,
    ):
        super().__init__()
        self.options = {"name": "pixels", "width": width, "init": init, "std": std}
        height, total_width = image_size
        if 2 * width >= min(image_size):
            raise ConfigError(
                f"prompt.width {width} leaves nothing of a {height}x{total_width} image"
            )
        self.top = nn.Parameter(torch.zeros(3, width, total_width))
        self.bottom = nn.Parameter(torch.zeros(3, width, total_width))
        self.left = nn.Parameter(torch.zeros(3, height - 2 * width, width))
        self.right = nn.Parameter(torch.zeros(3, height - 2 * width, width))
        if init == "normal":
            for side in self.parameters():
                nn.init.normal_(side, std=std)

    def on_images(self, images: Tensor) -> Tensor:
        """See `Prompt.on_images`."""
        middle = self.left.new_zeros(
            3, self.left.shape[1], self.top.shape[2] - 2 * self.left.shape[2]
        )
        rows = torch.cat([self.left, middle, self.right], dim=2)
        return images + torch.cat([self.top, rows, self.bottom], dim=1).to(images.dtype)


def _build(at: Dimensions, **options: Any) -> PixelPrompt:
    return PixelPrompt(image_size=at.image_size, **options)


PROMPTS.register("pixels", PixelOptions, _build)
