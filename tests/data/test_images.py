import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tests.fixtures import make_image
from vpt.data.images import FORMATS, SUFFIXES, UNREAD_SUFFIXES, read_header, read_image
from vpt.errors import DataError


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def reason(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_read_image__lossless_format__gives_the_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(make_image(), tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(read_image(path), make_image())


def test_read_image__wrong_suffix__is_read_by_content(tmp_path):
    path = saved(make_image(), tmp_path / "a.png")
    assert np.array_equal(read_image(path.rename(tmp_path / "a.jpg")), make_image())


def test_read_image__cmyk_jpeg__becomes_rgb(tmp_path):
    path = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    red, green, blue = read_image(path).getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


def test_read_image__grey_16_bit__is_scaled_to_8_bit(tmp_path):
    values = np.array([[0, 128, 257, 32896, 65535]], dtype=np.uint16)
    image = read_image(saved(Image.fromarray(values), tmp_path / "a.png"))
    assert np.asarray(image)[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_read_image__palette_with_transparency__is_laid_over_white(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 2, 2))
    path = saved(image, tmp_path / "a.png", transparency=0)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(path).getpixel((3, 0)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image__alpha__is_laid_over_white(tmp_path, mode):
    path = saved(Image.new("RGBA", (2, 2), (0, 0, 0, 0)).convert(mode), tmp_path / "a.png")
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_read_image__exif_orientation__stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    upright = read_image(saved(image, tmp_path / "a.jpg", exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 200
    assert upright.getpixel((10, 35))[0] < 50


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_read_header__size__is_that_of_the_upright_image(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.new("RGB", (40, 20)), tmp_path / f"a.{suffix}", exif=exif)
    header, image = read_header(path), read_image(path)
    assert header.size == (image.height, image.width)
    assert header.stored_size == (20, 40)
    assert header.orientation == orientation


def test_read_image__one_pixel__is_an_image(tmp_path):
    assert read_image(saved(make_image(size=(1, 1)), tmp_path / "a.png")).size == (1, 1)


def test_read_image__animation__gives_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_read_image__bad_files__say_what_is_wrong(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "empty file" in reason(tmp_path / "empty.jpg")
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert "not an image" in reason(tmp_path / "page.jpg")
    whole = saved(make_image(size=(200, 200)), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in reason(tmp_path / "half.jpg")
    assert "no such file" in reason(tmp_path / "none.jpg")
    assert "folder" in reason(tmp_path)
    assert "range" in reason(saved(Image.new("F", (2, 2)), tmp_path / "float.tiff"))
    assert "range" in reason(saved(Image.new("I", (2, 2), 70000), tmp_path / "int.tiff"))
    assert "not an image" in reason(saved(make_image(), tmp_path / "a.ico"))


def test_suffixes__are_of_what_pillow_decodes_here__and_never_run_programs():
    for suffix in (".jpg", ".jfif", ".jpe", ".mpo", ".png", ".ppm", ".pgm", ".tif", ".webp"):
        assert suffix in SUFFIXES
    assert (".jp2" in SUFFIXES) == features.check("jpg_2000")
    assert (".avif" in SUFFIXES) == features.check("avif")
    assert not {".eps", ".ps", ".pdf", ".svg", ".wmf", ".psd", ".mpeg"} & (
        SUFFIXES | UNREAD_SUFFIXES
    )
    assert not SUFFIXES & UNREAD_SUFFIXES
    if "HEIF" not in FORMATS:
        assert {".heic", ".heif"} <= UNREAD_SUFFIXES


def test_read_image__heic_without_its_package__names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    monkeypatch.setattr("vpt.data.images._HEIF", False)
    monkeypatch.setattr("vpt.data.images.FORMATS", ("JPEG", "PNG"))
    assert "vpt[heif]" in reason(path)


def test_read_image__a_tiff_that_pillow_cannot_decode__is_said_to_be_one(tmp_path):
    (tmp_path / "a.tiff").write_bytes(b"II*\0" + bytes(60))
    assert "TIFF" in reason(tmp_path / "a.tiff")
    floats = np.zeros((4, 4, 3), dtype=np.float32)
    cv2.imwrite(str(tmp_path / "b.tiff"), floats)
    assert "a TIFF of a kind that Pillow cannot decode" in reason(tmp_path / "b.tiff")


def test_read_image__too_many_pixels__is_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(make_image(size=(40, 30)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # between the limit and its double
    assert "more than 1,000 pixels" in reason(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "more than 100 pixels" in reason(path)


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    make_image(size=(24, 18)).save(file, format)
    return file.getvalue()


ENCODED = [encoded(format) for format in FORMATS if format != "HEIF"]


@settings(max_examples=200, deadline=None)
@given(
    content=st.sampled_from(ENCODED),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_read_image__damaged_bytes__give_an_image_or_one_line(
    tmp_path_factory, content, flips, keep
):
    damaged = bytearray(content)
    for position, value in flips:
        damaged[int(position * (len(damaged) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[: int(keep * len(damaged))])
    try:
        outcome = read_image(path).mode
    except DataError as error:
        outcome = str(error)
    assert outcome == "RGB" or outcome.startswith(str(path))
    assert "\n" not in outcome
