"""Boxes with captions, and images in rows, drawn so that they can be read, in a crowd too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Captions = Literal["fit", "all", "none"]
"""Which captions are drawn: those that hide no other one and no other box, all, or none."""

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

_COLUMNS = 4
"""Most tiles in a row."""

_HIDDEN = 0.25
"""Share of another box that a caption may lie on."""

_SMALL = 32
"""Pixels of a box's shorter side."""

Frame = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the last two outside."""


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    captions: Sequence[str],
    *,
    shown: Captions = "fit",
) -> Image.Image:
    """A copy in RGB with boxes in the colours of their classes, each on a black rim.

    Lines and letters grow with the image, and shrink where the boxes are small. Large boxes come
    first, so that no small one is hidden. Captions are placed in the order of the boxes, above,
    below or inside of theirs, where they are free; what a caption would hide is worth more than it.

    Args:
        image: is not changed.
        boxes: K of (x1, y1, x2, y2) in its pixels, the most important first.
        labels: K numbers of classes.
        captions: K lines; an empty one leaves the box bare.
        shown: see `Captions`.
    """
    picture = image.convert("RGB").copy()
    draw = ImageDraw.Draw(picture)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    width, font = _sizes(picture.size, corners)
    for row in sorted(range(len(corners)), key=lambda row: -_area(corners[row])):
        _outline(draw, corners[row], _colour(labels[row]), width)
    if shown != "none":
        texts = [caption or None for caption in captions]
        placed = _place_captions(draw, picture.size, corners, texts, font, crowded=shown == "all")
        for row, frame in reversed(list(placed)):
            _caption(draw, frame, captions[row], _colour(labels[row]), font)
    return picture


def side_by_side(left: Image.Image, right: Image.Image, side: int) -> Image.Image:
    """Two images of one size, each at the top left of a grey square, as one (side, 2 side)."""
    picture = Image.new("RGB", (2 * side, side), (110, 110, 110))
    for column, image in enumerate((left, right)):
        picture.paste(image, (column * side, 0))
    return picture


def _sizes(
    size: tuple[int, int], corners: NDArray[np.float64]
) -> tuple[int, ImageFont.FreeTypeFont]:
    """Width of the lines and the captions' font."""
    long = max(size)
    width, letters = long / 400, min(36.0, long / 64)
    if len(corners):
        short = float(np.median((corners[:, 2:] - corners[:, :2]).min(axis=1)))
        width, letters = min(width, short / 20), min(letters, short / 4)
    return max(1, round(width)), _font(max(10, round(letters)))


def draw_tiles(
    tiles: Sequence[tuple[Image.Image, Sequence[str]]], *, side: int, title: str
) -> Image.Image:
    """Images in rows on white, each enlarged or shrunk to one size, with lines of text below.

    Args:
        tiles: K images, at least one, each with as many lines.
        side: pixels of the longer side of each image.
        title: a line above.
    """
    font, gap = _font(12), 8
    line_height = round(font.size * 1.4)
    cell = side + gap, side + line_height * len(tiles[0][1]) + gap
    columns = min(_COLUMNS, len(tiles))
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


def _area(box: Sequence[float] | NDArray[np.float64]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _colour(label: int) -> tuple[int, int, int]:
    return COLOURS[label % len(COLOURS)]


def _outline(
    draw: ImageDraw.ImageDraw,
    box: NDArray[np.float64],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """The line lies inside the box, its black rim on both sides; the far edges are outside.

    Of a small box the inner rim is left out, which would hide what is in it.
    """
    left, top = round(box[0]), round(box[1])
    right, bottom = max(left, round(box[2]) - 1), max(top, round(box[3]) - 1)
    rim = (left - 1, top - 1, right + 1, bottom + 1)
    inner = 1 if min(right - left, bottom - top) >= _SMALL else 0
    draw.rectangle(rim, outline="black", width=width + 1 + inner)
    draw.rectangle((left, top, right, bottom), outline=colour, width=width)


# Captions


def _place_captions(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: NDArray[np.float64],
    captions: Sequence[str | None],
    font: ImageFont.FreeTypeFont,
    *,
    crowded: bool,
) -> Iterator[tuple[int, Frame]]:
    """The frames of the captions that are drawn, in the order of the boxes.

    Each takes the place that hides least. Where every place hides too much the caption is left
    out, unless the captions may be crowded.
    """
    taken: list[Frame] = []
    for row, caption in enumerate(captions):
        if caption is None:
            continue
        wide, high = round(draw.textlength(caption, font)) + 4, round(font.size * 1.2)
        others = np.delete(corners, row, axis=0)
        choices = [
            (_share_of(frame, taken), _hidden(frame, others), place, frame)
            for place, frame in enumerate(_places(size, corners[row], wide, high))
        ]
        covered, hidden, _, frame = min(choices)
        if crowded or (covered == 0 and hidden <= _HIDDEN):
            taken.append(frame)
            yield row, frame


def _places(
    size: tuple[int, int], box: NDArray[np.float64], wide: int, high: int
) -> Iterator[Frame]:
    """Above the box, inside at its top, below it, each at the left edge and the right."""
    x1, y1, x2, y2 = (round(side) for side in box)
    for top in (y1 - high - 1, y1, y2 + 1):
        for left in (x1, x2 - wide):
            x = max(0, min(left, size[0] - wide))
            y = max(0, min(top, size[1] - high))
            yield x, y, x + wide, y + high


def _share_of(frame: Frame, taken: Sequence[Frame]) -> float:
    """How much of a frame lies on others."""
    if not taken:
        return 0.0
    return float(_overlaps(frame, np.array(taken, dtype=np.float64)).sum()) / _area(frame)


def _hidden(frame: Frame, boxes: NDArray[np.float64]) -> float:
    """The largest share of a box that a frame lies on."""
    if not len(boxes):
        return 0.0
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0)
    return float((_overlaps(frame, boxes) / areas).max())


def _overlaps(frame: Frame, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,): the area that a frame shares with each box."""
    low, high = np.maximum(boxes[:, :2], frame[:2]), np.minimum(boxes[:, 2:], frame[2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=1))


def _caption(
    draw: ImageDraw.ImageDraw,
    frame: Frame,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    left, top, right, bottom = frame
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    draw.text((left + 2, (top + bottom) / 2), text, fill="black", font=font, anchor="lm")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own: it comes with the package, and has more than Latin letters."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
