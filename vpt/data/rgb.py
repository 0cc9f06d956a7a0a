"""Pixels of every kind to upright 8-bit RGB: orientation, transparency, more than 8 bits.

`upright_rgb` is the one way that images go, for files (`vpt.data.images`) and for PIL images that a
user opened (`vpt.data.transforms.images`).
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

ValueRange = tuple[float, float]
"""(low, high): the values of more than 8 bits that become 0 and 255."""

_ORIENTATION = 0x0112  # the EXIF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_FULL_16_BIT = (0.0, 65535.0)
_SCALED_BY = "value_range"  # key of `Image.info`: the range that an image's values were scaled by
_GREY_BITS = {"L;2": 2, "L;4": 4}  # Pillow's raw modes of greys that a PNG packs into bytes
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True)
class DeepImage:
    """An upright image of more than 8 bits a channel, with its values as they are stored.

    Attributes:
        values: (H, W) or (H, W, 3), integers or floats.
        known_range: what the file's kind says of the values; None: nothing.
        alpha: (H, W) uint8, 0 where an image is transparent; None: nowhere.
        inverted: the lowest value is white.
    """

    values: NDArray[Any]
    known_range: ValueRange | None
    alpha: NDArray[np.uint8] | None = None
    inverted: bool = False

    def to_rgb(self, value_range: ValueRange | None = None) -> Image.Image:
        """8-bit RGB; values are scaled linearly and cut off at the ends of the range.

        Args:
            value_range: what becomes 0 and 255; None: the range that the file's kind has.

        Raises:
            ValueError: the range is not known, or a value is not finite.
        """
        chosen = value_range or self.known_range
        if chosen is None:
            kind = "floating-point" if self.values.dtype.kind == "f" else "32-bit"
            raise ValueError(
                f"{kind} pixels have no known range; give it as value_range, "
                "or save the image with 8 or 16 bits"
            )
        bytes_ = _scaled(self.values, chosen)
        if self.inverted:
            bytes_ = 255 - bytes_
        image = Image.fromarray(bytes_).convert("RGB")
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
            image = _over_white(image)
        image.info[_SCALED_BY] = chosen
        return image


def upright_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """The image in 8-bit RGB, turned as its EXIF orientation says.

    What is transparent is laid over white. Greys of 16 bits are scaled so that 65535 becomes 255;
    of colours of 16 bits, which Pillow has no mode for, the high byte is taken. An image that is
    upright 8-bit RGB already is given back as it is, so applying this twice changes nothing.

    Args:
        image: of any mode. If it was opened by Pillow and not yet loaded, 16-bit colours are read
            at their full depth where the range needs it; once loaded they have 8 bits.
        value_range: the values of images of more than 8 bits that become 0 and 255, e.g.
            (0, 4095) of a 12-bit camera; what lies beyond is cut off. Images of 8 bits are not
            changed by it.

    Raises:
        ValueError: the range of the values is unknown (floating point, 32-bit integers), the
            mode cannot be converted, or the image is one that was scaled here by another range.
    """
    before = image.info.get(_SCALED_BY)
    if before is not None and value_range is not None and tuple(value_range) != tuple(before):
        raise ValueError(
            f"its values were scaled by [{before[0]:g},{before[1]:g}] when it was read, and the "
            f"model takes [{value_range[0]:g},{value_range[1]:g}]; read it with "
            "vpt.read_image(path, value_range=model.preprocess.value_range)"
        )
    colours = value_range is not None or "transparency" in image.info
    deep = deep_image(image, colours=colours)
    if deep is not None:
        return deep.to_rgb(value_range)
    if _swapped_modes(image) is not None:
        image.info[_SCALED_BY] = _FULL_16_BIT  # Pillow takes the high byte
    bits = _GREY_BITS.get(_raw_mode(image))
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return _over_white(_with_byte_transparency(image, bits))
    return image.convert("RGB")


def deep_image(image: Image.Image, *, colours: bool = True) -> DeepImage | None:
    """The values of an image of more than 8 bits a channel; None for an image of 8 bits.

    Args:
        image: of any mode; colours have more than 8 bits only until Pillow loads them.
        colours: look at colours as well; False: greys only, which is faster.
    """
    if colours and (swapped := _swapped_modes(image)) is not None:
        return _deep_colours(image, swapped)
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    tags = getattr(image, "tag_v2", None) or {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    inverted = tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith("I;16")
    transparent = image.info.get("transparency")
    values = np.asarray(_upright(image))
    known: ValueRange | None = None
    if values.dtype.kind != "f" and values.min() >= 0 and values.max() <= 65535:
        narrow = bits == (12,)  # Pillow leaves these values as they are
        known = (0.0, 4095.0) if narrow else _FULL_16_BIT
    return DeepImage(values, known, _opaque_but(values == transparent), inverted)


def _scaled(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    """To 0..255, rounded; halves go up."""
    low, high = value_range
    if values.dtype == np.uint16:  # one look-up instead of arithmetic on every pixel
        table = _scaled(np.arange(65536, dtype=np.int64), value_range)
        return np.take(table, values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("some pixels are not finite numbers (NaN or infinity)")
    shares = (values.astype(np.float64) - low) / (high - low)
    return np.floor(255 * shares.clip(0, 1) + 0.5).astype(np.uint8)


def _deep_colours(image: Image.Image, swapped: list[str]) -> DeepImage:
    """16-bit colours as Pillow reads them, their high bytes, and once more for the low ones."""
    transparent = image.info.get("transparency")
    twin = _twin(image)
    modes = iter(swapped)
    twin.tile = [tile._replace(args=_with_raw_mode(tile.args, next(modes))) for tile in twin.tile]
    lone_grey = swapped[0] == "RGBA"  # grey high, grey low, alpha high, alpha low
    low = np.asarray(_upright(twin)).astype(np.uint16)
    if lone_grey:
        return DeepImage(low[..., 0] * 256 + low[..., 1], _FULL_16_BIT, low[..., 2].astype("u1"))
    high = np.asarray(_upright(image))
    values = high[..., :3].astype(np.uint16) * 256 + low[..., :3]
    if high.shape[-1] == 4:
        return DeepImage(values, _FULL_16_BIT, high[..., 3])
    same = False if transparent is None else (values == np.array(transparent)).all(axis=-1)
    return DeepImage(values, _FULL_16_BIT, _opaque_but(same))


def _twin(image: Image.Image) -> Any:
    """The same image, opened once more from the same bytes."""
    file: Any = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    assert image.format is not None
    twin = Image.open(io.BytesIO(content), formats=[image.format])
    if frame := getattr(image, "tell", lambda: 0)():
        twin.seek(frame)
    return twin


def _swapped_modes(image: Image.Image) -> list[str] | None:
    """Raw modes that read the low bytes of an image's 16-bit colours, by tile; None: it has none.

    Taking the bytes of each number in the other order makes Pillow keep the low one.
    """
    if image.mode not in ("RGB", "RGBA") or not isinstance(image, ImageFile.ImageFile):
        return None
    modes = [_raw_mode_of(tile.args) for tile in image.tile]
    if not modes or not all(";16" in mode for mode in modes):
        return None
    if modes[0].startswith("LA"):
        return ["RGBA"] * len(modes)
    return [mode[:-1] + _OTHER_ORDER[mode[-1]] for mode in modes]


def _raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, in Pillow's words; '' once it is loaded."""
    tiles = getattr(image, "tile", ())
    return _raw_mode_of(tiles[0].args) if tiles else ""


def _raw_mode_of(arguments: Any) -> str:
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _with_raw_mode(arguments: Any, mode: str) -> Any:
    return (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode


def _opaque_but(transparent: Any) -> NDArray[np.uint8] | None:
    """Alpha of a mask of transparent pixels; None where there are none."""
    if transparent is False or not np.any(transparent):
        return None
    return np.where(transparent, 0, 255).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a TIFF is turned here
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _with_byte_transparency(image: Image.Image, bits: int | None) -> Image.Image:
    """Pillow spreads greys of 2 and 4 bits over a byte, but not the grey that is transparent."""
    grey = image.info.get("transparency")
    if bits is None or not isinstance(grey, int) or grey >= 2**bits:
        return image
    image = image.copy()
    image.info["transparency"] = grey * 255 // (2**bits - 1)
    return image


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
