"""Small data sets in the layouts of CoOp, made on the spot."""

import json
from pathlib import Path
from typing import Any

from tests.fixtures import make_image


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_image(seed).save(path)


def make_split_zhou(
    root: Path, *, file: str, images: str, names: list[str], suffix: str = "jpg"
) -> dict[str, list[list[Any]]]:
    """Per class two images for train and one each for val and test, listed backwards in train."""
    content: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names):
        for index, split in enumerate(("train", "train", "val", "test")):
            path = f"folder_{label}/{index}.{suffix}"
            write_image(root / images / path, seed=4 * label + index)
            content[split].append([path, label, name])
    content["train"].reverse()
    (root / file).write_text(json.dumps(content), encoding="utf-8")
    return content


def make_imagenet(root: Path, names: dict[str, str], images: str = "images") -> Path:
    """Per class three images in train and two in val, and classnames.txt in `root`."""
    for number, wnid in enumerate(names):
        for split, count in (("train", 3), ("val", 2)):
            for index in range(count):
                path = root / images / split / wnid / f"{wnid}_{split}_{index}.JPEG"
                write_image(path, seed=5 * number + index)
    lines = [f"{wnid} {name}" for wnid, name in names.items()]
    (root / "classnames.txt").write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    return root
