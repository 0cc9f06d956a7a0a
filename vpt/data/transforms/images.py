"""From a PIL image to a backbone's input: the exact evaluation transform, seeded augmentation.

The way has three parts: what is the same every time (`settle`), what is drawn anew (`finish`), both
in 8-bit pixels, and arithmetic (`Normalise`), which can wait until the batch is on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpt.config import TransformConfig
from vpt.data.images import DECODE_ERRORS
from vpt.data.rgb import upright_rgb
from vpt.errors import ConfigError, DataError
from vpt.structures import Preprocess

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_CPU = torch.device("cpu")


_NO_OPTIONS = TransformConfig()

Pixels = NDArray[np.uint8]
"""(H, W, 3), RGB."""


class Transform(Protocol):
    """(image, seed) -> (3, H, W) float32; the same image and seed give the same bits."""

    preprocess: Preprocess

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """(3, H, W) float32, normalised."""
        return Normalise(self.preprocess)(self.pixels(image, seed))

    def pixels(self, image: Image.Image, seed: int) -> Tensor:
        """(3, H, W) uint8."""
        return self.finish(self.settle(image), seed)

    def settle(self, image: Image.Image) -> Pixels:
        """The first part of the way, the same every time."""
        ...

    def finish(self, settled: Pixels, seed: int) -> Tensor:
        """(3, H, W) uint8, the rest of the way; what was settled is not changed."""
        ...

    @property
    def settled_to(self) -> tuple[int, int] | None:
        """(H, W) of everything that is settled; None: it depends on the image."""
        return None

    def settled_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of what `settle` makes of an image of a size."""
        return self.settled_to or (height, width)

    def settling(self) -> dict[str, Any]:
        """What `settle` depends on besides the image, as JSON values."""
        ...


class Normalise:
    """Pixels as the backbone wants them: of 0..1, less the mean, over the deviation.

    On the CPU and on CUDA bit for bit torchvision's to_tensor and normalize on the CPU.

    Args:
        preprocess: its mean and std.
        device: where the pixels will be.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device = _CPU):
        # A tensor: by a plain number CUDA multiplies with the inverse, which has other last bits.
        self._full = torch.tensor(255.0, dtype=torch.float32, device=device)
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (preprocess.mean, preprocess.std)
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) float32 of uint8."""
        return pixels.to(torch.float32).div_(self._full).sub_(self._mean).div_(self._std)


class EvaluationTransform(Transform):
    """A backbone's own preprocessing, pixel for pixel that of timm; nothing is random."""

    def __init__(self, preprocess: Preprocess):
        resampling_of(preprocess)
        self.preprocess = preprocess

    def __call__(self, image: Image.Image, seed: int = 0) -> Tensor:
        """(3, H, W) float32, normalised; the seed is taken for symmetry and has no effect."""
        return super().__call__(image, seed)

    def settle(self, image: Image.Image) -> Pixels:
        """The finished crop."""
        place = {"center": _center, "squash": _squash, "border": _border}[self.preprocess.crop_mode]
        return np.asarray(place(prepared(image, self.preprocess), self.preprocess))

    def finish(self, settled: Pixels, seed: int) -> Tensor:
        """(3, H, W) uint8."""
        return to_planes(settled)

    @property
    def settled_to(self) -> tuple[int, int]:
        """(H, W) of the crop, whatever the image's."""
        return self.preprocess.size

    def settling(self) -> dict[str, Any]:
        """The fields of the preprocessing that move pixels."""
        values = self.preprocess.to_dict()
        del values["std"]  # the mean is the colour of padding
        return {"transform": "evaluation", **values}


class UnseededTransform:
    """A training transform for one's own data set: an image alone, its seed drawn from torch."""

    def __init__(self, transform: Transform):
        self.transform = transform

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, H, W) float32; other bits at each call."""
        return self.transform(image, int(torch.randint(2**62, ()).item()))


def evaluation_transform(preprocess: Preprocess) -> EvaluationTransform:
    """The transform for validation, test and prediction: image -> (3, H, W) float32."""
    return EvaluationTransform(preprocess)


def training_transform(preprocess: Preprocess, options: TransformConfig) -> Transform:
    """The transform for training images: (image, seed) -> (3, H, W) float32.

    Args:
        preprocess: size, interpolation, mean and std of the result.
        options: 'random_resized_crop'; 'resize_crop', the short side to `resize` pixels and a
            random crop, as in the VPT paper; 'none', the evaluation transform. The first two then
            flip, rotate, jitter colours and apply RandAugment as the options say.

    Raises:
        ConfigError: `resize` is smaller than the crop, or the interpolation is unknown.
    """
    if options.name == "none":
        return EvaluationTransform(preprocess)
    from vpt.data.transforms.augmentation import TrainingTransform

    return TrainingTransform(preprocess, options)


def create_transform(
    preprocess: Preprocess, *, train: bool = False, options: TransformConfig | None = None
) -> Callable[[Image.Image], Tensor]:
    """A transform of PIL images for any data set, e.g. torchvision's ImageFolder.

    Images go the way that they go in `vpt train` and `vpt predict`: turned as their EXIF
    orientation says, on white where they are transparent. Pass what `vpt.read_image` gives, or an
    image that PIL opened; after `image.convert("RGB")`, torchvision's default, the transparency is
    lost. Where the preprocessing has a `value_range`, `vpt.read_image` needs it as well.

    Args:
        preprocess: what the backbone wants, `model.preprocess`.
        train: augment at random, drawing from torch's global generator.
        options: how to augment; the defaults of `TransformConfig` if None.

    Returns:
        image -> (3, H, W) float32, normalised.
    """
    if not train:
        return EvaluationTransform(preprocess)
    return UnseededTransform(training_transform(preprocess, options or _NO_OPTIONS))


def prepared(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The image upright, in RGB, on white where it is transparent; as `read_image` gives it.

    Raises:
        ConfigError: it is no PIL image.
        DataError: its pixels cannot become RGB.
    """
    if not isinstance(image, Image.Image):
        raise ConfigError(f"a transform takes a PIL image, not {_described(image)}")
    if 0 in image.size:
        raise DataError(f"{_name_of(image)}: {image.width} x {image.height} pixels are no image")
    try:
        return upright_rgb(image, preprocess.value_range)
    except AssertionError as error:  # of Pillow, which has no file to read from any more
        raise DataError(
            f"{_name_of(image)}: its file was closed before it was loaded; call image.load() "
            "first, or pass what vpt.read_image gives"
        ) from error
    except DECODE_ERRORS as error:
        raise DataError(f"{_name_of(image)}: {error or type(error).__name__}") from error


def _name_of(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or f"an image of mode {image.mode}")


def _described(given: object) -> str:
    """What was given in place of a PIL image, and how to make one of it."""
    if isinstance(given, str | Path):
        return f"the path '{given}'; open it with vpt.read_image"
    if isinstance(given, bytes):
        return "bytes; write them to a file, or open them with PIL.Image.open(io.BytesIO(data))"
    if isinstance(given, np.ndarray):
        shape = "x".join(map(str, given.shape))
        return (
            f"an array ({shape}, {given.dtype}); pass PIL.Image.fromarray(array) of uint8 values "
            "(H, W, 3) in RGB"
        )
    if isinstance(given, Tensor):
        return (
            "a tensor; pass the image itself, or torchvision's to_pil_image(tensor); a tensor that "
            "is preprocessed already goes to the model"
        )
    return f"{type(given).__name__}; open a file with vpt.read_image"


def resampling_of(preprocess: Preprocess) -> Image.Resampling:
    """Pillow's filter for a preprocessing; each is antialiased.

    Raises:
        ConfigError: the interpolation is unknown.
    """
    if preprocess.interpolation not in _RESAMPLING:
        raise ConfigError(
            f"unknown interpolation '{preprocess.interpolation}' (known: {', '.join(_RESAMPLING)})"
        )
    return _RESAMPLING[preprocess.interpolation]


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image."""
    return to_planes(np.asarray(image))


def to_planes(pixels: Pixels) -> Tensor:
    """(3, H, W) in memory of its own."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def _scaled_size(preprocess: Preprocess) -> tuple[int, int]:
    """(H, W) that the image is resized to before the crop takes `crop_pct` of it."""
    height, width = preprocess.size
    return math.floor(height / preprocess.crop_pct), math.floor(width / preprocess.crop_pct)


def _resize(image: Image.Image, height: int, width: int, preprocess: Preprocess) -> Image.Image:
    return image.resize((width, height), resampling_of(preprocess))


def resize_short_side(image: Image.Image, side: int, preprocess: Preprocess) -> Image.Image:
    """The short side becomes `side` pixels; the long one is rounded down, as torchvision does."""
    size = short_side_size(image.height, image.width, side)
    return image if size == (image.height, image.width) else _resize(image, *size, preprocess)


def short_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(H, W) of an image once its short side has `side` pixels."""
    if min(width, height) == side:
        return height, width
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def _center(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize so that the scaled size is covered, then crop the middle."""
    height, width = _scaled_size(preprocess)
    if height == width:
        image = resize_short_side(image, height, preprocess)
    else:
        ratio = min(image.height / height, image.width / width)
        size = round(image.height / ratio), round(image.width / ratio)
        image = _resize(image, *size, preprocess)
    return _crop_or_pad(image, preprocess.size, fill=(0, 0, 0))


def _squash(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize both sides, whatever the aspect, then crop the middle."""
    image = _resize(image, *_scaled_size(preprocess), preprocess)
    return _crop_or_pad(image, preprocess.size, fill=(0, 0, 0))


def _border(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize so that the whole image fits the scaled size, pad with `fill` or the mean, crop."""
    height, width = _scaled_size(preprocess)
    ratio = max(image.height / height, image.width / width)
    size = max(1, round(image.height / ratio)), max(1, round(image.width / ratio))
    image = _resize(image, *size, preprocess)
    return _crop_or_pad(image, preprocess.size, fill=padding_colour(preprocess))


def padding_colour(preprocess: Preprocess) -> tuple[int, int, int]:
    """`fill`, or else the mean colour, which is zero once normalised."""
    red, green, blue = preprocess.fill or (round(255 * value) for value in preprocess.mean)
    return red, green, blue


def _crop_or_pad(
    image: Image.Image, size: tuple[int, int], fill: tuple[int, int, int]
) -> Image.Image:
    """The middle of the image; where it is too small, padding, the odd pixel right and below."""
    height, width = size
    canvas_size = max(image.width, width), max(image.height, height)
    if canvas_size != image.size:
        canvas = Image.new("RGB", canvas_size, fill)
        canvas.paste(
            image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2)
        )
        image = canvas
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
