"""Image files to RGB images: which formats are read, and how every pixel mode becomes 8-bit RGB."""

from __future__ import annotations

import errno
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from vpt.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

# What Pillow's decoders raise on damaged files, found by flipping bytes; OSError covers truncation.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


_LIBRARIES = ("pil", "jpg", "libjpeg_turbo", "zlib", "zlib_ng", "webp", "libtiff")

_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 lie on their side


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before any pixel is decoded.

    Attributes:
        stored_size: (H, W) in pixels, as the rows lie in the file.
        orientation: EXIF's, 1..8; 1: upright as stored.
    """

    stored_size: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels of the upright image, as `read_image` gives it."""
        height, width = self.stored_size
        return (width, height) if self.orientation >= 5 else (height, width)


def decoder_versions() -> dict[str, str | None]:
    """The versions of the libraries that decode; what was kept of other ones is not theirs."""
    return {name: features.version(name) for name in _LIBRARIES}


def read_image(path: Path) -> Image.Image:
    """The image of a file, whole, upright (EXIF orientation applied), in RGB.

    Of an animation the first frame. The format is taken from the content, not from the suffix.

    Raises:
        DataError: the file is missing, no image of `FORMATS`, damaged, or larger than Pillow's
            limit against decompression bombs (89 million pixels).
    """
    with _opened(path, str(path)) as image:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def decode_image(data: bytes, where: str) -> Image.Image:
    """The image of an encoded file in memory, as `read_image` gives it.

    Args:
        data: the file's bytes.
        where: what to call it in an error.

    Raises:
        DataError: as of `read_image`.
    """
    with _opened(io.BytesIO(data), where) as image:
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))


def read_header(path: Path | io.BytesIO) -> ImageHeader:
    """Size and orientation of an image file; damage further on is not seen.

    Raises:
        DataError: as of `read_image`, where the head of the file shows it.
    """
    with _opened(path, str(path)) as image:
        # Not image.getexif(): for a PNG that decodes the pixels, in search of a late chunk.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        if not isinstance(orientation, int) or not 1 <= orientation <= 8:
            orientation = 1
        size = (image.height, image.width)
        if image.format == "TIFF" and orientation >= 5:  # turned by Pillow itself
            size = (image.width, image.height)
        return ImageHeader(size, orientation)


@contextmanager
def _opened(path: Path | io.BytesIO, where: str) -> Iterator[Image.Image]:
    try:
        # Pillow warns where a file is odd but readable; only the warning about size is a refusal.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except _DECODE_ERRORS as error:
        raise DataError(f"{where}: {_reason(path, error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB.

    Transparent pixels are laid over white; 16-bit greys are scaled so that 65535 becomes 255.

    Raises:
        ValueError: a mode whose range of values is unknown (floating point, 32-bit integers).
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _reason(path: Path | io.BytesIO, error: BaseException) -> str:
    """One line saying what is wrong with a file that did not decode."""
    if isinstance(path, Path) and (missing := _reason_of_path(path, error)):
        return missing
    if isinstance(path, io.BytesIO) and path.getbuffer().nbytes == 0:
        return "empty file (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image ({', '.join(FORMATS)} are read)"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return f"damaged or unsupported image ({detail})"


def _reason_of_path(path: Path, error: BaseException) -> str | None:
    """What is wrong with a path; None: it leads to a file that holds something."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "no such file (the name is too long for any)"
    if path.is_dir():
        return "a folder, not an image"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file (0 bytes)"
    return None
