"""Images with boxes: one by one, and many of them in arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from vpt.data.sources import Sources, SourcesBuilder
from vpt.data.texts import Places, Texts, rows_of


@dataclass(frozen=True, eq=False)
class DetectionSample:
    """One image and the boxes in it.

    Attributes:
        source: the image file.
        key: the name of the image in its data set, the same on every machine.
        image_id: of the annotation file.
        size: (H, W) in pixels, upright (EXIF orientation applied).
        boxes: (K, 4) float64 xyxy, pixels of the upright image, inside of it.
        labels: (K,) int64, 0..C-1.
        crowds: (K,) bool; a crowd is no target, and what is found there is no mistake.
        areas: (K,) float64 in pixels, of the object's outline where the file knows it.
        annotation_ids: (K,) int64, positive, unique in the split.
    """

    source: Path
    key: str
    image_id: int
    size: tuple[int, int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    areas: NDArray[np.float64]
    annotation_ids: NDArray[np.int64]

    @property
    def target_boxes(self) -> NDArray[np.float64]:
        """(K', 4): the boxes that are no crowds."""
        return self.boxes[~self.crowds]

    @property
    def target_labels(self) -> NDArray[np.int64]:
        """(K',): the labels of `target_boxes`."""
        return self.labels[~self.crowds]


@dataclass(frozen=True, eq=False)
class _Columns:
    """What is of boxes, one after the other for all images; the fields are `DetectionSample`'s."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    areas: NDArray[np.float64]
    annotation_ids: NDArray[np.int64]

    def at(self, rows: slice | Places) -> dict[str, NDArray[Any]]:
        return {each.name: getattr(self, each.name)[rows] for each in fields(self)}


_TYPES: dict[str, type] = {
    "boxes": np.float64,
    "labels": np.int64,
    "crowds": np.bool_,
    "areas": np.float64,
    "annotation_ids": np.int64,
}


class DetectionSamples(Sequence[DetectionSample]):
    """A fixed sequence of samples, each made when it is looked at; its arrays are views.

    Args:
        sources: keys and files.
        image_ids: (N,) int64.
        sizes: (N, 2) int64, H and W.
        ends: (N + 1,) int64, where the boxes of each image begin, and at the end where the last
            ones end.
        columns: of all boxes.
    """

    def __init__(
        self,
        sources: Sources,
        image_ids: NDArray[np.int64],
        sizes: NDArray[np.int64],
        ends: NDArray[np.int64],
        columns: _Columns,
    ):
        self._sources, self.image_ids, self.sizes = sources, image_ids, sizes
        self._ends, self._columns = ends, columns

    @classmethod
    def of(cls, samples: Iterable[DetectionSample]) -> DetectionSamples:
        """These samples; those of an iterator are not kept as objects."""
        if isinstance(samples, DetectionSamples):
            return samples
        builder = _Builder()
        for sample in samples:
            builder.append(sample)
        return builder.build()

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> DetectionSample: ...

    @overload
    def __getitem__(self, index: slice) -> DetectionSamples: ...

    def __getitem__(self, index: int | slice) -> DetectionSample | DetectionSamples:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._made(range(len(self))[index])

    def __iter__(self) -> Iterator[DetectionSample]:
        return map(self._made, range(len(self)))

    @property
    def keys(self) -> Texts:
        """The names of the images."""
        return self._sources.keys

    @property
    def box_counts(self) -> NDArray[np.int64]:
        """(N,): boxes of each image, crowds among them."""
        return np.diff(self._ends)

    @property
    def target_counts(self) -> NDArray[np.int64]:
        """(N,): boxes of each image that are no crowds."""
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(~self._columns.crowds)])
        counts: NDArray[np.int64] = before[self._ends[1:]] - before[self._ends[:-1]]
        return counts

    @property
    def target_labels(self) -> NDArray[np.int64]:
        """The labels of all boxes that are no crowds."""
        return self._columns.labels[~self._columns.crowds]

    def take(self, places: Places) -> DetectionSamples:
        """The samples at some places, in that order."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self._ends)[places])])
        columns = _Columns(**self._columns.at(rows_of(self._ends, places)))
        ids, sizes = self.image_ids[places], self.sizes[places]
        return DetectionSamples(self._sources.take(places), ids, sizes, ends, columns)

    def _made(self, place: int) -> DetectionSample:
        source = self._sources.source(place)
        assert isinstance(source, Path)
        height, width = self.sizes[place].tolist()
        return DetectionSample(
            source,
            self._sources.keys[place],
            int(self.image_ids[place]),
            (height, width),
            **self._columns.at(slice(self._ends[place], self._ends[place + 1])),
        )


class _Builder:
    def __init__(self) -> None:
        self._sources = SourcesBuilder()
        self._ids, self._sizes, self._ends = array("q"), array("q"), array("q", [0])
        self._columns = {name: bytearray() for name in _TYPES}

    def append(self, sample: DetectionSample) -> None:
        self._sources.append(sample.key, sample.source)
        self._ids.append(sample.image_id)
        self._sizes.extend(sample.size)
        self._ends.append(self._ends[-1] + len(sample.labels))
        for name, kind in _TYPES.items():
            self._columns[name] += np.asarray(getattr(sample, name), dtype=kind).tobytes()

    def build(self) -> DetectionSamples:
        columns: dict[str, NDArray[Any]] = {
            name: np.frombuffer(self._columns[name], kind) for name, kind in _TYPES.items()
        }
        return DetectionSamples(
            self._sources.build(),
            np.frombuffer(self._ids, np.int64),
            np.frombuffer(self._sizes, np.int64).reshape(-1, 2),
            np.frombuffer(self._ends, np.int64),
            _Columns(**{**columns, "boxes": columns["boxes"].reshape(-1, 4)}),
        )
