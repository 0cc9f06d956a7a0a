"""Images that the unchanging part of a model sees once, with the same bits as every epoch anew.

What a batch gives for one image depends in its last bits on how many images it has, and with
several threads at times on the image's place among them. So training images, which meet others
every epoch, are kept only where it does not (`place_free`); validation batches are always the
same, and are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vpt.data import EpochBatches, ImageDataset, Workers, make_loader, targets_of
from vpt.engine.device import autocast
from vpt.engine.transfer import on_device
from vpt.models import Classifier
from vpt.structures import Batch, Begun

Items = list[tuple[int, int]]
"""(epoch, index) of the images of one batch."""


@dataclass(frozen=True)
class Start:
    """What training does not change of a model, as a function of preprocessed images.

    Attributes:
        model: on `device`.
        device: where to compute.
        precision: 'fp32', 'bf16' or 'fp16'.
    """

    model: Classifier
    device: torch.device
    precision: str

    def __call__(self, images: Tensor) -> Begun:
        """What is begun of a batch, on the device, in the grad mode that is set."""
        with autocast(self.device, self.precision):
            begun = self.model.begin(images.to(self.device, non_blocking=True))
        assert not begun.values.requires_grad, "something trained has a part in it"
        return begun


def place_free(start: Start, sizes: Sequence[int]) -> dict[int, Begun]:
    """Those batch sizes in which an image has the bits that it has first in one of the first size.

    One image of noise is seen at all places at once.

    Returns:
        By size, a batch of it without its numbers.
    """
    height, width = start.model.backbone.preprocess.size
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    first: Tensor | None = None
    found = {}
    for size in sizes:
        begun = start(noise.repeat(size, 1, 1, 1))
        first = begun.values[:1] if first is None else first
        if torch.equal(begun.values, first.expand_as(begun.values)):
            found[size] = _outline(begun)
    return found


class KeptImages:
    """Training batches; an image is read and begun once, and then only found.

    Args:
        dataset: its images are the same every epoch.
        start: what is kept of them.
        sizes: those of `place_free`; batches of another size are begun every time.
    """

    def __init__(self, dataset: ImageDataset, start: Start, sizes: dict[int, Begun]):
        self._dataset, self._start, self._sizes = dataset, start, sizes
        self._labels = targets_of(dataset.split)
        self._seen = torch.zeros(len(dataset), dtype=torch.bool)
        like = next(iter(sizes.values())).values
        self._rows = torch.empty((len(dataset), *like.shape[1:]), dtype=like.dtype)

    def batches(self, order: EpochBatches, *, num_workers: Workers) -> Iterator[Batch]:
        """The batches of an epoch, or of what is left of it."""
        planned = list(order)
        new = self._new(planned)
        missing = [items for items, is_new in zip(planned, new, strict=True) if is_new]
        loaded: Iterator[Batch] = iter(())
        if missing:
            pin = self._start.device.type == "cuda"
            loader = make_loader(self._dataset, missing, num_workers=num_workers, pin_memory=pin)
            loaded = on_device(loader, self._start.device, self._start.model.preprocess)
        for items, is_new in zip(planned, new, strict=True):
            yield self._begun(next(loaded)) if is_new else self._found(items)

    def _new(self, planned: list[Items]) -> list[bool]:
        """For each batch whether its images must be read, once those before it were."""
        seen, new = self._seen.clone(), []
        for items in planned:
            indices = [index for _, index in items]
            kept = len(items) in self._sizes
            new.append(not (kept and bool(seen[indices].all())))
            if kept:
                seen[indices] = True
        return new

    def _begun(self, batch: Batch) -> Batch:
        assert isinstance(batch.images, Tensor)
        begun = self._start(batch.images)
        if len(begun) in self._sizes:
            self._rows[batch.indices] = begun.values.detach().cpu()
            self._seen[batch.indices] = True
        return replace(batch, images=begun)

    def _found(self, items: Items) -> Batch:
        indices = torch.tensor([index for _, index in items])
        like = self._sizes[len(items)]
        images = _laid_out(self._rows[indices], like, self._start.device)
        return Batch(images, self._labels[indices], indices)


class KeptBatches:
    """Batches that are the same every time: read and begun at first, then only found.

    Args:
        load: gives them as images.
        start: what is kept of them.
    """

    def __init__(self, load: Callable[[], Iterable[Batch]], start: Start):
        self._load, self._start = load, start
        self._kept: list[tuple[Tensor, Begun, Batch]] | None = None

    def __call__(self) -> Iterator[Batch]:
        """All batches; they are kept once a pass has come to its end."""
        if self._kept is not None:
            for values, like, batch in self._kept:
                yield replace(batch, images=_laid_out(values, like, self._start.device))
            return
        kept = []
        for batch in self._load():
            assert isinstance(batch.images, Tensor)
            begun = self._start(batch.images)
            like = _outline(begun)
            rows = begun.values.detach().to("cpu", copy=True).contiguous()
            kept.append((rows, like, replace(batch, images=like)))
            yield replace(batch, images=begun)
        self._kept = kept


def _outline(begun: Begun) -> Begun:
    """A batch without its numbers: size, strides, type, and what its images share."""
    values = begun.values
    return begun.with_values(
        torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
    )


def _laid_out(rows: Tensor, like: Begun, device: torch.device) -> Begun:
    """Rows on the device, as they lay in memory when they were computed.

    A kernel may sum in another order over other strides.
    """
    values = torch.empty_strided(rows.shape, like.values.stride(), dtype=rows.dtype, device=device)
    return like.with_values(values.copy_(rows, non_blocking=True))
