"""Which images, in which order: hold-out cuts, few-shot choices and the batches of an epoch."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch

from vpt.data.splits import Sample, Split, Splits
from vpt.errors import DataError
from vpt.seeding import derive_seed


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
    held: set[str] = set()
    for samples in _strata(split).values():
        count = min(math.floor(fraction * len(samples) + 0.5), len(samples) - 1)
        held.update(sample.key for sample in _shuffled(samples, "holdout", seed)[:count])
    if not held:
        raise DataError(
            f"a fraction of {fraction} cut out of '{split.name}' ({len(split.samples)} images) "
            "holds no image; raise it or add images"
        )
    rest = split.with_samples(sample for sample in split.samples if sample.key not in held)
    return rest, split.with_samples(sample for sample in split.samples if sample.key in held)


def few_shot(split: Split, shots: int, seed: int) -> Split:
    """`shots` images of each class; with one seed, fewer shots are a subset of more.

    Raises:
        DataError: a class has fewer images.
    """
    if shots < 1:
        raise DataError(f"{shots} shots: at least 1 image per class is needed")
    by_label = _by_label(split)
    chosen: set[str] = set()
    for label, name in enumerate(split.class_names):
        samples = by_label.get(label, [])
        if len(samples) < shots:
            raise DataError(
                f"class '{name}' has {len(samples)} images in '{split.name}', fewer than "
                f"{shots} shots; lower the shots"
            )
        chosen.update(sample.key for sample in _shuffled(samples, "few_shot", seed)[:shots])
    return split.with_samples(sample for sample in split.samples if sample.key in chosen)


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
    chosen: list[Sample] = []
    for samples in _by_label(split).values():
        chosen += samples if len(samples) < shots else stream.sample(samples, shots)
    return split.with_samples(chosen)


def with_val_in_train(splits: Splits) -> Splits:
    """The splits with the validation images among the training images, and no validation split.

    Raises:
        DataError: train or val is missing.
    """
    train, val = splits.require("train"), splits.require("val")
    return replace(splits, train=train.with_samples(train.samples + val.samples), val=None)


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
        samples = tuple(
            replace(sample, label=label - start)
            for sample, label in zip(split.samples, split.labels, strict=True)
            if start <= label < end
        )
        if not samples:
            raise DataError(
                f"'{split.name}' has no image of the {part} classes ({len(class_names)} of "
                f"{len(splits.class_names)}); add some or use all classes"
            )
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
        balance: Sequence[int] | None = None,
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
            yield [(self.epoch, index) for index in indices]

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.length))
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self.epoch))
        if self.balance is not None:
            return _balanced(self.balance, generator)
        order: list[int] = torch.randperm(self.length, generator=generator).tolist()
        return order


def _balanced(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many positions as there are labels, in random order, each class equally often (to 1).

    No image of a class comes twice before all of them came once.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    known = sorted(places)
    least, more = divmod(len(labels), len(known))
    order = []
    for rank, turn in enumerate(torch.randperm(len(known), generator=generator).tolist()):
        own = places[known[turn]]
        count = least + (rank < more)
        while count > 0:
            drawn = torch.randperm(len(own), generator=generator)[:count].tolist()
            order += [own[each] for each in drawn]
            count -= len(drawn)
    mixed = torch.randperm(len(order), generator=generator).tolist()
    return [order[place] for place in mixed]


def _by_label(split: Split) -> dict[int, list[Sample]]:
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample, label in zip(split.samples, split.labels, strict=True):
        groups[label].append(sample)
    return groups


def _strata(split: Split) -> dict[int, list[Sample]]:
    """The images of each class; of multi-label data by the rarest of their classes, -1 for none."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample, label in zip(split.samples, split.rarest_classes(), strict=True):
        groups[label].append(sample)
    return groups


def _shuffled(samples: list[Sample], purpose: str, seed: int) -> list[Sample]:
    """Sorted by a hash of the key: a shuffle that is the same everywhere and for ever."""

    def rank(sample: Sample) -> bytes:
        return hashlib.blake2b(f"{purpose}:{seed}:{sample.key}".encode()).digest()

    return sorted(samples, key=rank)
