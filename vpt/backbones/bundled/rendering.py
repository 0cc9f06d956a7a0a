"""Renders the images that the bundled backbone is trained on: warped glyphs and doodles, no digits.

Every glyph is drawn once per font into an atlas; a batch is then made from the atlas by tensor
operations alone. The fonts are the free DejaVu and STIX families that matplotlib carries. No
numeral of any script is in the alphabet, nor is a letter that is drawn like one, so that
handwritten digits stay unseen data.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ATLAS_SIZE = 64
"""Side of an atlas cell in pixels."""

GLYPH_EXTENT = 48
"""Longest side of a glyph inside its atlas cell, in pixels."""

NUMERAL_CATEGORIES = frozenset({"Nd", "Nl", "No"})
"""Unicode categories that the alphabet must not contain."""

# Left out on purpose: lower-case letters that differ from their capital in size only (size is
# random here), homoglyphs across scripts, and letters drawn like a numeral (Cyrillic ze, be).
_LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijkmnpqrtuy"
_GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρςστφχψω"
_CYRILLIC = "БДЖИЛЦШЩЪЫЬЮЯЂЄЋѢѪ"
_PUNCTUATION = "!?&@#$%*+=<>{}[]/\\~^§¶©®€£¥¿†‡¬±×÷"  # noqa: RUF001
_MATHEMATICS = "∀∃∂∇∈∉∋∏∑√∝∞∠∧∨∩∪∫∮∴∼≅≈≠≡≤≥≪≫⊂⊃⊆⊇⊕⊗⊥"  # noqa: RUF001
_PICTURES = "←↑→↓↔↵⇐⇒⇔■□▲△▶▼◆◇○●★☆♠♣♥♦♪♯"

GLYPHS = tuple(_LATIN + _GREEK + _CYRILLIC + _PUNCTUATION + _MATHEMATICS + _PICTURES)
"""Every character that is drawn."""

_FONT_FILES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
# STIXGeneral carries whole further alphabets in Unicode's mathematical block.
_ALPHABETS = ("BOLD SCRIPT", "SCRIPT", "FRAKTUR", "BOLD FRAKTUR", "DOUBLE-STRUCK", "MONOSPACE")

FONTS = (*_FONT_FILES, *(f"STIXGeneral:{name}" for name in _ALPHABETS))
"""Name of every style; a colon separates the font file from its mathematical alphabet."""

_DOODLE_SEEDS = tuple(seed for seed in range(66) if seed not in (9, 30))  # these look like digits

NUM_DOODLES = len(_DOODLE_SEEDS)
"""Classes of random stroke drawings, each with its own variants in place of fonts."""

DOODLE_STROKES = 3

NUM_ANGLES = 8
NUM_SCALES = 4
NUM_WEIGHTS = 4
NUM_SHEARS = 5
NUM_TEXTURES = 4
NUM_RESOLUTIONS = 3
IGNORED = -100
"""Target of a quantity that an image does not have; cross-entropy's default `ignore_index`."""

TARGETS: dict[str, int] = {
    "symbol": len(GLYPHS) + NUM_DOODLES,
    "font": len(FONTS),
    "angle": NUM_ANGLES,
    "scale": NUM_SCALES,
    "weight": NUM_WEIGHTS,
    "shear": NUM_SHEARS,
    "polarity": 2,
    "outline": 2,
    "texture": NUM_TEXTURES,
    "resolution": NUM_RESOLUTIONS,
}
"""Number of classes of every classification target."""

_RESOLUTIONS = (8, 8, 8, 10, 12, 16)
_MAX_ANGLE = math.radians(28.0)
_MAX_SHEAR = 0.5


@dataclass(frozen=True)
class RenderedBatch:
    """Images with everything that is known about them.

    Attributes:
        images: (B, 3, H, W), values in 0..1.
        coverage: (B, 1, H, W), the clean drawing without colour, in 0..1.
        targets: name to (B,) class indices; see `TARGETS`.
    """

    images: Tensor
    coverage: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class RenderSettings:
    """Shares of the images at difficulty 1.

    Attributes:
        plain: White or grey on black.
        coarse: Resampled to 8 to 16 px and back; more pixels on canvases of 96 px and up.
        blurred: Blurred over 3 px, of those that are not coarse.
    """

    plain: float = 0.35
    coarse: float = 0.45
    blurred: float = 0.2


class CellRenderer:
    """Renders pictures of the drawings in an atlas.

    Every symbol is as likely as every other, however many drawings it has.

    Args:
        cells: (A, 64, 64) uint8 drawings.
        symbols: (A,) symbol of each.
        settings: what the pictures look like.
    """

    def __init__(self, cells: Tensor, symbols: Tensor, settings: RenderSettings) -> None:
        self.cells = cells
        self.symbols = symbols
        self.settings = settings
        counts = torch.bincount(symbols).float()
        self._cumulative = (1.0 / counts[symbols]).cumsum(0)

    def choose(self, count: int, random: torch.Generator) -> Tensor:
        """(count,) drawings."""
        draws = torch.rand(count, generator=random) * self._cumulative[-1]
        return torch.searchsorted(self._cumulative, draws).clamp_(max=len(self.symbols) - 1)

    def paint(
        self, chosen: Tensor, *, size: int, difficulty: float, random: torch.Generator
    ) -> RenderedBatch:
        """Pictures of the chosen drawings; the targets are those that rendering decides."""
        targets: dict[str, Tensor] = {}
        cells = self.cells[chosen].unsqueeze(1).float().div_(255.0)
        cells = _restroke(cells, targets, difficulty, random)
        coverage = _warp(cells, size, targets, difficulty, random)
        plain = 1.0 - (1.0 - self.settings.plain) * difficulty
        images = _colour(coverage, targets, plain, random)
        images = _degrade(images, targets, self.settings, difficulty, random)
        return RenderedBatch(images, coverage, targets)

    def draw(self, count: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """(images (count, 3, size, size), symbols (count,)) at full difficulty."""
        chosen = self.choose(count, random)
        batch = self.paint(chosen, size=size, difficulty=1.0, random=random)
        return batch.images, self.symbols[chosen]


class GlyphRenderer:
    """Renders batches as a pure function of its settings and the arguments of `render`."""

    def __init__(self, seed: int = 0, settings: RenderSettings | None = None) -> None:
        self.seed = seed
        self.settings = settings or RenderSettings()
        cells, symbols, self._fonts = _build_atlas()
        self._renderer = CellRenderer(cells, symbols, self.settings)

    def render(
        self, batch_size: int, *, size: int = 32, difficulty: float = 1.0, step: int = 0
    ) -> RenderedBatch:
        """A fresh batch of square images.

        Args:
            batch_size: Number of images.
            size: Side of the images in pixels.
            difficulty: 0 is white on black, upright and clean; 1 is the full range of colours,
                textures, warps, strokes and resolutions. A part of the images stays white on
                black at every difficulty.
            step: With the seed, determines every random choice.

        Raises:
            ValueError: If the difficulty is outside 0..1.
        """
        if not 0.0 <= difficulty <= 1.0:
            raise ValueError(f"difficulty {difficulty} is outside 0..1")
        random = torch.Generator().manual_seed(mix_seed(self.seed, step))
        chosen = self._renderer.choose(batch_size, random)
        batch = self._renderer.paint(chosen, size=size, difficulty=difficulty, random=random)
        targets = {"symbol": self._renderer.symbols[chosen], "font": self._fonts[chosen]}
        return RenderedBatch(batch.images, batch.coverage, targets | batch.targets)


def mix_seed(seed: int, step: int) -> int:
    """One generator seed for a step of a run; the generator reads 32 bits of it, no more."""
    return (seed * 0x9E3779B1 + step) % 2**32


def _uniform(random: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low


def _bins(values: Tensor, low: float, high: float, count: int) -> Tensor:
    return ((values - low) / (high - low) * count).long().clamp_(0, count - 1)


def _restroke(
    cells: Tensor, targets: dict[str, Tensor], difficulty: float, random: torch.Generator
) -> Tensor:
    """Changes the stroke weight, and draws some symbols as contours, by blur and threshold."""
    count = len(cells)
    blurred = F.avg_pool2d(F.avg_pool2d(cells, 5, 1, 2), 3, 1, 1)
    lightness = _uniform(random, count, high=difficulty)
    threshold = (0.42 - 0.26 * lightness).view(-1, 1, 1, 1)
    filled = ((blurred - threshold) / 0.16 + 0.5).clamp_(0.0, 1.0)
    contour = (1.6 - (blurred - 0.35).abs() / 0.16).clamp_(0.0, 1.0)
    restroked = torch.rand(count, generator=random) < 0.8
    outlined = torch.rand(count, generator=random) < 0.12 * difficulty
    targets["weight"] = torch.where(
        restroked & ~outlined, _bins(lightness, 0.0, 1.0, NUM_WEIGHTS), IGNORED
    )
    targets["outline"] = outlined.long()
    strokes = torch.where(restroked.view(-1, 1, 1, 1), filled, cells)
    return torch.where(outlined.view(-1, 1, 1, 1), contour, strokes)


def _warp(
    cells: Tensor,
    size: int,
    targets: dict[str, Tensor],
    difficulty: float,
    random: torch.Generator,
) -> Tensor:
    """Places the cells on the canvas by one affine and one elastic warp; (B, 1, size, size)."""
    count = len(cells)
    strength = 0.35 + 0.65 * difficulty
    angle = _uniform(random, count, low=-1.0, high=1.0) * _MAX_ANGLE * strength
    shear = _uniform(random, count, low=-1.0, high=1.0) * _MAX_SHEAR * strength
    # Share of the canvas that the longest side spans. Larger canvases also hold small symbols.
    smallest = min(0.62, 20.0 / size) if difficulty > 0.5 else 0.7
    extent = _uniform(random, count, low=math.log(smallest), high=math.log(1.02)).exp()
    aspect = (_uniform(random, count, low=-0.35, high=0.35) * strength).exp()
    targets["angle"] = _bins(angle, -_MAX_ANGLE, _MAX_ANGLE, NUM_ANGLES)
    targets["shear"] = _bins(shear, -_MAX_SHEAR, _MAX_SHEAR, NUM_SHEARS)
    targets["scale"] = _bins(extent.log(), math.log(20.0 / 96.0), math.log(1.02), NUM_SCALES)

    shift = _uniform(random, count, 2, low=-1.0, high=1.0) * (1.08 - extent).clamp(0.06).view(-1, 1)
    # From canvas coordinates to cell coordinates: the inverse of shear, rotation and scale.
    zoom = GLYPH_EXTENT / ATLAS_SIZE / extent
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    top = torch.stack([cosine * aspect.sqrt(), (sine + shear * cosine) * aspect.sqrt()], 1)
    bottom = torch.stack([-sine / aspect.sqrt(), (cosine - shear * sine) / aspect.sqrt()], 1)
    matrix = torch.stack([top, bottom], 1)
    offset = -(matrix @ shift.unsqueeze(2))
    grid = F.affine_grid(torch.cat([matrix, offset], 2), [count, 1, size, size], False)
    bend = torch.randn(count, 2, 4, 4, generator=random)
    bend *= _uniform(random, count, 1, 1, 1, high=0.13 * difficulty)
    field = F.interpolate(bend, size=(size, size), mode="bicubic", align_corners=True)
    return F.grid_sample(cells, grid + field.permute(0, 2, 3, 1), "bilinear", "zeros", False)


def _texture(count: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Textures around zero, (B, 1, size, size), and their kind: flat, gradient, stripes, noise."""
    kind = torch.randint(NUM_TEXTURES, (count,), generator=random)
    axis = torch.linspace(-1.0, 1.0, size)
    direction = _uniform(random, count, high=2.0 * math.pi).view(-1, 1, 1)
    ramp = axis.view(1, 1, -1) * direction.cos() + axis.view(1, -1, 1) * direction.sin()
    frequency = _uniform(random, count, low=1.0, high=7.0).view(-1, 1, 1)
    phase = _uniform(random, count, high=2.0 * math.pi).view(-1, 1, 1)
    stripes = (math.pi * frequency * ramp + phase).sin()
    cells = int(torch.randint(3, 1 + size // 3, (), generator=random))
    noise = torch.randn(count, 1, cells, cells, generator=random) * 0.6
    noise = F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    fields = torch.stack([torch.zeros_like(ramp), ramp, stripes, noise], 1)
    return fields.gather(1, kind.view(-1, 1, 1, 1).expand(-1, 1, size, size)), kind


def _colour(
    coverage: Tensor, targets: dict[str, Tensor], plain_share: float, random: torch.Generator
) -> Tensor:
    """Paints coverage with two contrasting colours and textures; the plain part stays white."""
    count, _, size, _ = coverage.shape
    plain = torch.rand(count, generator=random) < plain_share
    tint_ink = _uniform(random, count, 3, 1, 1, low=-0.3, high=0.3)
    tint_paper = _uniform(random, count, 3, 1, 1, low=-0.3, high=0.3)
    middle = _uniform(random, count, 1, 1, 1, low=0.3, high=0.7)
    contrast = _uniform(random, count, 1, 1, 1, low=0.22, high=0.5)
    dark = torch.rand(count, generator=random) < 0.5
    signed = torch.where(dark.view(-1, 1, 1, 1), -contrast, contrast)
    ink = (middle + signed + tint_ink).clamp(0.0, 1.0)
    paper = (middle - signed + tint_paper).clamp(0.0, 1.0)
    texture, kind = _texture(count, size, random)
    grain, _ = _texture(count, size, random)
    # Textures stay weaker than the contrast, or nothing could tell the drawing from its ground.
    paper = paper + texture * contrast * _uniform(random, count, 1, 1, 1, low=0.3, high=0.9)
    ink = ink + grain * contrast * _uniform(random, count, 1, 1, 1, high=0.5)
    painted = (paper + (ink - paper) * coverage).clamp(0.0, 1.0)
    brightness = _uniform(random, count, 1, 1, 1, low=0.6, high=1.0)
    white = (coverage * brightness).expand(-1, 3, -1, -1)
    targets["polarity"] = torch.where(plain, 0, dark.long())
    targets["texture"] = torch.where(plain, 0, kind)
    return torch.where(plain.view(-1, 1, 1, 1), white, painted)


def _degrade(
    images: Tensor,
    targets: dict[str, Tensor],
    settings: RenderSettings,
    difficulty: float,
    random: torch.Generator,
) -> Tensor:
    """Blurs or resamples a part of the images, in groups that share a setting, and adds noise."""
    count, _, size, _ = images.shape
    groups = []
    resolution = torch.zeros(count, dtype=torch.long)
    start = 0
    for group in torch.split(images, max(1, -(-count // 8))):
        choice, mode, row = torch.rand(3, generator=random).tolist()
        if choice < settings.coarse * difficulty:
            low = _RESOLUTIONS[int(row * len(_RESOLUTIONS))] * max(1, size // 48)
            group = _resample(group, low, ("bilinear", "bicubic")[mode < 0.6])
            resolution[start : start + len(group)] = 2 if low <= 10 * max(1, size // 48) else 1
        elif choice < (settings.coarse + settings.blurred) * difficulty:
            group = F.avg_pool2d(group, 3, 1, 1, count_include_pad=False)
        groups.append(group)
        start += len(group)
    targets["resolution"] = resolution
    degraded = torch.cat(groups)
    amount = _uniform(random, count, 1, 1, 1, high=0.08 * difficulty)
    amount *= (torch.rand(count, 1, 1, 1, generator=random) < 0.5).float()
    noise = torch.randn(count, 1, size, size, generator=random)
    return (degraded + amount * noise).clamp(0.0, 1.0)


def _resample(images: Tensor, low: int, mode: str) -> Tensor:
    small = F.interpolate(images, size=(low, low), mode="area")
    return F.interpolate(small, size=images.shape[-2:], mode=mode, align_corners=False)


@lru_cache(maxsize=1)
def _build_atlas() -> tuple[Tensor, Tensor, Tensor]:
    """Cells (A, 64, 64) uint8, their symbol index (A,) and their font index (A,)."""
    cells, symbols, fonts = draw_characters(GLYPHS)
    doodles = [_draw_doodles(doodle, count=24) for doodle in range(NUM_DOODLES)]
    numbers = torch.tensor([len(GLYPHS) + d for d, drawn in enumerate(doodles) for _ in drawn])
    drawings = torch.stack([cell for drawn in doodles for cell in drawn])
    no_font = torch.full_like(numbers, IGNORED)
    return (
        torch.cat([cells, drawings]),
        torch.cat([symbols, numbers]),
        torch.cat([fonts, no_font]),
    )


def draw_characters(characters: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Characters in every font that has them.

    Returns:
        Cells (A, 64, 64) uint8, the position of each in `characters` (A,), its font in `FONTS`.
    """
    cells: list[Tensor] = []
    symbols: list[int] = []
    fonts: list[int] = []
    for font_index, name in enumerate(FONTS):
        for symbol, character in _characters(name, characters):
            cells.append(_draw_glyph(name.partition(":")[0], character))
            symbols.append(symbol)
            fonts.append(font_index)
    return torch.stack(cells), torch.tensor(symbols), torch.tensor(fonts)


def _font_path(file: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"


def _characters(font: str, characters: Sequence[str]) -> list[tuple[int, str]]:
    """Pairs of position and the character that draws it in this font; missing ones left out."""
    file, _, alphabet = font.partition(":")
    available = FT2Font(str(_font_path(file))).get_charmap()
    pairs = []
    for index, glyph in enumerate(characters):
        character = _in_alphabet(glyph, alphabet) if alphabet else glyph
        if character is not None and ord(character) in available:
            pairs.append((index, character))
    return pairs


def _in_alphabet(glyph: str, alphabet: str) -> str | None:
    """The letter's form in a mathematical alphabet, or None where there is none."""
    if glyph not in _LATIN:
        return None
    case = "CAPITAL" if glyph.isupper() else "SMALL"
    older = alphabet.replace("FRAKTUR", "BLACK-LETTER")
    for prefix in (f"MATHEMATICAL {alphabet}", older):
        try:
            return unicodedata.lookup(f"{prefix} {case} {glyph.upper()}")
        except KeyError:
            continue
    return None


@lru_cache(maxsize=32)
def _open_font(file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_path(file)), 2 * GLYPH_EXTENT)


def _draw_glyph(file: str, character: str) -> Tensor:
    canvas = Image.new("L", (8 * GLYPH_EXTENT, 8 * GLYPH_EXTENT))
    position = (2 * GLYPH_EXTENT, 2 * GLYPH_EXTENT)
    ImageDraw.Draw(canvas).text(position, character, fill=255, font=_open_font(file))
    return fit_drawing(canvas)


def fit_drawing(canvas: Image.Image) -> Tensor:
    """The drawing's bounding box, scaled to `GLYPH_EXTENT` and centred in a cell."""
    box = canvas.getbbox()
    assert box is not None, "the drawing is empty"
    drawing = canvas.crop(box)
    ratio = GLYPH_EXTENT / max(drawing.size)
    width, height = (max(1, round(side * ratio)) for side in drawing.size)
    drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
    cell = Image.new("L", (ATLAS_SIZE, ATLAS_SIZE))
    cell.paste(drawing, ((ATLAS_SIZE - width) // 2, (ATLAS_SIZE - height) // 2))
    return torch.frombuffer(bytearray(cell.tobytes()), dtype=torch.uint8).view(
        ATLAS_SIZE, ATLAS_SIZE
    )


def _draw_doodles(doodle: int, *, count: int) -> list[Tensor]:
    """Variants of one doodle: the same cubic strokes with jittered control points."""
    random = torch.Generator().manual_seed(7919 * (_DOODLE_SEEDS[doodle] + 1))
    anchors = torch.rand(DOODLE_STROKES, 4, 2, generator=random)
    variants = []
    for _ in range(count):
        points = anchors + 0.045 * torch.randn(anchors.shape, generator=random)
        width = int(torch.randint(14, 34, (), generator=random))
        canvas = Image.new("L", (8 * GLYPH_EXTENT, 8 * GLYPH_EXTENT))
        for stroke in points.tolist():
            _draw_stroke(canvas, stroke, width)
        variants.append(fit_drawing(canvas))
    return variants


def _draw_stroke(canvas: Image.Image, control: Sequence[Sequence[float]], width: int) -> None:
    """A cubic Bezier curve with round ends, control points in 0..1."""
    times = torch.linspace(0.0, 1.0, 24)
    weights = torch.stack(
        [(1 - times) ** 3, 3 * times * (1 - times) ** 2, 3 * times**2 * (1 - times), times**3], 1
    )
    margin, span = GLYPH_EXTENT, 6 * GLYPH_EXTENT
    path = [(x, y) for x, y in (weights @ torch.tensor(control) * span + margin).tolist()]
    draw = ImageDraw.Draw(canvas)
    draw.line(path, fill=255, width=width, joint="curve")
    for x, y in (path[0], path[-1]):
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)
