"""Tiny multi-label pictures: coloured squares on grey, every picture with any set of colours."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (40, 190, 60), "red": (220, 40, 40)}


def make_squares(
    root: Path, *, copies: int = 2, splits: tuple[str, ...] = ("train", "val")
) -> Path:
    """root/<split>/<i>.png of 32 px with every set of colours `copies` times; its descriptor.

    Each split has a CSV file, root/<split>.csv, of the columns path and tags.
    """
    for number, split in enumerate(splits):
        (root / split).mkdir(parents=True)
        random = np.random.default_rng(number)
        rows = []
        for index, present in enumerate(list(itertools.product((0, 1), repeat=3)) * copies):
            names = [name for name, there in zip(COLOURS, present, strict=True) if there]
            path = f"{split}/{index:03d}.png"
            _draw(names, random).save(root / path)
            rows.append((path, "|".join(names)))
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "tags"), *rows])
    descriptor = root / "squares.yaml"
    columns = "columns: {labels: tags, separator: '|'}"
    descriptor.write_text(f"name: squares\nformat: csv\nroot: {root}\n{columns}\n")
    return descriptor


def _draw(names: list[str], random: np.random.Generator) -> Image.Image:
    pixels = random.integers(90, 140, (32, 32, 3)).astype(np.uint8)
    corners = random.permutation(4)
    for name, corner in zip(names, corners, strict=False):
        top, left = 16 * (corner // 2) + 3, 16 * (corner % 2) + 3
        pixels[top : top + 10, left : left + 10] = COLOURS[name]
    return Image.fromarray(pixels)
