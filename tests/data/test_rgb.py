"""Every kind of pixel on its way to upright 8-bit RGB, from files and from PIL images alike."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.fixtures import make_image
from vpt.data.images import decode_image, read_image
from vpt.data.rgb import deep_image, upright_rgb
from vpt.errors import DataError

WHITE = [255, 255, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, *, bits: int, colour: int, transparent: bytes = b"") -> bytes:
    """A PNG written by hand: Pillow writes none of 16-bit colours or of packed greys."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in values]
    else:
        spread = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in spread]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head)]
    if transparent:
        parts.append(chunk(b"tRNS", transparent))
    parts.append(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def pixels(content: bytes, value_range=None) -> list:
    return np.asarray(decode_image(content, "here", value_range=value_range)).tolist()


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


# transparency


def test_a_transparent_colour_of_an_rgb_png__is_white():
    content = png(
        np.array([[[10, 20, 30], [10, 20, 31]]]),
        bits=8,
        colour=2,
        transparent=struct.pack(">HHH", 10, 20, 30),
    )
    assert pixels(content) == [[WHITE, [10, 20, 31]]]


def test_a_transparent_colour_of_16_bits__is_compared_at_full_depth():
    content = png(
        np.array([[[1000, 2000, 3000], [1001, 2000, 3000]]]),
        bits=16,
        colour=2,
        transparent=struct.pack(">HHH", 1000, 2000, 3000),
    )
    assert pixels(content) == [[WHITE, [4, 8, 12]]]


@pytest.mark.parametrize(
    ("bits", "grey", "seen"), [(1, 0, 0), (2, 2, 170), (4, 9, 153), (8, 77, 77), (16, 2570, 10)]
)
def test_a_transparent_grey__is_white_at_every_depth(bits, grey, seen):
    other = 1 if bits == 1 else 3 * grey // 2
    values = np.array([[grey, other]])
    plain = pixels(png(values, bits=bits, colour=0))
    assert plain[0][0] == [seen] * 3
    content = png(values, bits=bits, colour=0, transparent=struct.pack(">H", grey))
    assert pixels(content) == [[WHITE, plain[0][1]]]


def test_palette__with_one_transparent_entry_or_many__is_laid_over_white():
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    assert pixels(encoded(image, "PNG", transparency=1)) == [[[200, 0, 0], WHITE, [0, 0, 200]]]
    half = pixels(encoded(image, "PNG", transparency=bytes([255, 0, 0])))
    assert half == [[[200, 0, 0], WHITE, WHITE]]
    assert pixels(encoded(image, "GIF", transparency=2))[0][2] == WHITE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_alpha__in_every_mode__is_laid_over_white(mode):
    image = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
    image.putpixel((1, 0), (40, 40, 40, 0))
    if mode == "La":
        image = image.convert("LA").convert("La")
    elif mode == "RGBa":
        image = image.convert("RGBa")
    elif mode == "PA":
        palette = Image.new("PA", (2, 1))
        palette.putpalette([40, 40, 40])
        palette.putdata([(0, 255), (0, 0)])
        image = palette
    else:
        image = image.convert(mode)
    assert np.asarray(upright_rgb(image)).tolist() == [[[40, 40, 40], WHITE]]


def test_deep_grey_with_alpha__and_deep_colours_with_alpha__are_laid_over_white():
    grey = np.array([[[65535, 0], [25700, 65535]]])
    colours = np.array([[[0, 0, 0, 0], [25700, 0, 65535, 65535]]])
    for scale in (None, (0, 65535)):
        assert pixels(png(grey, bits=16, colour=4), scale) == [[WHITE, [100] * 3]]
        assert pixels(png(colours, bits=16, colour=6), scale) == [[WHITE, [100, 0, 255]]]


# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_opened_image__stands_as_the_file_that_is_read__in_every_orientation(
    tmp_path, format, orientation
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(make_image(0, (24, 16)), format, exif=exif)
    read = decode_image(content, "here")
    with Image.open(io.BytesIO(content)) as opened:
        assert np.array_equal(upright_rgb(opened), read)
    assert read.size == ((16, 24) if orientation >= 5 else (24, 16))
    assert np.array_equal(upright_rgb(read), read)  # applied once, however often
    if format != "TIFF":  # Pillow turns it itself, and then says so
        with Image.open(io.BytesIO(content)) as opened:
            converted = opened.convert("RGB")  # what torchvision's loader gives
            assert np.array_equal(upright_rgb(converted), read)


def test_a_deep_grey_on_its_side__is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 65535, 0], [0, 0, 0]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        seen = np.asarray(decode_image(encoded(Image.fromarray(values), format, exif=exif), ""))
        assert seen[..., 0].tolist() == [[0, 0], [0, 255], [0, 0]]


# more than 8 bits


def test_a_value_range__becomes_0_to_255__in_greys_and_colours():
    grey = np.array([[0, 16, 2048, 4095, 9000]])
    assert np.array(pixels(png(grey, bits=16, colour=0), (0, 4095)))[0, :, 1].tolist() == [
        *(0, 1, 128, 255, 255)
    ]
    colours = np.array([[[0, 16, 4095], [2048, 1, 9]]])
    assert pixels(png(colours, bits=16, colour=2), (0, 4095)) == [[[0, 1, 255], [128, 0, 1]]]
    shifted = np.array([[32768, 34816, 36863]])
    assert np.array(pixels(png(shifted, bits=16, colour=0), (32768, 36863)))[0, :, 0].tolist() == [
        *(0, 128, 255)
    ]


def test_the_full_range__is_what_is_taken_without_one():
    grey = np.arange(65536).reshape(256, 256)
    content = png(grey, bits=16, colour=0)
    assert pixels(content) == pixels(content, (0, 65535))
    assert np.array_equal(np.array(pixels(content))[..., 0], (grey + 128) // 257)


def test_images_of_8_bits__are_not_changed_by_a_value_range():
    image = make_image()
    for other in (image, image.convert("L"), image.convert("P"), image.convert("RGBA")):
        assert np.array_equal(upright_rgb(other, (0, 4095)), upright_rgb(other))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([(0, 1), (2, 3), (4, 2), (6, 4)]),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 60000), st.integers(1, 5000)),
)
def test_deep_png__of_any_kind__is_scaled_as_arithmetic_says(height, width, kind, seed, limits):
    colour, channels = kind
    low, high = limits[0], limits[0] + limits[1]
    values = np.random.default_rng(seed).integers(0, 65536, (height, width, channels))
    if channels in (2, 4):
        values[..., -1] = 65535
    content = png(values, bits=16, colour=colour)
    shown = values[..., :3] if channels > 2 else values[..., :1]
    exact = np.clip((shown - low) / (high - low), 0, 1) * 255
    seen = np.array(pixels(content, (low, high)))
    assert np.abs(seen - exact).max() <= 0.5 + 1e-9


def tiff(values: np.ndarray, *, bits: int, photometric: int, big: bool = False) -> bytes:
    """A TIFF of one strip, written by hand."""
    order, height, width = (">" if big else "<"), *values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    if bits == 12:
        nibbles = [(v >> shift) & 15 for v in values.reshape(-1).tolist() for shift in (8, 4, 0)]
        nibbles += [0] * (len(nibbles) % 2)
        data = bytes(a << 4 | b for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
    else:
        data = values.astype(order + "u2").tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    head = (b"MM" if big else b"II") + struct.pack(order + "HI", 42, 8)
    count = len(entries) + 4
    place = 8 + 2 + 12 * count + 4
    entries += [(273, place + 8), (277, channels), (278, height), (279, len(data))]
    directory = struct.pack(order + "H", count)
    for tag, value in entries:
        if tag == 258 and channels > 1:
            directory += struct.pack(order + "HHII", tag, 3, channels, place)
        else:
            directory += struct.pack(order + "HHII", tag, 4, 1, value)
    table = struct.pack(order + "4H", *[bits] * 4)
    return head + directory + struct.pack(order + "I", 0) + table + data


@pytest.mark.parametrize("big", [False, True])
def test_deep_tiff__grey_and_colours__keep_both_bytes(big):
    colours = np.array([[[0, 16, 4095], [2048, 1, 9]]])
    content = tiff(colours, bits=16, photometric=2, big=big)
    assert pixels(content, (0, 4095)) == [[[0, 1, 255], [128, 0, 1]]]
    grey = np.array([[0, 2048, 4095]])
    content = tiff(grey, bits=16, photometric=1, big=big)
    assert np.array(pixels(content, (0, 4095)))[0, :, 0].tolist() == [0, 128, 255]


def test_a_tiff_of_12_bits__has_its_range_from_the_file():
    content = tiff(np.array([[0, 2048, 4095, 16]]), bits=12, photometric=1)
    assert np.array(pixels(content))[0, :, 0].tolist() == [0, 128, 255, 1]


def test_a_tiff_whose_zero_is_white__is_turned_over():
    content = tiff(np.array([[0, 65535, 25700]]), bits=16, photometric=0)
    assert np.array(pixels(content))[0, :, 0].tolist() == [255, 0, 155]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_compressed_tiff__has_its_values(compression):
    values = np.array([[0, 2048, 4095]], dtype=np.uint16)
    content = encoded(Image.fromarray(values), "TIFF", compression=compression)
    assert np.array(pixels(content, (0, 4095)))[0, :, 0].tolist() == [0, 128, 255]


def test_floats_and_32_bits__need_a_value_range(tmp_path):
    for values, low, high in (
        (np.array([[-1.0, 0.0, 1.0]], dtype=np.float32), -1, 1),
        (np.array([[0, 50000, 100000]], dtype=np.int32), 0, 100000),
    ):
        content = encoded(Image.fromarray(values), "TIFF")
        with pytest.raises(DataError, match=r"no known range; give it as value_range"):
            pixels(content)
        assert np.array(pixels(content, (low, high)))[0, :, 0].tolist() == [0, 128, 255]
    nan = encoded(Image.fromarray(np.full((1, 2), np.nan, dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match="not finite"):
        pixels(nan, (0, 1))


def test_a_pgm_of_12_bits__says_its_range_itself():
    content = b"P5 3 1 4095 " + np.array([0, 2048, 4095], dtype=">u2").tobytes()
    assert np.array(pixels(content))[0, :, 0].tolist() == [0, 128, 255]


def test_deep_image__of_8_bits__is_none():
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA"):
        assert deep_image(Image.new(mode, (2, 2))) is None


def test_an_opened_image_of_16_bit_colours__is_scaled_like_the_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(np.array([[[0, 16, 4095]]]), bits=16, colour=2))
    with Image.open(path) as image:
        assert np.asarray(upright_rgb(image, (0, 4095))).tolist() == [[[0, 1, 255]]]
    assert np.asarray(read_image(path, value_range=(0, 4095))).tolist() == [[[0, 1, 255]]]


# formats


FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]


@pytest.mark.parametrize(
    "format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"], ids=lambda name: name.lower()
)
def test_of_several_images_in_a_file__the_first_is_read(format):
    options = {"lossless": True} if format == "WEBP" else {}
    content = encoded(FRAMES[0], format, save_all=True, append_images=FRAMES[1:], **options)
    red, green, blue = np.array(pixels(content))[1, 1]
    assert red > 240
    assert max(green, blue) < 12


RAMP = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


@pytest.mark.parametrize("format", ["PPM", "JPEG2000", "AVIF", "MPO"])
def test_other_photo_formats__are_read(tmp_path, format):
    seen = np.asarray(decode_image(encoded(RAMP, format), "here")).astype(int)
    assert np.abs(seen - np.asarray(RAMP)).mean() < 6


def test_heic__is_read__turned__where_its_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.heic"
    heif.from_pillow(RAMP).save(path, quality=-1, exif=exif.tobytes())
    read = read_image(path)
    assert read.size == (48, 64)
    turned = np.asarray(RAMP.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(read) - turned).mean() < 6


def test_what_runs_programs__is_not_read(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(make_image(), "EPS"))
    with pytest.raises(DataError, match="not an image"):
        read_image(path)


def test_cmyk__from_a_file_or_from_pil__is_the_same():
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(upright_rgb(image), decode_image(content, "here"))
    assert np.array_equal(
        ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"),
        decode_image(content, "here"),
    )
