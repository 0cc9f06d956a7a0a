"""From splits with boxes to batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vpt.data.boxes.detection import DetectionSplit
from vpt.data.images import read_image
from vpt.data.loading.loader import BatchLoader, Planned, check_size
from vpt.data.loading.workers import Workers
from vpt.data.rgb import ValueRange
from vpt.data.transforms.boxes import LetterboxedImage
from vpt.seeding import derive_seed
from vpt.structures import DetectionBatch, DetectionTargets, Letterbox

DetectionItem = tuple[Tensor, DetectionTargets, int, Letterbox]
"""(image (3, S, S), its targets, index in the split, letterbox)."""

ToLetterbox = Callable[[Image.Image, NDArray[np.float64], int], LetterboxedImage]
"""(image, boxes, seed): a `BoxTransform`, or its `pixels`."""

_Columns = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Letterbox]]
"""(images, boxes of all images, their labels, boxes per image, indices, letterboxes)."""


class DetectionDataset(Dataset[DetectionItem]):
    """A split as tensors; every image is a pure function of seed, epoch and index."""

    def __init__(
        self,
        split: DetectionSplit,
        transform: ToLetterbox,
        seed: int,
        *,
        value_range: ValueRange | None = None,
    ):
        """Join a split with a transform.

        Args:
            split: what to read.
            transform: (image, boxes, seed) -> `LetterboxedImage`, of float32 or uint8.
            seed: of the run; the transform gets one derived from it, the epoch and the index.
            value_range: of images of more than 8 bits, see `read_image`.
        """
        self.split = split
        self.transform = transform
        self.seed = seed
        self.value_range = value_range

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> DetectionItem:
        """The image (epoch, index) and its targets; crowds are none.

        Raises:
            DataError: the file cannot be read, or has changed its size; the message names it.
        """
        epoch, index = item
        sample = self.split.samples[index]
        image = read_image(sample.source, value_range=self.value_range)
        check_size(sample.source, image, sample.size)
        seed = derive_seed("augment", self.seed, epoch, index)
        seen = self.transform(image, sample.target_boxes, seed)
        labels = torch.tensor(sample.target_labels, dtype=torch.int64)[seen.rows]
        return seen.image, DetectionTargets(seen.boxes, labels), index, seen.letterbox


def make_detection_loader(
    dataset: DetectionDataset,
    batches: Planned,
    *,
    num_workers: Workers,
    pin_memory: bool,
    keep_workers: bool = False,
) -> BatchLoader[DetectionBatch]:
    """See `make_loader`."""
    return BatchLoader(
        dataset,
        batches,
        _columns,
        _assembled,
        num_workers=num_workers,
        pin_memory=pin_memory,
        keep_workers=keep_workers,
    )


def collate_detection(items: list[DetectionItem]) -> DetectionBatch:
    """The batch of some items of a `DetectionDataset`."""
    return _assembled(*_columns(items))


def _columns(items: list[DetectionItem]) -> _Columns:
    """The same in tensors that torch can pin, five however many images there are.

    A worker process hands over each tensor by a file descriptor: tensors of each image would use
    up a process's descriptors at large batches.
    """
    images, targets, indices, letterboxes = zip(*items, strict=True)
    return (
        torch.stack(images),
        torch.cat([each.boxes for each in targets]),
        torch.cat([each.labels for each in targets]),
        torch.tensor([len(each.labels) for each in targets]),
        torch.tensor(indices),
        list(letterboxes),
    )


def _assembled(
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
    counts: Tensor,
    indices: Tensor,
    letterboxes: list[Letterbox],
) -> DetectionBatch:
    """The batch of what `_columns` gave."""
    sizes = counts.tolist()
    pairs = zip(torch.split(boxes, sizes), torch.split(labels, sizes), strict=True)
    targets = tuple(DetectionTargets(*pair) for pair in pairs)
    return DetectionBatch(images, targets, indices, tuple(letterboxes))
