"""Which images, in which order: hold-out cuts, few-shot choices and the batches of an epoch."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vpt.data.samples import Samples
from vpt.data.splits import Split, Splits
from vpt.data.texts import Places, Texts
from vpt.errors import DataError
from vpt.seeding import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(rest, held): a share of each class cut out of a split, at random but always the same.

    Which images are held depends on the seed and on each image's key alone, not on their order,
    the platform or the library versions. Every class keeps at least one image in the rest; a class
    with too few images for one to be held has none in held. Of multi-label data an image counts
    for the rarest of its classes, and those without a label are one class more.

    Args:
        split: what to cut; it is not changed.
        fraction: of each class, rounded to the nearest count.
        seed: another seed holds other images.

    Raises:
        DataError: no class has enough images for one to be held.
    """
    held = np.zeros(len(split), dtype=np.bool_)
    for places in _strata(split).values():
        count = min(math.floor(fraction * len(places) + 0.5), len(places) - 1)
        held[shuffled(split.table.keys, places, "holdout", seed)[:count]] = True
    if not held.any():
        raise DataError(
            f"a fraction of {fraction} cut out of '{split.name}' ({len(split.samples)} images) "
            "holds no image; raise it or add images"
        )
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def few_shot(split: Split, shots: int, seed: int) -> Split:
    """`shots` images of each class; with one seed, fewer shots are a subset of more.

    Raises:
        DataError: a class has fewer images.
    """
    if shots < 1:
        raise DataError(f"{shots} shots: at least 1 image per class is needed")
    by_label = _by_label(split)
    chosen = np.zeros(len(split), dtype=np.bool_)
    for label, name in enumerate(split.class_names):
        places = by_label.get(label, np.zeros(0, dtype=np.int64))
        if len(places) < shots:
            raise DataError(
                f"class '{name}' has {len(places)} images in '{split.name}', fewer than "
                f"{shots} shots; lower the shots"
            )
        chosen[shuffled(split.table.keys, places, "few_shot", seed)[:shots]] = True
    return split.take(np.flatnonzero(chosen))


def coop_few_shot(
    train: Split, val: Split | None, shots: int, seed: int
) -> tuple[Split, Split | None]:
    """The images that CoOp (Zhou et al. 2022) and its successors draw for a seed, in their order.

    The classes are drawn from in the order in which they first appear, val after train from the
    same stream of numbers. It is a stream of its own: no other random number changes.

    Args:
        train: in the order of the released list.
        val: likewise, or None.
        shots: images of each class of train, of val at most 4; a class with fewer gives all.
        seed: CoOp's are 1, 2, 3.
    """
    if shots < 1:
        raise DataError(f"{shots} shots: at least 1 image per class is needed")
    stream = random.Random(seed)
    chosen = _drawn(train, shots, stream)
    return chosen, None if val is None else _drawn(val, min(shots, _COOP_VAL_SHOTS), stream)


_COOP_VAL_SHOTS = 4


def _drawn(split: Split, shots: int, stream: random.Random) -> Split:
    chosen: list[int] = []
    for places in _by_label(split).values():
        own = places.tolist()
        chosen += own if len(own) < shots else stream.sample(own, shots)
    return split.take(np.array(chosen, dtype=np.int64))


def with_val_in_train(splits: Splits) -> Splits:
    """The splits with the validation images among the training images, and no validation split.

    Raises:
        DataError: train or val is missing.
    """
    train, val = splits.require("train"), splits.require("val")
    return replace(
        splits, train=train.with_samples(Samples.joined([train.table, val.table])), val=None
    )


def restrict_classes(splits: Splits, part: Literal["all", "base", "new"]) -> Splits:
    """The splits with the first half of the classes ('base') or the second ('new') alone.

    Base has one class more where their number is odd. Labels count from 0 in either half.

    Raises:
        DataError: nothing is left of a split.
    """
    if part == "all":
        return splits
    splits.require_single_label(f"data.classes {part}")
    half = math.ceil(len(splits.class_names) / 2)
    start, end = (0, half) if part == "base" else (half, len(splits.class_names))
    class_names = splits.class_names[start:end]

    def kept(split: Split | None) -> Split | None:
        if split is None:
            return None
        labels = split.label_array
        places = np.flatnonzero((labels >= start) & (labels < end))
        if len(places) == 0:
            raise DataError(
                f"'{split.name}' has no image of the {part} classes ({len(class_names)} of "
                f"{len(splits.class_names)}); add some or use all classes"
            )
        samples = split.table.take(places).relabelled(labels[places] - np.int32(start))
        return replace(split, samples=samples, class_names=class_names)

    return replace(
        splits,
        train=kept(splits.train),
        val=kept(splits.val),
        test=kept(splits.test),
        class_names=class_names,
        text_names=splits.text_names[start:end],
    )


Item = TypeVar("Item")


def share_of(items: Sequence[Item], rank: int, world_size: int) -> Sequence[Item]:
    """The part of a batch that one process has; together they have each item once, in order.

    Parts differ by one item at most, the first ones are the larger.
    """
    least, more = divmod(len(items), world_size)
    start = rank * least + min(rank, more)
    return items[start : start + least + (rank < more)]


class EpochBatches:
    """The batches of one epoch as lists of (epoch, index); a batch sampler for `make_loader`.

    The order is a function of seed and epoch alone, so a run can go on at `start_batch` without
    any saved state of a loader and whatever the number of workers.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start_batch: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        balance: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    ):
        """Plan an epoch.

        Args:
            length: images in the split.
            batch_size: images per batch; the last one may be smaller unless `drop_last`.
            seed: of the run.
            epoch: counted from 0.
            start_batch: batches of this epoch that are done already.
            shuffle: False keeps the split's order.
            drop_last: leave out an incomplete last batch.
            balance: the label of each image, to draw every class equally often: images of rare
                classes come several times, those of frequent ones in other epochs.

        Raises:
            DataError: there is not one batch in the epoch.
        """
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.start_batch = start_batch
        self.shuffle = shuffle
        self.balance = balance
        self.total = length // batch_size if drop_last else math.ceil(length / batch_size)
        if self.total == 0:
            raise DataError(
                f"{length} images make no batch of {batch_size}; lower the batch size to "
                f"{max(length, 1)} or add images"
            )
        if not 0 <= start_batch <= self.total:
            raise ValueError(f"start_batch {start_batch} is not in 0..{self.total}")

    def __len__(self) -> int:
        return self.total - self.start_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        for batch in range(self.start_batch, self.total):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in indices.tolist()]

    def _order(self) -> Tensor:
        import torch  # here, as the rest of this module is used without it

        if not self.shuffle:
            return torch.arange(self.length)
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self.epoch))
        if self.balance is not None:
            return _balanced(np.asarray(self.balance), generator)
        return torch.randperm(self.length, generator=generator)


def _balanced(labels: NDArray[np.integer[Any]], generator: torch.Generator) -> Tensor:
    """As many positions as there are labels, in random order, each class equally often (to 1).

    No image of a class comes twice before all of them came once.
    """
    import torch

    places = _grouped(labels)
    known = sorted(places)
    least, more = divmod(len(labels), len(known))
    order = []
    for rank, turn in enumerate(torch.randperm(len(known), generator=generator).tolist()):
        own = torch.from_numpy(places[known[turn]])
        count = least + (rank < more)
        while count > 0:
            drawn = torch.randperm(len(own), generator=generator)[:count]
            order.append(own[drawn])
            count -= len(drawn)
    joined = torch.cat(order)
    return joined[torch.randperm(len(joined), generator=generator)]


def _by_label(split: Split) -> dict[int, Places]:
    """Where the images of each class are, classes in the order in which they first appear."""
    return _grouped(split.label_array)


def _grouped(labels: NDArray[np.integer[Any]]) -> dict[int, Places]:
    """Where each label is, ascending; labels in the order in which they first appear."""
    order = np.argsort(labels, kind="stable")
    known, starts = np.unique(labels[order], return_index=True)
    groups = np.split(order, starts[1:]) if len(known) else []
    first = np.argsort([group[0] for group in groups])
    return {int(known[place]): groups[place] for place in first.tolist()}


def _strata(split: Split) -> dict[int, Places]:
    """Where the images of each class are; of multi-label data by the rarest, -1 for none."""
    return _grouped(split.rarest_classes())


def shuffled(keys: Texts, places: Places, purpose: str, seed: int) -> Places:
    """Places sorted by a hash of the keys there: a shuffle that is the same everywhere, for ever.

    Args:
        keys: of all images.
        places: which of them.
        purpose: another one shuffles otherwise.
        seed: likewise.
    """

    def rank(place: int) -> bytes:
        return hashlib.blake2b(f"{purpose}:{seed}:{keys[place]}".encode()).digest()

    return np.array(sorted(places.tolist(), key=rank), dtype=np.int64)
