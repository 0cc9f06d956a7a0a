"""Readers of the layouts in which the sets of birds, flowers, dogs, cars, aircraft, pets come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vpt.data.descriptor import Descriptor
from vpt.data.readers.matlab import integers, read_mat, texts
from vpt.data.readers.parts import Parts, check_files, check_unlike, class_names, hint, text_rows
from vpt.data.splits import Sample, SplitName
from vpt.errors import DataError
from vpt.registry import nearest

# CUB-200-2011 and NABirds


def read_cub(descriptor: Descriptor, root: Path) -> Parts:
    """Four lists by number: of the classes, the images, their classes, and which are for training.

    Wah et al. 2011.
    """
    _require(descriptor, root, *_BIRD_FILES)
    classes = _numbered(root / "classes.txt", "class_id class_name")
    return _read_birds(descriptor, root, classes, ids=re.compile(r"[0-9]{1,9}"))


def read_nabirds(descriptor: Descriptor, root: Path) -> Parts:
    """As CUB-200-2011, but images have UUIDs, and only some classes of the hierarchy have images.

    Those that have are numbered anew, in the order of their ids. Van Horn et al. 2015.
    """
    _require(descriptor, root, *_BIRD_FILES)
    listed = _numbered(root / "classes.txt", "class_id class_name")
    used = {class_id for _, (_, class_id) in _rows(root / "image_class_labels.txt")}
    classes = {class_id: name for class_id, name in listed.items() if class_id in used}
    counts = Counter(classes.values())
    told_apart = {
        class_id: name if counts[name] == 1 else f"{name} ({class_id})"
        for class_id, name in classes.items()
    }
    return _read_birds(descriptor, root, told_apart, ids=re.compile(r"[0-9a-fA-F-]{1,40}"))


_BIRD_FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")


def _read_birds(
    descriptor: Descriptor, root: Path, classes: dict[str, str], *, ids: re.Pattern[str]
) -> Parts:
    class_of = _table(root / "image_class_labels.txt", "image_id class_id", ids)
    is_train = _table(root / "train_test_split.txt", "image_id is_training_image", ids)
    labels = {class_id: label for label, class_id in enumerate(sorted(classes, key=int))}
    samples: dict[SplitName, list[Sample]] = {"train": [], "test": []}
    for image, key in _table(root / "images.txt", "image_id image_name", ids).items():
        class_id, train = class_of.get(image), is_train.get(image)
        if class_id not in labels:
            raise DataError(
                f"{root / 'image_class_labels.txt'}: image {image} has class {class_id}, "
                f"which is not in classes.txt ({len(labels)} classes)"
            )
        if train not in ("0", "1"):
            raise DataError(
                f"{root / 'train_test_split.txt'}: image {image} is marked {train}; use 1 or 0"
            )
        part: SplitName = "train" if train == "1" else "test"
        samples[part].append(Sample(root / "images" / key, labels[class_id], key))
    names = [classes[class_id] for class_id in labels]
    return _parts(descriptor, root / "classes.txt", names, samples)


def _numbered(path: Path, what: str) -> dict[str, str]:
    return _table(path, what, re.compile(r"[0-9]{1,9}"))


def _table(path: Path, what: str, ids: re.Pattern[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for where, (number, value) in _rows(path, what):
        if not ids.fullmatch(number):
            raise DataError(f"{where}: '{number}' is no id ('{what}' is expected)")
        if number in table:
            raise DataError(f"{where}: id {number} is listed twice")
        table[number] = value
    return table


def _rows(path: Path, what: str = "image_id class_id") -> list[tuple[str, list[str]]]:
    return text_rows(path, fields=2, what=what)


# Oxford 102 Flowers


def read_flowers102(descriptor: Descriptor, root: Path) -> Parts:
    """jpg/image_00001.jpg and on, imagelabels.mat with their classes, setid.mat with the splits.

    Nilsback and Zisserman 2008. The classes are numbered from 1 in the file; a descriptor's
    `classes` name them.
    """
    _require(descriptor, root, "imagelabels.mat", "setid.mat")
    file = root / "imagelabels.mat"
    labels = integers(file, "labels", read_mat(file, "labels")["labels"])
    count = len(set(labels))
    _check_numbers(file, "labels", labels, count)
    sets = read_mat(root / "setid.mat", "trnid", "valid", "tstid")
    samples: dict[SplitName, list[Sample]] = {}
    names: dict[SplitName, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
    for split, name in names.items():
        images = integers(root / "setid.mat", name, sets[name])
        _check_numbers(root / "setid.mat", name, images, len(labels))
        samples[split] = [
            Sample(root / key, labels[image - 1] - 1, key)
            for image in images
            for key in [f"jpg/image_{image:05d}.jpg"]
        ]
    return _parts(descriptor, file, [str(number) for number in range(1, count + 1)], samples)


def _check_numbers(path: Path, name: str, values: Iterable[int], count: int) -> None:
    if outside := [value for value in values if not 1 <= value <= count]:
        raise DataError(f"{path}: '{name}' has {outside[0]}, which is out of range: 1..{count}")


# Stanford Dogs


def read_stanford_dogs(descriptor: Descriptor, root: Path) -> Parts:
    """Images/<breed>/..., with lists of files and labels in train_list.mat and test_list.mat.

    Khosla et al. 2011.
    """
    _require(descriptor, root, "train_list.mat", "test_list.mat")
    samples: dict[SplitName, list[Sample]] = {}
    names: dict[int, str] = {}
    splits: tuple[SplitName, ...] = ("train", "test")
    for split in splits:
        file = root / f"{split}_list.mat"
        values = read_mat(file, "file_list", "labels")
        keys = texts(file, "file_list", values["file_list"])
        labels = integers(file, "labels", values["labels"])
        if len(keys) != len(labels):
            raise DataError(f"{file}: {len(labels)} labels for {len(keys)} files")
        for key, label in zip(keys, labels, strict=True):
            folder = _folder_of(file, key)
            if names.setdefault(label, folder) != folder:
                raise DataError(
                    f"{file}: label {label} is of '{folder}' and of '{names[label]}'; a label has "
                    "one folder"
                )
        samples[split] = [
            Sample(root / "Images" / key, label - 1, key)
            for key, label in zip(keys, labels, strict=True)
        ]
    file = root / "train_list.mat"
    _check_numbers(file, "labels", names, len(names))
    breeds = [names[label] for label in sorted(names)]
    parts = _parts(descriptor, file, breeds, samples)
    words = () if descriptor.classes else tuple(name.partition("-")[2] or name for name in breeds)
    return Parts(parts.class_names, parts.samples, words=words)


def _folder_of(file: Path, key: str) -> str:
    folder, slash, name = key.partition("/")
    if not (folder and slash and name) or ".." in key.split("/"):
        raise DataError(f"{file}: '{key[:80]}' is not 'class/image'")
    return folder


# Stanford Cars


def read_stanford_cars(descriptor: Descriptor, root: Path) -> Parts:
    """cars_train/ and cars_test/, with annotations in MATLAB files of the development kit.

    Krause et al. 2013. The labels of the test images were published later, in a file of their own.
    """
    files: dict[SplitName, str] = {
        "train": "devkit/cars_train_annos.mat",
        "test": "cars_test_annos_withlabels.mat",
    }
    _require(descriptor, root, "devkit/cars_meta.mat", *files.values())
    meta = root / "devkit/cars_meta.mat"
    names = texts(meta, "class_names", read_mat(meta, "class_names")["class_names"])
    samples: dict[SplitName, list[Sample]] = {}
    for split, name in files.items():
        file = root / name
        rows = read_mat(file, "annotations")["annotations"]
        images = texts(file, "fname", _column(file, rows, "fname"))
        labels = integers(file, "class", _column(file, rows, "class"))
        _check_numbers(file, "class", labels, len(names))
        if nested := [image for image in images if "/" in image]:
            raise DataError(f"{file}: '{nested[0][:80]}' is no file name")
        keys = [f"cars_{split}/{image}" for image in images]
        samples[split] = [
            Sample(root / key, label - 1, key) for key, label in zip(keys, labels, strict=True)
        ]
    return _parts(descriptor, meta, names, samples)


def _column(file: Path, rows: Any, field: str) -> list[Any]:
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and field in row for row in rows
    ):
        raise DataError(f"{file}: 'annotations' has no field '{field}'")
    return [row[field] for row in rows]


# FGVC-Aircraft


def read_fgvc_aircraft(descriptor: Descriptor, root: Path) -> Parts:
    """data/variants.txt with the classes, data/images_variant_<split>.txt with 'image variant'.

    Maji et al. 2013; the finest of its three levels, on its own three splits.
    """
    folder = root / "data"
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    lists = {split: f"data/images_variant_{split}.txt" for split in splits}
    _require(descriptor, root, "data/variants.txt", *lists.values())
    file = folder / "variants.txt"
    names = [name for _, (name,) in text_rows(file, fields=1, what="variant")]
    check_unlike(file, names)
    labels = {name: label for label, name in enumerate(names)}
    samples: dict[SplitName, list[Sample]] = {}
    for split, name in lists.items():
        samples[split] = []
        for where, (image, variant) in text_rows(root / name, fields=2, what="image variant"):
            if variant not in labels:
                raise DataError(f"{where}: unknown class '{variant}'{nearest(variant, labels)}")
            path = folder / "images" / f"{image}.jpg"
            samples[split].append(Sample(path, labels[variant], f"{image}.jpg"))
    return _parts(descriptor, file, names, samples)


# Oxford-IIIT Pet


def read_oxford_pets(descriptor: Descriptor, root: Path) -> Parts:
    """annotations/trainval.txt and test.txt with 'image class species breed', images/<image>.jpg.

    Parkhi et al. 2012. A class is called what its images are called, without their number.
    """
    lists: dict[SplitName, str] = {
        "train": "annotations/trainval.txt",
        "test": "annotations/test.txt",
    }
    _require(descriptor, root, *lists.values())
    samples: dict[SplitName, list[Sample]] = {}
    names: dict[int, str] = {}
    for split, list_name in lists.items():
        samples[split] = []
        for where, (image, number, *_) in text_rows(
            root / list_name, fields=4, what="image class species breed"
        ):
            name, _, index = image.rpartition("_")
            if not name or not re.fullmatch(r"[0-9]{1,9}", number):
                raise DataError(f"{where}: '{image[:80]} {number[:20]}' is not 'name_1 class'")
            if names.setdefault(int(number), name) != name:
                raise DataError(
                    f"{where}: class {number} is '{name}' here and '{names[int(number)]}' before"
                )
            key = f"{name}_{index}.jpg"
            samples[split].append(Sample(root / "images" / key, int(number) - 1, key))
    file = root / lists["train"]
    _check_numbers(file, "class", names, len(names))
    return _parts(descriptor, file, [names[number] for number in sorted(names)], samples)


# What all of them share


def _require(descriptor: Descriptor, root: Path, *names: str) -> None:
    for name in names:
        if not (root / name).is_file():
            raise DataError(f"'{root}' has no {name}{hint(descriptor)}")


def _parts(
    descriptor: Descriptor,
    source: Path,
    names: Sequence[str],
    samples: dict[SplitName, list[Sample]],
) -> Parts:
    check_files(sample for part in samples.values() for sample in part)
    return Parts(class_names(descriptor, source, names), samples)
