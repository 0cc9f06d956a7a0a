"""Splits: which images belong to train, val and test, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from vpt.errors import DataError

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image inside a parquet file.

    Attributes:
        file: the parquet file.
        row: counted from 0.
        column: of the images.
    """

    file: Path
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        source: the image file, the row of a parquet file, or the position in the split's array.
        label: index into the class names; of multi-label data those of all its classes,
            ascending, perhaps none.
        key: the name of the image in its data set, the same on every machine.
    """

    source: Path | PackedImage | int
    label: int | tuple[int, ...]
    key: str

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of all its classes, ascending; exactly one unless the data are multi-label."""
        return (self.label,) if isinstance(self.label, int) else self.label


@dataclass(frozen=True)
class Split:
    """Images with labels, in a fixed order.

    Attributes:
        name: 'train', 'val' or 'test'.
        samples: the images.
        class_names: in label order.
        array: (images, H, W) uint8 greys, or (images, H, W, 3) RGB, for samples without a file.
    """

    name: str
    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    array: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return any(not isinstance(sample.label, int) for sample in self.samples)

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each image.

        Raises:
            DataError: the split is multi-label.
        """
        labels = tuple(sample.label for sample in self.samples if isinstance(sample.label, int))
        if len(labels) < len(self.samples):
            raise DataError(f"images of '{self.name}' have several labels, not one each")
        return labels

    def class_counts(self) -> list[int]:
        """Images per class, in label order; one of several classes counts for each."""
        counts = [0] * len(self.class_names)
        for sample in self.samples:
            for label in sample.classes:
                counts[label] += 1
        return counts

    def with_samples(self, samples: Iterable[Sample], name: str | None = None) -> Split:
        """The same split (or one of another name) with other samples."""
        return replace(self, samples=tuple(samples), name=name or self.name)


AnySplit = TypeVar("AnySplit")


@dataclass(frozen=True)
class SplitsOf(Generic[AnySplit]):
    """The splits of a data set; one that it does not have is None.

    Attributes:
        train: images to learn from.
        val: images to choose by.
        test: images to report on.
        class_names: in label order.
    """

    train: AnySplit | None
    val: AnySplit | None
    test: AnySplit | None
    class_names: tuple[str, ...]

    def require(self, name: SplitName) -> AnySplit:
        """The split of that name.

        Raises:
            DataError: the data set has none.
        """
        split = self.get(name)
        if split is None:
            known = ", ".join(other for other in get_args(SplitName) if self.get(other))
            raise DataError(
                f"the data set has no '{name}' split (it has: {known}); name it under 'splits' in "
                "a descriptor (val and test can be cut out of train: {fraction: 0.1, seed: 0})"
            )
        return split

    def get(self, name: SplitName) -> AnySplit | None:
        """The split of that name, or None."""
        split: AnySplit | None = getattr(self, name)
        return split

    def changed(self, change: Callable[[AnySplit], AnySplit]) -> Self:
        """The same with other splits: what `change` makes of each that is there."""
        splits = {name: self.get(name) for name in get_args(SplitName)}
        new = {name: change(split) for name, split in splits.items() if split is not None}
        return replace(self, **new)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Splits(SplitsOf[Split]):
    """The splits of a data set of images with one label each, or with any number of them.

    Attributes:
        text_names: the classes as a sentence calls them, in label order; as class_names if empty.
    """

    text_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.text_names:
            object.__setattr__(self, "text_names", self.class_names)
        if len(self.text_names) != len(self.class_names):
            raise ValueError(f"{len(self.text_names)} texts for {len(self.class_names)} classes")

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return any(split.multi_label for split in (self.train, self.val, self.test) if split)

    def require_single_label(self, what: str) -> None:
        """Refuse multi-label data where only one class per image makes sense.

        Args:
            what: that needs it, the subject of the message.

        Raises:
            DataError: an image may be of several classes.
        """
        if self.multi_label:
            raise DataError(f"{what} needs one class per image; these data are multi-label")

    def require_multi_label(self, what: str) -> None:
        """Refuse data of one class per image where sets of classes are needed.

        Args:
            what: that needs it, the subject of the message.

        Raises:
            DataError: every image is of one class.
        """
        if not self.multi_label:
            raise DataError(f"{what} is of multi-label data; these have one class per image")
