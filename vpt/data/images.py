"""Image files to RGB images: which formats are read, and what is said of files that are none."""

from __future__ import annotations

import errno
import importlib.util
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, features

from vpt.data.rgb import DeepImage, ValueRange, deep_image, upright_rgb
from vpt.errors import DataError

_HEIF = importlib.util.find_spec("pillow_heif") is not None

_SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_OPTIONAL = {
    "WEBP": features.check("webp"),
    "JPEG2000": features.check("jpg_2000"),
    "AVIF": features.check("avif"),
    "HEIF": _HEIF,
}

FORMATS = tuple(name for name in _SUFFIXES_BY_FORMAT if _OPTIONAL.get(name, True))
"""Pillow's names of the formats that are read here: still photographs, and nothing that runs a
program. HEIF needs the package pillow-heif (`pip install 'vpt[heif]'`)."""

SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _SUFFIXES_BY_FORMAT[name])
"""In lower case, of files in these formats."""

UNREAD_SUFFIXES = (
    frozenset(suffix for suffixes in _SUFFIXES_BY_FORMAT.values() for suffix in suffixes) - SUFFIXES
)
"""Of formats that the same version reads where another package is installed."""

# What Pillow's decoders raise on damaged files, found by flipping bytes; OSError covers truncation.
DECODE_ERRORS = (
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


_LIBRARIES = (
    *("pil", "jpg", "libjpeg_turbo", "zlib", "zlib_ng", "webp", "libtiff"),
    *("jpg_2000", "avif"),
)

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


def read_image(path: Path | str, *, value_range: ValueRange | None = None) -> Image.Image:
    """The image of a file, whole, upright, in RGB: what `vpt train` and `vpt predict` see.

    The EXIF orientation is applied, and what is transparent is laid over white. Of an animation
    the first frame. The format is taken from the content, not from the suffix.

    Args:
        path: the file.
        value_range: see `vpt.data.rgb.upright_rgb`; `model.preprocess.value_range` of a model that
            was trained with one.

    Raises:
        DataError: the file is missing, no image of `FORMATS`, damaged, or larger than Pillow's
            limit against decompression bombs (89 million pixels).
    """
    path = Path(path)
    with _opened(path, str(path)) as image:
        return _plain(upright_rgb(image, value_range))


def decode_image(data: bytes, where: str, *, value_range: ValueRange | None = None) -> Image.Image:
    """The image of an encoded file in memory, as `read_image` gives it.

    Args:
        data: the file's bytes.
        where: what to call it in an error.
        value_range: see `read_image`.

    Raises:
        DataError: see `read_image`.
    """
    with _opened(io.BytesIO(data), where) as image:
        return _plain(upright_rgb(image, value_range))


def read_deep(path: Path | io.BytesIO) -> DeepImage | None:
    """The stored values of a file of more than 8 bits a channel; None for one of 8 bits.

    Raises:
        DataError: see `read_image`.
    """
    with _opened(path, str(path)) as image:
        return deep_image(image)


def read_header(path: Path | io.BytesIO) -> ImageHeader:
    """Size and orientation of an image file; damage further on is not seen.

    Raises:
        DataError: see `read_image`, where the head of the file shows it.
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


def _plain(image: Image.Image) -> Image.Image:
    """The image without the file it came from."""
    return image.copy() if isinstance(image, ImageFile.ImageFile) else image


@contextmanager
def _opened(path: Path | io.BytesIO, where: str) -> Iterator[Image.Image]:
    try:
        # Pillow warns where a file is odd but readable; only the warning about size is a refusal.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _register_heif()
            _refuse_pipes_and_devices(path)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except DECODE_ERRORS as error:
        raise DataError(f"{where}: {_reason(path, error)}") from error


def _refuse_pipes_and_devices(path: Path | io.BytesIO) -> None:
    """Before one is opened, which could wait for ever."""
    if isinstance(path, Path) and not path.is_file() and path.exists() and not path.is_dir():
        raise OSError("a pipe, socket or device, not a file")


@cache
def _register_heif() -> None:
    """Let Pillow read HEIF, if the package for it is installed."""
    if _HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _reason(path: Path | io.BytesIO, error: BaseException) -> str:
    """One line saying what is wrong with a file that did not decode."""
    if isinstance(path, Path) and (missing := _reason_of_path(path, error)):
        return missing
    if isinstance(path, io.BytesIO) and path.getbuffer().nbytes == 0:
        return "empty file (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        head = _head_of(path)
        if not _HEIF and _is_heif(head):
            return "a HEIC image, which needs another package: pip install 'vpt[heif]'"
        if head.startswith(_TIFF_STARTS):
            return (
                "a TIFF of a kind that Pillow cannot decode, e.g. of floating-point colours; save "
                "it with 8 or 16 bits"
            )
        return f"not an image ({', '.join(FORMATS)} are read)"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return f"damaged or unsupported image ({detail})"


_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _is_heif(head: bytes) -> bool:
    """By the brand in the file's first box."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _head_of(path: Path | io.BytesIO) -> bytes:
    if isinstance(path, io.BytesIO):
        return path.getvalue()[:12]
    with path.open("rb") as file:
        return file.read(12)


def _reason_of_path(path: Path, error: BaseException) -> str | None:
    """What is wrong with a path; None: it leads to a file that holds something."""
    if isinstance(error, FileNotFoundError):
        return "a link to a file that is not there" if path.is_symlink() else "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "no such file (the name is too long for any)"
    if path.is_dir():
        return "a folder, not an image"
    if path.exists() and not path.is_file():
        return "a pipe, socket or device, not an image"
    if path.is_file() and path.stat().st_size == 0:
        return "empty file (0 bytes)"
    return None
