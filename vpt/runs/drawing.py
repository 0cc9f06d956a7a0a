"""Images with boxes and captions, and images in rows, drawn so that they can be read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOURS = (
    (230, 75, 60),
    (60, 170, 240),
    (250, 200, 30),
    (80, 200, 120),
    (190, 110, 230),
    (255, 140, 40),
    (60, 215, 210),
    (245, 130, 190),
    (165, 190, 60),
    (150, 160, 180),
)
"""Of the classes, in turn; all are light enough for black letters."""


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    captions: Sequence[str],
) -> Image.Image:
    """A copy in RGB with boxes in the colours of their classes, each on a black rim.

    Lines and letters grow with the image. Large boxes come first, so that no small one is hidden,
    then captions, those of the first boxes on top; a caption stays inside the image.

    Args:
        image: is not changed.
        boxes: K of (x1, y1, x2, y2) in its pixels.
        labels: K numbers of classes.
        captions: K lines; an empty one leaves the box bare.
    """
    picture = image.convert("RGB").copy()
    draw = ImageDraw.Draw(picture)
    long = max(picture.size)
    width, font = max(1, round(long / 400)), _font(min(40, max(10, round(long / 45))))
    order = sorted(range(len(boxes)), key=lambda row: -_area(boxes[row]))
    for row in order:
        _outline(draw, boxes[row], _colour(labels[row]), width)
    for row in reversed(range(len(boxes))):
        if captions[row]:
            _caption(draw, picture.size, boxes[row], captions[row], _colour(labels[row]), font)
    return picture


def side_by_side(left: Image.Image, right: Image.Image, side: int) -> Image.Image:
    """Two images of one size, each at the top left of a grey square, as one (side, 2 side)."""
    picture = Image.new("RGB", (2 * side, side), (110, 110, 110))
    for column, image in enumerate((left, right)):
        picture.paste(image, (column * side, 0))
    return picture


def draw_tiles(
    tiles: Sequence[tuple[Image.Image, Sequence[str]]], *, side: int, title: str, columns: int = 4
) -> Image.Image:
    """Images in rows on white, each enlarged or shrunk to one size, with lines of text below.

    Args:
        tiles: K images, at least one, each with as many lines.
        side: pixels of the longer side of each image.
        title: a line above.
        columns: most of them in a row.
    """
    font, gap = _font(12), 8
    line_height = round(font.size * 1.4)
    cell = side + gap, side + line_height * len(tiles[0][1]) + gap
    columns = min(columns, len(tiles))
    head = gap + line_height
    size = columns * cell[0] + gap, -(-len(tiles) // columns) * cell[1] + head
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    text = _fitting(draw, title, font, picture.width - 2 * gap)
    draw.text((gap, 4), text, fill="black", font=font)
    for number, (image, lines) in enumerate(tiles):
        left, top = gap + number % columns * cell[0], head + number // columns * cell[1]
        picture.paste(_scaled(image.convert("RGB"), side), (left, top))
        for row, line in enumerate(lines):
            text = _fitting(draw, line, font, side)
            draw.text((left, top + side + row * line_height + 2), text, fill="black", font=font)
    return picture


def _scaled(image: Image.Image, side: int) -> Image.Image:
    """Small images grow by whole pixels, so that each can still be seen."""
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its two ends as fits, with a mark between them."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    for letters in range(min(len(text), width), 0, -1):
        head = letters // 2
        shortened = f"{text[:head]}…{text[len(text) - (letters - head) :]}"
        if draw.textlength(shortened, font) <= width:
            return shortened
    return ""


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _colour(label: int) -> tuple[int, int, int]:
    return COLOURS[label % len(COLOURS)]


def _outline(
    draw: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int], width: int
) -> None:
    """The line lies inside the box, its black rim on both sides; the far edges are outside."""
    left, top = round(box[0]), round(box[1])
    right, bottom = max(left, round(box[2]) - 1), max(top, round(box[3]) - 1)
    rim = (left - 1, top - 1, right + 1, bottom + 1)
    draw.rectangle(rim, outline="black", width=width + 2)
    draw.rectangle((left, top, right, bottom), outline=colour, width=width)


def _caption(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Above the box where there is room, else inside it at its top."""
    wide, high = round(draw.textlength(text, font)) + 4, round(font.size * 1.3)
    left = max(0, min(round(box[0]), size[0] - wide))
    top = round(box[1]) - high - 1
    if top < 0:
        top = max(0, min(round(box[1]), size[1] - high))
    frame = (left, top, left + wide - 1, top + high - 1)
    draw.rectangle(frame, fill=colour, outline="black")
    draw.text((left + 2, top + high / 2), text, fill="black", font=font, anchor="lm")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own: it comes with the package, and has more than Latin letters."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
