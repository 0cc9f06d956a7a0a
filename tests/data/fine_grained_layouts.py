"""Small data sets in the layouts in which the fine-grained and common sets are published.

Each maker fills a folder, the data set's root, and gives how many images train, val and test have
before any cut.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.data.coop_layouts import write_image
from tests.fixtures import make_cub

Sizes = tuple[int, int, int]


def cell(texts: list[str]) -> np.ndarray:
    """A MATLAB cell array of texts, as a column."""
    values = np.empty((len(texts), 1), dtype=object)
    values[:, 0] = texts
    return values


def make_nabirds(root: Path) -> Sizes:
    """Class ids with gaps, two of one name, and two that have no images."""
    classes = {
        0: "Birds",
        2: "Ducks",
        295: "Wren (Adult)",
        817: "Oak Titmouse",
        1010: "Oak Titmouse",
    }
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for label in (295, 817, 1010):
        for index in range(13):
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{label} {index}")
            key = f"{label:04d}/{name.hex}.jpg"
            write_image(root / "images" / key, seed=label + index)
            lists["images"].append(f"{name} {key}")
            lists["image_class_labels"].append(f"{name} {label}")
            lists["train_test_split"].append(f"{name} {int(index < 10)}")
    lists["classes"] = [f"{number} {name}" for number, name in classes.items()]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return 30, 0, 9


def make_cub_200(root: Path) -> Sizes:
    make_cub(root)
    return 30, 0, 12


def make_flowers102(root: Path, classes: int = 102) -> Sizes:
    """Four images per class: one for train, one for val, two for test; not in order."""
    labels = np.array([[1 + image % classes for image in range(4 * classes)]], dtype=np.uint8)
    for image in range(1, 4 * classes + 1):
        write_image(root / "jpg" / f"image_{image:05d}.jpg", seed=image)
    numbers = np.arange(1, 4 * classes + 1, dtype=np.uint16)[None]
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(
        root / "setid.mat",
        {
            "tstid": numbers[:, : 2 * classes],
            "valid": numbers[:, 2 * classes : 3 * classes],
            "trnid": numbers[:, 3 * classes :][:, ::-1],
        },
    )
    return classes, classes, 2 * classes


DOGS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02116738-African_hunting_dog")


def make_stanford_dogs(root: Path) -> Sizes:
    for split, numbers in (("train", range(10)), ("test", range(10, 14))):
        files, labels = [], []
        for label, folder in enumerate(DOGS, start=1):
            for number in numbers:
                files.append(f"{folder}/{folder.partition('-')[0]}_{number}.jpg")
                labels.append(float(label))
                write_image(root / "Images" / files[-1], seed=100 * label + number)
        annotations = [file.removesuffix(".jpg") for file in files]
        table = {
            "file_list": cell(files),
            "annotation_list": cell(annotations),
            "labels": np.array(labels)[:, None],
        }
        savemat(root / f"{split}_list.mat", table)
    savemat(root / "file_list.mat", {"file_list": cell(DOGS)})
    return 30, 0, 12


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")


def make_stanford_cars(root: Path) -> Sizes:
    kinds = [
        (name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    ]
    (root / "devkit").mkdir(parents=True)
    places = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, count in (("train", 30), ("test", 12)):
        table = np.empty((1, count), dtype=kinds)
        for number in range(count):
            name = f"{number + 1:05d}.jpg"
            label = np.array([[1 + number % 3]], dtype=np.uint8)
            box = [np.array([[value]], dtype=np.uint16) for value in (1, 2, 9, 8)]
            table[0, number] = (*box, label, name)
            write_image(root / f"cars_{split}" / name, seed=number)
        savemat(root / places[split], {"annotations": table})
    savemat(root / "devkit/cars_meta.mat", {"class_names": cell(list(CARS)).T})
    return 30, 0, 12


AIRCRAFT = ("707-320", "BAE 146-200", "F/A-18")


def make_fgvc_aircraft(root: Path) -> Sizes:
    (root / "data").mkdir(parents=True)
    (root / "data/variants.txt").write_text("".join(f"{name}\n" for name in AIRCRAFT))
    number = 1025794
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        lines = []
        for index in range(count):
            number += 7
            lines.append(f"{number:07d} {AIRCRAFT[index % 3]}")
            write_image(root / "data/images" / f"{number:07d}.jpg", seed=number)
        (root / f"data/images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    return 6, 3, 3


PETS = ("Abyssinian", "american_bulldog", "Bengal")


def make_oxford_pets(root: Path) -> Sizes:
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("trainval", range(1, 11)), ("test", range(100, 104))):
        lines = []
        for label, name in enumerate(PETS, start=1):
            for number in numbers:
                lines.append(f"{name}_{number} {label} {1 + (label == 2)} 1")
                write_image(root / "images" / f"{name}_{number}.jpg", seed=100 * label + number)
        (root / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")
    return 30, 0, 12


def make_cifar100(root: Path) -> Sizes:
    """Image i of a file has red i, green 100 + i, blue 200 everywhere but its first pixel."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n\n")
    for name, count in (("train", 30), ("test", 6)):
        records = np.zeros((count, 3074), dtype=np.uint8)
        for index in range(count):
            planes = np.repeat([index, 100 + index, 200], 1024).reshape(3, 32, 32)
            planes[0, 0, 1] = 255
            records[index] = [index % 2, index % 3, *planes.reshape(-1)]
        records.tofile(root / f"{name}.bin")
    return 30, 0, 6


def make_svhn(root: Path) -> Sizes:
    root.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 100), ("test", 20)):
        images = np.zeros((32, 32, 3, count), dtype=np.uint8)
        images[..., :] = np.arange(count)
        images[0, 1, 2, :] = 255
        labels = np.array([[1 + index % 10] for index in range(count)], dtype=np.uint8)
        savemat(root / f"{name}_32x32.mat", {"X": images, "y": labels})
    return 100, 0, 20


def make_food101(root: Path) -> Sizes:
    names = ("apple_pie", "pho", "waffles")
    (root / "meta").mkdir(parents=True)
    (root / "meta/classes.txt").write_text("".join(f"{name}\n" for name in names))
    return (_make_lists(root, names, {"train": 10, "test": 4}, "meta/{}.txt", suffix=""))[:3]


def make_dtd_split1(root: Path) -> Sizes:
    counts = {"train": 2, "val": 2, "test": 2}
    (root / "labels").mkdir(parents=True)
    return _make_lists(root, ("banded", "polka-dotted"), counts, "labels/{}1.txt", suffix=".jpg")


def _make_lists(
    root: Path, names: tuple[str, ...], counts: dict[str, int], file: str, suffix: str
) -> Sizes:
    number = 0
    for split, count in counts.items():
        lines = []
        for name in names:
            for _ in range(count):
                number += 1
                write_image(root / "images" / name / f"{number}.jpg", seed=number)
                lines.append(f"{name}/{number}{suffix}")
        (root / file.format(split)).write_text("\n".join(lines) + "\n")
    sizes = [counts.get(split, 0) * len(names) for split in ("train", "val", "test")]
    return sizes[0], sizes[1], sizes[2]


MAKERS: dict[str, Callable[[Path], Sizes]] = {
    "cub_200_2011": make_cub_200,
    "nabirds": make_nabirds,
    "flowers102": make_flowers102,
    "stanford_dogs": make_stanford_dogs,
    "stanford_cars": make_stanford_cars,
    "fgvc_aircraft": make_fgvc_aircraft,
    "oxford_pets_official": make_oxford_pets,
    "cifar100": make_cifar100,
    "svhn": make_svhn,
    "food101": make_food101,
    "dtd_split1": make_dtd_split1,
}
"""By the name of the descriptor."""
