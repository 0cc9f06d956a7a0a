"""Pictures composed of real digit scans on rendered backgrounds, with their boxes in COCO's format.

Every scan lies in one split only, so that digits of the test pictures are new to a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpt.data.loading.loader import load_sample
from vpt.data.splits import Split, SplitName, Splits
from vpt.errors import DataError

_INK = 0.3  # of the stroke's strength: what counts as inside the box
_COVERED = 0.3  # of a digit's box that another may cover, at most
_TRIES = 30


@dataclass(frozen=True)
class SceneSettings:
    """What a picture holds.

    Attributes:
        side: pixels of the square picture.
        digits: least and most digits of a picture.
        heights: least and most pixels of a digit's scan, drawn uniformly in the logarithm.
        counts: pictures of each split.
        seed: of everything random.
    """

    side: int
    digits: tuple[int, int]
    heights: tuple[float, float]
    counts: dict[SplitName, int]
    seed: int = 0


def write_scenes(digits: Splits, settings: SceneSettings, folder: Path) -> Path:
    """Pictures, one annotation file per split, and the descriptor that reads them.

    Args:
        digits: scans in memory, of 8 x 8 pixels, with a split for each of `settings.counts`.
        settings: what a picture holds.
        folder: new or empty.

    Returns:
        The path of the descriptor, `folder/scenes.yaml`.
    """
    for part, (name, count) in enumerate(settings.counts.items()):
        _write_split(digits.require(name), name, count, settings, folder, part)
    files = "".join(f"  {name}: {name}.json\n" for name in settings.counts)
    descriptor = folder / "scenes.yaml"
    descriptor.write_text(
        f"name: Scenes of digits\nformat: coco\nroot: {json.dumps(str(folder.resolve()))}\n"
        f"images: images\nsplits:\n{files}metric: ap\nlicence: CC BY 4.0, as the scans\n"
        "source: composed from the digit scans of scikit-learn\n"
    )
    return descriptor


def _write_split(
    scans: Split, name: str, count: int, settings: SceneSettings, folder: Path, part: int
) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images" / name).mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        random = np.random.default_rng((settings.seed, part, number))
        pixels, boxes, labels = compose(scans, settings, random)
        file = f"{name}/{number:05d}.png"
        Image.fromarray(pixels).save(folder / "images" / file)
        images.append(
            {"id": number, "file_name": file, "width": settings.side, "height": settings.side}
        )
        for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": row + 1, "name": word} for row, word in enumerate(scans.class_names)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(data))


def compose(
    scans: Split, settings: SceneSettings, random: np.random.Generator
) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]], list[int]]:
    """One picture (S, S, 3), the boxes (x1, y1, x2, y2) of its digits and their labels.

    A digit that finds no place beside the others is left out; the first always finds one.
    """
    canvas = _background(settings.side, random)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(random.integers(settings.digits[0], settings.digits[1] + 1)):
        row = int(random.integers(len(scans)))
        stroke = _stroke(load_sample(scans, scans.samples[row]), settings.heights, random)
        place = _place(stroke, boxes, settings.side, random)
        if place is not None:
            boxes.append(_paint(canvas, stroke, place, random))
            labels.append(scans.labels[row])
    return np.rint(canvas).astype(np.uint8), boxes, labels


def _background(side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Soft patches of colour with stripes and grain, (S, S, 3) in 0..255."""
    cells = int(random.integers(2, 6))
    tint = random.uniform(40, 215, size=3)
    patches = np.clip(tint + random.normal(0, 28, size=(cells, cells, 3)), 0, 255)
    small = Image.fromarray(patches.astype(np.uint8))
    canvas = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)
    angle, period = random.uniform(0, np.pi), random.uniform(6, 24)
    y, x = np.mgrid[:side, :side]
    stripes = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    canvas += (random.uniform(0, 12) * stripes)[..., None]
    canvas += random.normal(0, random.uniform(0, 8), size=canvas.shape)
    return np.clip(canvas, 0, 255)


def _stroke(
    scan: Image.Image, heights: tuple[float, float], random: np.random.Generator
) -> NDArray[np.float64]:
    """A scan at a random size and width, cut to its ink; (H, W) in 0..1."""
    height = float(np.exp(random.uniform(*np.log(heights))))
    size = (max(8, round(height * random.uniform(0.75, 1.1))), max(8, round(height)))
    large = scan.convert("L").resize(size, Image.Resampling.BICUBIC)
    ink = np.asarray(large).astype(np.float64) / 255
    rows, columns = np.nonzero((ink > _INK).any(1))[0], np.nonzero((ink > _INK).any(0))[0]
    if len(rows) == 0:
        raise DataError(f"a scan has no ink brighter than {_INK:.0%} of white: nothing to be found")
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    stroke: NDArray[np.float64],
    boxes: list[tuple[int, int, int, int]],
    side: int,
    random: np.random.Generator,
) -> tuple[int, int] | None:
    """Left and top where no digit covers too much of another; None if there is no such place."""
    height, width = stroke.shape
    for _ in range(_TRIES):
        left = int(random.integers(0, side - width + 1))
        top = int(random.integers(0, side - height + 1))
        new = (left, top, left + width, top + height)
        if all(_covered(new, old) <= _COVERED for old in boxes):
            return left, top
    return None


def _covered(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """The common area as a share of the smaller box."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0, width) * max(0, height) / min(areas)


def _paint(
    canvas: NDArray[np.float64],
    stroke: NDArray[np.float64],
    place: tuple[int, int],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Blend a stroke into the canvas, dark on light or light on dark; its box."""
    left, top = place
    height, width = stroke.shape
    under = canvas[top : top + height, left : left + width]
    light = under.mean() < 127.5
    colour = random.uniform(190, 255, size=3) if light else random.uniform(0, 65, size=3)
    under += stroke[..., None] * (colour - under)
    return left, top, left + width, top + height
