"""Images with labels: one by one, and many of them in arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vpt.data.sources import Source, Sources, SourcesBuilder
from vpt.data.texts import Places, Texts, rows_of


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        source: the image file, the row of a parquet file, or the position in the split's array.
        label: index into the class names; of multi-label data those of all its classes,
            ascending, perhaps none.
        key: the name of the image in its data set, the same on every machine.
    """

    source: Source
    label: int | tuple[int, ...]
    key: str

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of all its classes, ascending; exactly one unless the data are multi-label."""
        return (self.label,) if isinstance(self.label, int) else self.label


class Samples(Sequence[Sample]):
    """A fixed sequence of samples, each made when it is looked at.

    The keys are one stretch of bytes and the labels an array: some 50 bytes an image, and a loader
    process that looks at images copies nothing of it.

    Args:
        sources: keys and sources.
        labels: (M,) int32, the labels of all images, one after the other.
        ends: (N + 1,) int64, where the labels of each image begin, and at the end where the last
            ones end; None: each image has one label (M = N).
    """

    def __init__(
        self, sources: Sources, labels: NDArray[np.int32], ends: NDArray[np.int64] | None = None
    ):
        self._sources, self._labels, self._ends = sources, labels, ends

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Samples:
        """These samples; those of an iterator are not kept as objects.

        Raises:
            ValueError: some have one label, others several.
        """
        if isinstance(samples, Samples):
            return samples
        builder = SamplesBuilder()
        for sample in samples:
            builder.append(sample)
        return builder.build()

    @staticmethod
    def joined(parts: Sequence[Samples]) -> Samples:
        """Those of several, one after the other."""
        parts = [part for part in parts if len(part)] or parts[:1]
        labels = np.concatenate([part._labels for part in parts])
        ends = [np.diff(part._ends) for part in parts if part._ends is not None]
        if ends and len(ends) < len(parts):
            raise ValueError("samples with one label cannot be joined with multi-label ones")
        zero = np.zeros(1, dtype=np.int64)
        return Samples(
            Sources.joined([part._sources for part in parts]),
            labels,
            np.cumsum(np.concatenate([zero, *ends])) if ends else None,
        )

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._made(range(len(self))[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self._made, range(len(self)))

    def __add__(self, other: Sequence[Sample]) -> Samples:
        return Samples.joined([self, Samples.of(other)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(Sample.__eq__, self, other))

    def __hash__(self) -> int:
        return hash((len(self), self._labels[:16].tobytes()))

    def __repr__(self) -> str:
        return f"<{len(self):,} samples>" if len(self) > 10 else repr(tuple(self))

    @property
    def keys(self) -> Texts:
        """The names of the images."""
        return self._sources.keys

    @property
    def sources(self) -> Sources:
        """The names of the images, and where they are."""
        return self._sources

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self._ends is not None

    @property
    def labels(self) -> NDArray[np.int32]:
        """The labels of all images, one after the other; N unless they are multi-label."""
        return self._labels

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """(N,): how many labels each image has."""
        if self._ends is None:
            return np.ones(len(self), dtype=np.int64)
        return np.diff(self._ends)

    def take(self, places: Places) -> Samples:
        """The samples at some places, in that order."""
        if self._ends is None:
            return Samples(self._sources.take(places), self._labels[places])
        rows = rows_of(self._ends, places)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self._ends)[places])])
        several = ends if len(places) else None  # of no image it is not known
        return Samples(self._sources.take(places), self._labels[rows], several)

    def relabelled(self, labels: NDArray[np.int32]) -> Samples:
        """The same images, each with the one label at its place."""
        assert len(labels) == len(self)
        return Samples(self._sources, labels)

    def _made(self, place: int) -> Sample:
        if self._ends is None:
            label: int | tuple[int, ...] = int(self._labels[place])
        else:
            label = tuple(self._labels[self._ends[place] : self._ends[place + 1]].tolist())
        return Sample(self._sources.source(place), label, self._sources.keys[place])


class SamplesBuilder:
    """Samples in the making."""

    def __init__(self) -> None:
        self._sources = SourcesBuilder()
        self._labels, self._ends = array("i"), array("q", [0])
        self._kinds: set[bool] = set()

    def append(self, sample: Sample) -> None:
        """Add an image.

        Raises:
            ValueError: it has one label where others have several, or the other way round.
        """
        several = not isinstance(sample.label, int | np.integer)
        self._kinds.add(several)
        if len(self._kinds) > 1:
            raise ValueError(f"'{sample.key}' has one label where others have several, or not")
        self._sources.append(sample.key, sample.source)
        self._labels.extend(sample.label if several else [sample.label])  # type: ignore[arg-type, list-item]
        self._ends.append(len(self._labels))

    def build(self) -> Samples:
        """All of them; nothing is added afterwards."""
        ends = np.frombuffer(self._ends, np.int64) if True in self._kinds else None
        return Samples(self._sources.build(), np.frombuffer(self._labels, np.int32), ends)
