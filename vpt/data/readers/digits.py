"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpt.data.descriptor import Descriptor
from vpt.data.readers.parts import Parts
from vpt.data.splits import Sample
from vpt.errors import DataError


def read_sklearn_digits(descriptor: Descriptor, root: Path) -> Parts:
    """The 1,797 scans of scikit-learn, all in train; the checksum is that of pixels and labels."""
    # Imported here: it takes a second that no other data set needs.
    from sklearn.datasets import load_digits

    digits = load_digits()
    array = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = [int(label) for label in digits.target]
    _check_digits(descriptor, array, labels)
    samples = [Sample(index, label, f"{index:04d}") for index, label in enumerate(labels)]
    names = descriptor.classes or [str(digit) for digit in range(10)]
    return Parts(tuple(names), {"train": samples}, array)


def _check_digits(descriptor: Descriptor, array: NDArray[np.uint8], labels: list[int]) -> None:
    found = "sha256:" + hashlib.sha256(array.tobytes() + bytes(labels)).hexdigest()
    if descriptor.checksum not in (None, found):
        raise DataError(
            f"the digits of the installed scikit-learn have checksum {found}, "
            f"'{descriptor.name}' expects {descriptor.checksum}"
        )
