"""Renders pictures with captions, which `glyph_clip` is trained on: digits, letters, shapes.

Digits are drawn by pen strokes of our own and in fonts, letters and symbols in fonts, coloured
shapes by their outline's formula. No real handwriting is among them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vpt.backbones.bundled.pen_digits import pen_atlas
from vpt.backbones.bundled.rendering import (
    GLYPHS,
    CellRenderer,
    RenderSettings,
    draw_characters,
    mix_seed,
)

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross", "star")
COLOURS = {
    "red": (0.9, 0.12, 0.12),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.3, 0.95),
    "yellow": (0.95, 0.9, 0.1),
    "orange": (1.0, 0.55, 0.05),
    "purple": (0.6, 0.15, 0.8),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
}
COUNT_WORDS = ("one", "two", "three", "four")
PLACES = {
    "on the left": (-0.5, 0.0),
    "on the right": (0.5, 0.0),
    "at the top": (0.0, -0.5),
    "at the bottom": (0.0, 0.5),
    "in the middle": (0.0, 0.0),
}

PLAIN = (
    "{}",
    "a {}",
    "the {}",
    "a photo of {}.",
    "a photo of a {}.",
    "a picture of {}",
    "an image of a {}.",
    "a drawing of {}.",
    "a scan of a {}.",
    "this is {}.",
    "a blurry photo of a {}.",
    "a small picture of the {}.",
)
"""Sentences around any subject."""

DIGIT_NOUNS = ("{}", "digit {}", "number {}", "numeral {}", "figure {}", "{}, a digit", "a {}")
"""Ways to name a digit; the word or the numeral goes in."""

PEN_WORDS = ("handwritten", "hand drawn", "handwritten digit", "pen drawn", "hand written")
FONT_WORDS = ("printed", "typed", "printed digit", "typeset")

DIGIT, GLYPH, SCENE = 0, 1, 2
NO_STYLE, PEN, FONT = 0, 1, 2
_FINE = 2  # pictures of shapes are drawn at this multiple of their size
_MOST_OBJECTS = 4


@dataclass(frozen=True)
class CaptionedBatch:
    """Pictures, captions, and which caption is true of which picture.

    Attributes:
        images: (B, 3, H, W), values in 0..1.
        captions: one for each picture.
        matches: (B, B) bool, picture by caption; the diagonal is true.
    """

    images: Tensor
    captions: list[str]
    matches: Tensor


@dataclass(frozen=True)
class CaptionSettings:
    """Shares of the pictures.

    Attributes:
        digits: of digits, of which `pen` by pen strokes.
        glyphs: of letters and symbols; the rest are shapes.
        pen: share of the digits that are drawn by pen strokes.
        plain: see `RenderSettings`, for digits.
        coarse: see `RenderSettings`, for digits.
    """

    digits: float = 0.6
    glyphs: float = 0.2
    pen: float = 0.75
    plain: float = 0.7
    coarse: float = 0.6

    def __post_init__(self) -> None:
        if self.digits + self.glyphs > 1:
            raise ValueError(f"digits {self.digits} and glyphs {self.glyphs} are more than all")


class CaptionedRenderer:
    """Renders captioned batches as a pure function of its settings and the step."""

    def __init__(self, seed: int = 0, settings: CaptionSettings | None = None):
        self.seed = seed
        self.settings = settings or CaptionSettings()
        given = self.settings
        pen_cells, pen_digits = pen_atlas()
        font_cells, font_digits = _font_digits()
        glyph_cells, glyphs = _font_glyphs()
        digits = RenderSettings(plain=given.plain, coarse=given.coarse, blurred=0.2)
        self._pen = CellRenderer(pen_cells, pen_digits, digits)
        self._font = CellRenderer(font_cells, font_digits, digits)
        self._glyphs = CellRenderer(glyph_cells, glyphs, RenderSettings())

    def render(self, batch_size: int, *, size: int = 32, step: int = 0) -> CaptionedBatch:
        """A fresh batch of square pictures, in random order.

        Args:
            batch_size: number of pictures.
            size: side in pixels.
            step: with the seed, determines every random choice.
        """
        random = torch.Generator().manual_seed(mix_seed(self.seed, step))
        given = self.settings
        digits = round(batch_size * given.digits)
        pens = round(digits * given.pen)
        glyphs = min(round(batch_size * given.glyphs), batch_size - digits)
        scenes = batch_size - digits - glyphs
        pictures = [
            *_name_digits(*self._pen.draw(pens, size, random), PEN, random),
            *_name_digits(*self._font.draw(digits - pens, size, random), FONT, random),
            *_name_glyphs(*self._glyphs.draw(glyphs, size, random), random),
            *_draw_scenes(scenes, size, random),
        ]
        order = torch.randperm(len(pictures), generator=random).tolist()
        pictures = [pictures[place] for place in order]
        return CaptionedBatch(
            torch.stack([picture.image for picture in pictures]),
            [picture.caption for picture in pictures],
            _matches(pictures),
        )


@dataclass(frozen=True)
class _Picture:
    """A picture, what is on it, and what its caption says of it.

    Attributes:
        image: (3, H, W).
        caption: a sentence.
        subject: what the sentence names.
        style, place: of the picture.
        said_style, said_place: as far as the sentence says it; 0 or '' where not.
    """

    image: Tensor
    caption: str
    subject: tuple[int, ...]
    style: int = NO_STYLE
    said_style: int = NO_STYLE
    place: str = ""
    said_place: str = ""


def caption_words() -> list[str]:
    """Texts that together hold every word of every caption."""
    plurals = [_plural(shape) for shape in SHAPES]
    digits = [noun.format(word) for noun in DIGIT_NOUNS for word in (*DIGIT_WORDS, *"0123456789")]
    names = [glyph_name(glyph) for glyph in GLYPHS]
    frames = [sentence.format("an") for sentence in PLAIN]
    return [
        *frames, *digits, *names, *PEN_WORDS, *FONT_WORDS, *SHAPES, *plurals, *COLOURS,
        *COUNT_WORDS, *PLACES,
    ]  # fmt: skip


def _matches(pictures: list[_Picture]) -> Tensor:
    """A caption is true of a picture with its subject, unless it says what the picture is not."""
    rows = [
        [
            picture.subject == other.subject
            and other.said_style in (NO_STYLE, picture.style)
            and other.said_place in ("", picture.place)
            for other in pictures
        ]
        for picture in pictures
    ]
    return torch.tensor(rows)


def _pick(options: tuple[str, ...] | list[str], random: torch.Generator) -> str:
    return options[int(torch.randint(len(options), (), generator=random))]


def _say(sentence: str) -> str:
    """With one article, and the right one."""
    once = re.sub(r"\b(an?|the) an? ", r"\1 ", sentence)
    return re.sub(r"\ba (?=[aeio])", "an ", once).replace("an one", "a one")


def _chance(random: torch.Generator) -> float:
    return float(torch.rand((), generator=random))


# Digits and glyphs


def _name_digits(
    images: Tensor, digits: Tensor, style: int, random: torch.Generator
) -> list[_Picture]:
    pictures = []
    for image, digit in zip(images, digits.tolist(), strict=True):
        word = DIGIT_WORDS[digit] if _chance(random) < 0.75 else str(digit)
        subject = _pick(DIGIT_NOUNS, random).format(word)
        says = _chance(random) < 0.5
        if says:
            words = PEN_WORDS if style == PEN else FONT_WORDS
            subject = f"{_pick(words, random)} {subject}"
        caption = _say(_pick(PLAIN, random).format(subject))
        pictures.append(
            _Picture(image, caption, (DIGIT, digit), style, style if says else NO_STYLE)
        )
    return pictures


def _name_glyphs(images: Tensor, glyphs: Tensor, random: torch.Generator) -> list[_Picture]:
    pictures = []
    for image, glyph in zip(images, glyphs.tolist(), strict=True):
        caption = _say(_pick(PLAIN, random).format(glyph_name(GLYPHS[glyph])))
        pictures.append(_Picture(image, caption, (GLYPH, glyph)))
    return pictures


def glyph_name(character: str) -> str:
    """Its Unicode name as one would say it: 'capital letter a', 'greek small letter beta'."""
    return unicodedata.name(character).lower().removeprefix("latin ")


@lru_cache(maxsize=1)
def _font_digits() -> tuple[Tensor, Tensor]:
    return draw_characters("0123456789")[:2]


@lru_cache(maxsize=1)
def _font_glyphs() -> tuple[Tensor, Tensor]:
    return draw_characters(GLYPHS)[:2]


# Shapes


def _draw_scenes(count: int, size: int, random: torch.Generator) -> list[_Picture]:
    """Pictures of one to four shapes of one kind and colour."""
    shapes = torch.randint(len(SHAPES), (count,), generator=random)
    colours = torch.randint(len(COLOURS), (count,), generator=random)
    numbers = torch.randint(1, _MOST_OBJECTS + 1, (count,), generator=random)
    single = torch.rand(count, generator=random) < 0.5
    numbers = torch.where(single, 1, numbers)
    places = torch.randint(len(PLACES), (count,), generator=random)
    centres, radii = _lay_out(numbers, places, random)
    images = _paint(shapes, colours, centres, radii, size, random)
    pictures = []
    for index, image in enumerate(images):
        facts = [int(values[index]) for values in (numbers, colours, shapes)]
        place = list(PLACES)[int(places[index])] if facts[0] == 1 else ""
        says = bool(place) and _chance(random) < 0.5
        caption = _name_scene(facts, place if says else "", random)
        pictures.append(
            _Picture(image, caption, (SCENE, *facts), place=place, said_place=place if says else "")
        )
    return pictures


def _name_scene(facts: list[int], place: str, random: torch.Generator) -> str:
    number, colour, shape = facts
    noun = f"{list(COLOURS)[colour]} {SHAPES[shape]}"
    if number > 1:
        subject = f"{COUNT_WORDS[number - 1]} {_plural(noun)}"
        return _pick(["{}", "a picture of {}", "{}.", "a photo of {}."], random).format(subject)
    subject = f"{noun} {place}".strip()
    return _say(_pick(PLAIN, random).format(subject))


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _lay_out(numbers: Tensor, places: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres (B, 4, 2) and radii (B, 4), in -1..1; a radius of 0 is no shape."""
    count = len(numbers)
    corners = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]])
    shuffled = torch.rand(count, _MOST_OBJECTS, generator=random).argsort(dim=1)
    centres = corners[shuffled] + 0.08 * torch.randn(count, _MOST_OBJECTS, 2, generator=random)
    radii = 0.26 + 0.14 * torch.rand(count, _MOST_OBJECTS, generator=random)
    alone = numbers == 1
    spots = torch.tensor(list(PLACES.values()))[places]
    centres[alone, 0] = spots[alone] + 0.06 * torch.randn(int(alone.sum()), 2, generator=random)
    radii[alone, 0] = 0.25 + 0.22 * torch.rand(int(alone.sum()), generator=random)
    there = torch.arange(_MOST_OBJECTS) < numbers[:, None]
    return centres, torch.where(there, radii, 0.0)


def _paint(
    shapes: Tensor,
    colours: Tensor,
    centres: Tensor,
    radii: Tensor,
    size: int,
    random: torch.Generator,
) -> Tensor:
    """(B, 3, H, W): every shape turned a little, on a grey ground unlike its colour."""
    axis = torch.linspace(-1, 1, _FINE * size)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    count = len(shapes)
    angle = 0.25 * torch.randn(count, _MOST_OBJECTS, generator=random)
    cosine, sine = angle.cos()[..., None, None], angle.sin()[..., None, None]
    offset = grid - centres[:, :, None, None]
    x = (cosine * offset[..., 0] + sine * offset[..., 1]) / radii.clamp(min=1e-3)[..., None, None]
    y = (cosine * offset[..., 1] - sine * offset[..., 0]) / radii.clamp(min=1e-3)[..., None, None]
    inside = _inside(shapes, x, y) & (radii > 0)[..., None, None]
    mask = F.avg_pool2d(inside.any(dim=1, keepdim=True).float(), _FINE)
    ink = torch.tensor(list(COLOURS.values()))[colours]
    ink = (ink + 0.06 * torch.randn(count, 3, generator=random)).clamp(0, 1)[..., None, None]
    light = ink.mean(dim=1, keepdim=True)
    ground = torch.rand(count, 1, 1, 1, generator=random) * 0.35
    ground = torch.where(light < 0.3, 1 - ground, ground)
    noise = 0.04 * torch.randn(count, 3, size, size, generator=random)
    return (ground + (ink - ground) * mask + noise).clamp(0, 1)


def _inside(shapes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which points (B, 4, H, W), in units of the radius, lie inside each picture's shape."""
    distance = (x * x + y * y).sqrt()
    bearing = torch.atan2(y, x) + math.pi / 2
    spikes = 0.65 + 0.35 * (5 * bearing).cos()
    thin = torch.minimum(x.abs(), y.abs()) < 0.3
    insides = torch.stack(
        [
            distance < 1,
            torch.maximum(x.abs(), y.abs()) < 0.85,
            (y < 0.75) & (y > 1.8 * x.abs() - 1.05),
            x.abs() + y.abs() < 1.1,
            (distance < 1) & (distance > 0.55),
            thin & (torch.maximum(x.abs(), y.abs()) < 1),
            distance < spikes,
        ]
    )
    chosen = shapes.view(1, -1, 1, 1, 1).expand(1, *insides.shape[1:])
    return insides.gather(0, chosen)[0]
