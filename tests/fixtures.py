"""Small image files and data sets, made on the spot."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_image(seed: int = 0, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Noise with a smooth gradient below it, so that JPEG has something to keep; size (W, H)."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 80, (height, width, 3))
    ramp = np.linspace(0, 170, width).astype(np.int64)[None, :, None]
    return Image.fromarray((noise + ramp).astype(np.uint8))


def make_folder(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "val", "test"),
    classes: int = 2,
    images: int = 3,
) -> Path:
    """root/<split>/class_<c>/<i>.png, every image another one."""
    for number, split in enumerate(splits):
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index in range(images):
                seed = (number * classes + label) * images + index
                make_image(seed).save(folder / f"{index}.png")
    return root


def make_cub(root: Path, *, classes: int = 3, train: int = 10, test: int = 4) -> Path:
    """The layout of CUB-200-2011: per class, the first `train` images are for training."""
    lists: dict[str, list[str]] = {
        "classes": [],
        "images": [],
        "image_class_labels": [],
        "train_test_split": [],
    }
    number = 0
    for label in range(1, classes + 1):
        name = f"{label:03d}.Bird_{label}"
        lists["classes"].append(f"{label} {name}")
        (root / "images" / name).mkdir(parents=True)
        for index in range(train + test):
            number += 1
            key = f"{name}/Bird_{label}_{index:04d}.jpg"
            make_image(number, (20 + index, 24)).save(root / "images" / key)
            lists["images"].append(f"{number} {key}")
            lists["image_class_labels"].append(f"{number} {label}")
            lists["train_test_split"].append(f"{number} {int(index < train)}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root
