"""From splits to batches: decoding and the loader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vpt.data.images import read_image
from vpt.data.loading.workers import Workers, begin, start_worker, worker_count
from vpt.data.readers.parquet import read_packed_image
from vpt.data.rgb import ValueRange
from vpt.data.sampling import EpochBatches
from vpt.data.splits import PackedImage, Sample, Split
from vpt.errors import DataError
from vpt.seeding import derive_seed
from vpt.structures import Batch

Item = tuple[Tensor, int | Tensor, int]
"""(image (3, H, W), label, index in the split); several labels are (C,) float32, 0 or 1."""

Planned = EpochBatches | list[list[tuple[int, int]]]
"""Batches of (epoch, index)."""

ToTensor = Callable[[Image.Image, int], Tensor]
"""(image, seed) -> (3, H, W): a `Transform`, or its `pixels`."""


class ImageDataset(Dataset[Item]):
    """A split as tensors; every image is a pure function of seed, epoch and index."""

    def __init__(
        self,
        split: Split,
        transform: ToTensor,
        seed: int,
        *,
        value_range: ValueRange | None = None,
    ):
        """Join a split with a transform.

        Args:
            split: what to read.
            transform: (image, seed) -> (3, H, W), float32 or uint8.
            seed: of the run; the transform gets one derived from it, the epoch and the index.
            value_range: of images of more than 8 bits, see `read_image`.
        """
        self.split = split
        self.transform = transform
        self.seed = seed
        self.value_range = value_range

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        """The image (epoch, index).

        Raises:
            DataError: the file cannot be read; the message names it.
        """
        epoch, index = item
        seed = derive_seed("augment", self.seed, epoch, index)
        return self.seen(index, seed), target_of(self.split, self.split.samples[index]), index

    def seen(self, index: int, seed: int) -> Tensor:
        """(3, H, W) of the image at `index`, with a seed of its own."""
        image = load_sample(self.split, self.split.samples[index], self.value_range)
        return self.transform(image, seed)


def target_of(split: Split, sample: Sample) -> int | Tensor:
    """The label of a sample; of multi-label data (C,) float32, 1 for each of its classes."""
    if isinstance(sample.label, int):
        return sample.label
    target = torch.zeros(len(split.class_names))
    target[list(sample.label)] = 1.0
    return target


def targets_of(split: Split) -> Tensor:
    """The labels of all samples, (N,) int64; of multi-label data (N, C) float32."""
    labels = torch.from_numpy(split.table.labels).long()
    if not split.multi_label:
        return labels
    targets = torch.zeros(len(split), len(split.class_names))
    counts = torch.from_numpy(split.table.label_counts)
    targets[torch.arange(len(split)).repeat_interleave(counts), labels] = 1.0
    return targets


def _stacked(labels: Sequence[int | Tensor]) -> Tensor:
    several = [label for label in labels if isinstance(label, Tensor)]
    return torch.stack(several) if several else torch.tensor(labels)


def load_sample(split: Split, sample: Sample, value_range: ValueRange | None = None) -> Image.Image:
    """The image of a sample, upright, in RGB; for `value_range` see `read_image`.

    Raises:
        DataError: the file cannot be read; the message names it.
    """
    if not isinstance(sample.source, int):
        return read_source(sample.source, value_range=value_range)
    if split.array is None:
        raise DataError(f"split '{split.name}' has no array to take image {sample.key} from")
    return Image.fromarray(split.array[sample.source]).convert("RGB")


def read_source(
    source: Path | PackedImage, *, value_range: ValueRange | None = None
) -> Image.Image:
    """The image of a file, or of a row of one, upright, in RGB.

    Args:
        source: the file or row.
        value_range: see `read_image`.

    Raises:
        DataError: it cannot be read; the message names it.
    """
    if isinstance(source, PackedImage):
        return read_packed_image(source, value_range=value_range)
    return read_image(source, value_range=value_range)


AnyItem = TypeVar("AnyItem")


def each_of(items: Dataset[AnyItem], num_workers: Workers) -> Iterator[AnyItem]:
    """The items of a data set (with a length) in order, got by processes (0: in this one)."""
    loader: DataLoader[AnyItem] = DataLoader(
        items,
        batch_size=32,
        num_workers=worker_count(num_workers),
        collate_fn=list,
        worker_init_fn=partial(start_worker, owner=os.getpid()),
        generator=torch.Generator(),
    )
    for batch in begin(loader):
        yield from batch


def make_loader(
    dataset: ImageDataset,
    batches: Planned,
    *,
    num_workers: Workers,
    pin_memory: bool,
    keep_workers: bool = False,
) -> BatchLoader[Batch]:
    """The batches of one epoch, whose bits do not depend on the number of workers.

    An unreadable image raises its DataError here, in the main process.

    Args:
        dataset: of the split.
        batches: of the epoch, or of a part of it.
        num_workers: processes that decode images; 0: this one.
        pin_memory: put batches where a GPU copies them from.
        keep_workers: see `BatchLoader.of`.
    """
    return BatchLoader(
        dataset,
        batches,
        collate,
        Batch,
        num_workers=num_workers,
        pin_memory=pin_memory,
        keep_workers=keep_workers,
    )


AnyBatch = TypeVar("AnyBatch")


class BatchLoader(Generic[AnyBatch]):
    """One epoch: iterates over batches, and has as length how many it yields.

    Args:
        dataset: its items are got by (epoch, index).
        batches: of one epoch, or of a part of it.
        collate: some items as a tuple of tensors, tuples and lists: what torch can pin, unlike
            dataclasses.
        assemble: the batch of what `collate` gave.
        num_workers: processes; 0: in this one.
        pin_memory: for a faster copy to a GPU.
        keep_workers: the processes of an epoch stay for the next, see `of`.

    Raises:
        DataError: while iterating, in the main process; the first that an item raised.
    """

    def __init__(
        self,
        dataset: Dataset[AnyItem],
        batches: Planned,
        collate: Callable[[list[AnyItem]], tuple[Any, ...]],
        assemble: Callable[..., AnyBatch],
        *,
        num_workers: Workers,
        pin_memory: bool,
        keep_workers: bool = False,
    ):
        self.batches = batches
        self._assemble = assemble
        self._planned = _Current(batches)
        self._begun = 0
        count = worker_count(num_workers)
        self._loader: DataLoader[AnyItem | DataError] = DataLoader(
            _Caught(dataset),
            batch_sampler=self._planned,
            num_workers=count,
            persistent_workers=keep_workers and count > 0,
            collate_fn=partial(_collate_caught, collate=collate),
            pin_memory=pin_memory,
            worker_init_fn=partial(start_worker, owner=os.getpid()),
            # Of its own: DataLoader draws a seed at each start, and the global one is the model's.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[AnyBatch]:
        return self.of(self.batches)

    def of(self, batches: Planned) -> Iterator[AnyBatch]:
        """The batches of any epoch; with `keep_workers` by the processes of the last one.

        They end any epoch that was begun before: its remaining batches are gone.

        Args:
            batches: of the epoch, or of a part of it.
        """
        self._planned.batches = batches
        self._begun += 1
        epoch = self._begun
        for parts in begin(self._loader):
            assert epoch == self._begun, "another epoch of this loader has begun"
            if isinstance(parts, DataError):
                raise parts
            yield self._assemble(*parts)


class _Current:
    """The batches that a loader is at; a batch sampler for torch."""

    def __init__(self, batches: Planned):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)


class _Caught(Dataset[AnyItem | DataError]):
    """Errors as values: raised in a worker, torch would wrap them in a traceback of many lines."""

    def __init__(self, dataset: Dataset[AnyItem]):
        self.dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> AnyItem | DataError:
        try:
            return self.dataset[item]
        except DataError as error:
            return DataError(str(error))


def check_size(path: Path, image: Image.Image, size: tuple[int, int]) -> None:
    """Refuse an image of another size (H, W) than its boxes are of.

    Raises:
        DataError: naming both.
    """
    if (image.height, image.width) != size:
        raise DataError(
            f"{path}: {image.width} x {image.height} pixels once decoded, but its head says "
            f"{size[1]} x {size[0]}, or said so when the data were read; save it anew, upright"
        )


def collate(items: list[Item]) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of the `Batch` of some items."""
    images, labels, indices = zip(*items, strict=True)
    return torch.stack(images), _stacked(labels), torch.tensor(indices)


def _collate_caught(
    items: Iterable[AnyItem | DataError], *, collate: Callable[[list[AnyItem]], AnyBatch]
) -> AnyBatch | DataError:
    good: list[AnyItem] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return collate(good)
