"""Batches on their way to the device: pixels travel in 8 bits and are normalised there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vpt.data import Normalise
from vpt.structures import Batch, DetectionBatch, Preprocess

OneBatch = TypeVar("OneBatch", Batch, DetectionBatch)


def on_device(
    batches: Iterable[OneBatch], device: torch.device, preprocess: Preprocess
) -> Iterator[OneBatch]:
    """The batches on the device, their images (B, 3, H, W) float32, normalised.

    On CUDA the next batch is copied while the step before it computes; its memory should be pinned.

    Args:
        batches: of pixels, uint8; other images pass as they are.
        device: where the model is.
        preprocess: mean and std.
    """
    normalise = Normalise(preprocess, device)
    moved = _one_ahead(batches, device) if device.type == "cuda" else _moved(batches, device)
    for batch in moved:
        images = batch.images
        if isinstance(images, Tensor) and images.dtype == torch.uint8:
            batch = replace(batch, images=normalise(images))
        yield batch


def _moved(batches: Iterable[OneBatch], device: torch.device) -> Iterator[OneBatch]:
    for batch in batches:
        yield batch.to(device)


def _one_ahead(batches: Iterable[OneBatch], device: torch.device) -> Iterator[OneBatch]:
    """Copies on a stream of their own, each begun before the batch before it is given out."""
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: tuple[OneBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            copied = batch.to(device)
            done = copies.record_event()
        if ahead is not None:
            yield _arrived(*ahead, device)
        ahead = copied, done
    if ahead is not None:
        yield _arrived(*ahead, device)


def _arrived(batch: OneBatch, done: torch.cuda.Event, device: torch.device) -> OneBatch:
    """The batch, for work that is queued from now on."""
    current = torch.cuda.current_stream(device)
    current.wait_event(done)
    for tensor in _tensors(batch):
        # Else its memory could be given to the next copy while this stream still reads it.
        if tensor.is_cuda:
            tensor.record_stream(current)
    return batch


def _tensors(batch: Batch | DetectionBatch) -> Iterator[Tensor]:
    if isinstance(batch.images, Tensor):
        yield batch.images
    if isinstance(batch, Batch):
        yield batch.labels
        return
    for targets in batch.targets:
        yield targets.boxes
        yield targets.labels
