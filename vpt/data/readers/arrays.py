"""Readers of data sets whose images are arrays in a few files: CIFAR-100 and SVHN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.descriptor import Descriptor
from vpt.data.readers.matlab import integers, read_mat
from vpt.data.readers.parts import Parts, class_names, hint, text_rows
from vpt.data.splits import Sample, SplitName
from vpt.errors import DataError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def read_cifar100(descriptor: Descriptor, root: Path) -> Parts:
    """The binary version: a byte each of coarse and fine label, then 32 x 32 reds, greens, blues.

    Krizhevsky 2009. (The Python version is a pickle, which could run code, and is not read.)
    """
    file = root / "fine_label_names.txt"
    _require(descriptor, file)
    names = [name for _, (name,) in text_rows(file, fields=1, what="class")]
    images, labels = {}, {}
    for split, name in (("train", "train.bin"), ("test", "test.bin")):
        path = root / name
        _require(descriptor, path)
        records = _records(path)
        labels[split] = [int(label) for label in records[:, 1]]
        planes = records[:, 2:].reshape(-1, 3, _SIDE, _SIDE)
        images[split] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        _check_labels(path, labels[split], len(names))
    return _parts(class_names(descriptor, file, names), images, labels)


def _records(path: Path) -> NDArray[np.uint8]:
    try:
        values = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not len(values) or len(values) % (2 + _PIXELS):
        raise DataError(
            f"{path}: {len(values):,} bytes are no whole number of images, each of "
            f"{2 + _PIXELS:,} bytes; is the file complete?"
        )
    return values.reshape(-1, 2 + _PIXELS)


def read_svhn(descriptor: Descriptor, root: Path) -> Parts:
    """The cropped digits: train_32x32.mat and test_32x32.mat, where label 10 is the digit 0.

    Netzer et al. 2011.
    """
    images, labels = {}, {}
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        _require(descriptor, path)
        values = read_mat(path, "X", "y")
        images[split] = _svhn_images(path, values["X"])
        found = integers(path, "y", values["y"])
        if len(found) != len(images[split]):
            raise DataError(f"{path}: {len(found)} labels for {len(images[split])} images")
        if outside := [label for label in found if not 1 <= label <= 10]:
            raise DataError(f"{path}: label {outside[0]} is out of range: 1..10")
        labels[split] = [label % 10 for label in found]
    names = [str(digit) for digit in range(10)]
    return _parts(class_names(descriptor, root / "train_32x32.mat", names), images, labels)


def _svhn_images(path: Path, values: Any) -> NDArray[np.uint8]:
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: 'X' is no array of numbers")
    if values.ndim != 4 or values.shape[:3] != (_SIDE, _SIDE, 3) or values.dtype != np.uint8:
        raise DataError(
            f"{path}: 'X' is {values.dtype} of shape {values.shape}; uint8 of shape "
            f"({_SIDE}, {_SIDE}, 3, images) is expected"
        )
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2))


def _require(descriptor: Descriptor, path: Path) -> None:
    if not path.is_file():
        raise DataError(f"'{path.parent}' has no {path.name}{hint(descriptor)}")


def _check_labels(path: Path, labels: list[int], classes: int) -> None:
    if outside := [label for label in labels if label >= classes]:
        raise DataError(
            f"{path}: label {outside[0]} is out of range: {classes} classes are numbered "
            f"0..{classes - 1}"
        )


def _parts(
    names: tuple[str, ...], images: dict[str, NDArray[np.uint8]], labels: dict[str, list[int]]
) -> Parts:
    """One array of all splits; images are called 'train/00000' and so on."""
    samples: dict[SplitName, list[Sample]] = {}
    start = 0
    splits: tuple[SplitName, ...] = ("train", "test")
    for split in splits:
        found = labels[split]
        samples[split] = [
            Sample(start + index, label, f"{split}/{index:05d}")
            for index, label in enumerate(found)
        ]
        start += len(found)
    return Parts(names, samples, np.concatenate([images["train"], images["test"]]))
