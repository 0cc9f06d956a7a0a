"""Small data sets in COCO's format, made on the spot: coloured rectangles on grey noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vpt.data.descriptor import Descriptor

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
CATEGORIES = {3: "red", 7: "green", 20: "blue"}  # with gaps, as COCO's own

Content = dict[str, Any]


def make_coco(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "val"),
    images: int = 6,
    boxes: int = 3,
    size: tuple[int, int] = (60, 90),
    categories: dict[int, str] | None = None,
    seed: int = 0,
    change: dict[str, Callable[[Content], None]] | None = None,
) -> Path:
    """root/images/<split>/<i>.png and root/annotations/<split>.json.

    Each object is a rectangle that fills its box, in the colour of its class; they do not overlap.
    The last image of each split is empty. Annotation ids count from 1.

    Args:
        root: folder to make it in.
        splits: their names.
        images: per split.
        boxes: per image, at most; they lie side by side.
        size: (H, W) of the first image; the others are a little wider each.
        categories: id -> name.
        seed: of all that is random.
        change: for some splits, what to spoil in the JSON's content before it is written.
    """
    names = CATEGORIES if categories is None else categories
    (root / "annotations").mkdir(parents=True)
    for number, split in enumerate(splits):
        (root / "images" / split).mkdir(parents=True)
        random = np.random.default_rng((seed, number))
        content: Content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": key, "name": name} for key, name in names.items()],
        }
        for index in range(images):
            height, width = size[0], size[1] + 2 * index
            name = f"{split}/{index:03d}.png"
            found = [] if index == images - 1 else _objects(random, height, width, boxes)
            labels = random.integers(0, len(names), len(found)).tolist()
            if index == 0:
                labels = [label % len(names) for label in range(len(found))]  # every class
            draw_objects((height, width), found, labels, random).save(root / "images" / name)
            image_id = 100 + 3 * index
            content["images"].append(
                {"id": image_id, "file_name": name, "height": height, "width": width}
            )
            for (x1, y1, x2, y2), label in zip(found, labels, strict=True):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": list(names)[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        if change and split in change:
            change[split](content)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def coco_descriptor(root: Path, **fields: Any) -> Descriptor:
    """The descriptor of what `make_coco` made."""
    return Descriptor.model_validate(
        {"name": "shapes", "format": "coco", "root": root, "images": "images", **fields}
    )


def draw_objects(
    size: tuple[int, int],
    boxes: list[tuple[int, int, int, int]],
    labels: list[int],
    random: np.random.Generator,
) -> Image.Image:
    """Rectangles of full colour on dark noise; boxes xyxy, the right and lower edge outside."""
    noise = random.integers(20, 60, (*size, 1)).astype(np.uint8)
    image = Image.fromarray(np.repeat(noise, 3, axis=2))
    draw = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[label % len(COLOURS)])
    return image


def _objects(
    random: np.random.Generator, height: int, width: int, boxes: int
) -> list[tuple[int, int, int, int]]:
    """One box in each of `boxes` columns."""
    found = []
    column = width // boxes
    for place in range(boxes):
        w = int(random.integers(column // 3, column - 2))
        h = int(random.integers(height // 4, height - 4))
        x = place * column + int(random.integers(0, column - w))
        y = int(random.integers(0, height - h))
        found.append((x, y, x + w, y + h))
    return found
