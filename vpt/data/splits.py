"""Splits: which images belong to train, val and test, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from vpt.data.samples import Sample, Samples
from vpt.data.sources import PackedImage
from vpt.data.texts import Places
from vpt.errors import DataError

__all__ = [
    "SPLIT_NAMES",
    "PackedImage",
    "Sample",
    "Samples",
    "Split",
    "SplitName",
    "Splits",
    "SplitsOf",
]

SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)

USUAL_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What a split's folder or file is called, in upper or lower case; as Hugging Face's loader has
it."""


@dataclass(frozen=True)
class Split:
    """Images with labels, in a fixed order.

    Attributes:
        name: 'train', 'val' or 'test'.
        samples: the images, each made when it is looked at; any sequence is taken for them.
        class_names: in label order.
        array: (images, H, W) uint8 greys, or (images, H, W, 3) RGB, for samples without a file.
    """

    name: str
    samples: Sequence[Sample]
    class_names: tuple[str, ...]
    array: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Samples.of(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def table(self) -> Samples:
        """The samples in arrays, for what looks at all of them."""
        assert isinstance(self.samples, Samples)
        return self.samples

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.table.multi_label

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each image.

        Raises:
            DataError: the split is multi-label.
        """
        return tuple(self.label_array.tolist())

    @property
    def label_array(self) -> NDArray[np.int32]:
        """(N,): the label of each image.

        Raises:
            DataError: the split is multi-label.
        """
        if self.multi_label:
            raise DataError(f"images of '{self.name}' have several labels, not one each")
        return self.table.labels

    def class_counts(self) -> list[int]:
        """Images per class, in label order; one of several classes counts for each."""
        counts: list[int] = np.bincount(self.table.labels, minlength=len(self.class_names)).tolist()
        return counts

    def rarest_classes(self) -> NDArray[np.integer[Any]]:
        """(N,): the class of each image; of several the rarest in the split, of none -1."""
        if not self.multi_label:
            return self.table.labels
        counts = np.array(self.class_counts())
        by_rarity = np.empty(len(counts), dtype=np.int64)
        by_rarity[np.lexsort((np.arange(len(counts)), counts))] = np.arange(len(counts))
        owners = np.repeat(np.arange(len(self)), self.table.label_counts)
        rarest = np.full(len(self), len(counts))
        np.minimum.at(rarest, owners, by_rarity[self.table.labels])
        classes: NDArray[np.integer[Any]] = np.append(np.argsort(by_rarity), -1)[rarest]
        return classes

    def with_samples(self, samples: Iterable[Sample], name: str | None = None) -> Split:
        """The same split (or one of another name) with other samples."""
        return replace(self, samples=Samples.of(samples), name=name or self.name)

    def take(self, places: Places) -> Split:
        """The same split with the samples at some places alone, in that order."""
        return replace(self, samples=self.table.take(places))

    def with_classes(self, class_names: Sequence[str]) -> Split:
        """The same images with labels into another list of names, in which all of its classes are.

        Raises:
            ValueError: one is not.
        """
        places = {name: place for place, name in enumerate(class_names)}
        if missing := next((name for name in self.class_names if name not in places), None):
            raise ValueError(f"class {missing!r} is not among the others")
        moved = np.array([places[name] for name in self.class_names], dtype=np.int32)
        names = tuple(class_names)
        if not self.multi_label:
            samples = self.table.relabelled(moved[self.label_array])
            return replace(self, samples=samples, class_names=names)
        several = (
            replace(sample, label=tuple(sorted(int(moved[label]) for label in sample.classes)))
            for sample in self.samples
        )
        return replace(self, samples=Samples.of(several), class_names=names)


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

    def require(self, name: SplitName, way_out: str | None = None) -> AnySplit:
        """The split of that name.

        Args:
            name: of the split.
            way_out: what to do where there is none; None: have it cut out of train.

        Raises:
            DataError: the data set has none.
        """
        split = self.get(name)
        if split is None:
            known = ", ".join(other for other in get_args(SplitName) if self.get(other))
            way_out = way_out or (
                f"data.{name}_fraction=0.2 cuts one out of train, or name it under 'splits' in a "
                "descriptor"
            )
            raise DataError(f"the data set has no '{name}' split (it has: {known}); {way_out}")
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
class ContentCut:
    """How val and test were cut out of the training images by what they hold, and what came of it.

    Attributes:
        val: fraction of the images; None: it was not cut out.
        test: likewise.
        seed: of the cut, which has nothing to do with a run's.
        images: in each split.
        sha256: of each split, over the sorted hashes of its images' bytes.
    """

    val: float | None
    test: float | None
    seed: int
    images: dict[str, int]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Splits(SplitsOf[Split]):
    """The splits of a data set of images with one label each, or with any number of them.

    Attributes:
        text_names: the classes as a sentence calls them, in label order; as class_names if empty.
        notes: what to say of how the data were read, a sentence each.
        cut: how val and test were made of the training images; None: they were not, or by name.
    """

    text_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    cut: ContentCut | None = field(default=None, compare=False)

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
