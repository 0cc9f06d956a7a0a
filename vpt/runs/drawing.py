"""Boxes with captions, drawn so that they can be read on any background."""

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
