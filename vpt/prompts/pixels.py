"""Visual prompting in pixel space: a learned frame or patch added to the image.

Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022, on the design of
prompts: the model sees x + v, where v is learned on the padding (2 C p (H + W - 2 p) numbers), or
on a patch of p x p pixels at a fixed or random place (C p^2 numbers).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vpt.errors import ConfigError
from vpt.prompts.base import Prompt
from vpt.structures import Dimensions


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
        """See `Prompt.on_images`.

        Raises:
            ConfigError: they are of another size than the frame.
        """
        size = 2 * self.top.shape[1] + self.left.shape[1], self.top.shape[2]
        if tuple(images.shape[-2:]) != size:
            given = "x".join(map(str, images.shape[-2:]))
            raise ConfigError(
                f"this frame of pixels is for images of {size[0]}x{size[1]}, not {given}; prepare "
                "them with vpt.create_transform(model.preprocess), or set image_size"
            )
        middle = self.left.new_zeros(
            3, self.left.shape[1], self.top.shape[2] - 2 * self.left.shape[2]
        )
        rows = torch.cat([self.left, middle, self.right], dim=2)
        return images + torch.cat([self.top, rows, self.bottom], dim=1).to(images.dtype)


class PixelPatch(Prompt):
    """A square of learned values, added to the normalised image.

    Parameters: `patch` (3, width, width).

    Args:
        width: of its sides in pixels.
        image_size: (H, W) in pixels.
        place: (top, left) of its first pixel.
        random: in training at one place for all images of a forward pass, drawn from torch's
            generator as dropout is, so that all of it is in the image; in eval at `place`.
        init: 'zeros' or 'normal'.
        std: of 'normal'.
    """

    def __init__(
        self,
        width: int,
        image_size: tuple[int, int],
        *,
        place: tuple[int, int] = (0, 0),
        random: bool = False,
        init: Literal["zeros", "normal"] = "zeros",
        std: float = 0.02,
    ):
        super().__init__()
        self.options = {"name": "pixels", "form": "patch", "width": width, "place": list(place)}
        self.options |= {"random": random, "init": init, "std": std}
        height, total_width = image_size
        if place[0] + width > height or place[1] + width > total_width:
            raise ConfigError(
                f"a patch of prompt.width {width} at prompt.place {list(place)} does not lie in a "
                f"{height}x{total_width} image"
            )
        self.place, self.random = (place[0], place[1]), random
        self.patch = nn.Parameter(torch.zeros(3, width, width))
        if init == "normal":
            nn.init.normal_(self.patch, std=std)

    def on_images(self, images: Tensor) -> Tensor:
        """See `Prompt.on_images`."""
        rows, row_in = self._along(images.shape[2], self.place[0])
        columns, column_in = self._along(images.shape[3], self.place[1])
        seen = self.patch[:, rows][:, :, columns]
        return images + (seen * (row_in[:, None] & column_in)).to(images.dtype)

    def _along(self, length: int, start: int) -> tuple[Tensor, Tensor]:
        """For each pixel of a side the patch's pixel that is there, and whether one is."""
        width = self.patch.shape[1]
        offset = torch.arange(length, device=self.patch.device)
        if self.random and self.training:
            offset = offset - torch.randint(length - width + 1, (1,)).to(offset.device)
        else:
            offset = offset - start
        return offset.clamp(0, width - 1), (offset >= 0) & (offset < width)


def build(
    at: Dimensions,
    *,
    form: Literal["frame", "patch"] = "frame",
    place: tuple[int, int] = (0, 0),
    random: bool = False,
    **options: Any,
) -> Prompt:
    """The method from its checked options."""
    if form == "frame":
        return PixelPrompt(image_size=at.image_size, **options)
    return PixelPatch(image_size=at.image_size, place=place, random=random, **options)
