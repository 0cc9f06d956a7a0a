"""Validation and test images cut out of the training images by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from vpt.data.boxes.detection import DetectionSplit
from vpt.data.content import content_hashes
from vpt.data.content_split import content_split
from vpt.data.descriptor import AUTOMATIC_CUT, Cut, Descriptor
from vpt.data.splits import ContentCut, Split, SplitName
from vpt.errors import ConfigError, DataError

Held = Literal["val", "test"]
Images = TypeVar("Images", Split, DetectionSplit)


def with_cuts(
    descriptor: Descriptor,
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    split_seed: int = 0,
) -> Descriptor:
    """The descriptor with the cuts by content that a run's `data` section asks for.

    Args:
        descriptor: of the data set; cuts of its own by name stay.
        val_fraction: of all images; 0: no cut; None: as the descriptor has it.
        test_fraction: likewise.
        split_seed: of the cuts; 0: the descriptor's own, if it has any.

    Raises:
        ConfigError: the descriptor says otherwise, or there is nothing to cut.
    """
    own = descriptor.splits.by_content
    seed = split_seed or next((cut.seed for cut in own.values()), 0)
    fractions: dict[Held, float] = {name: cut.fraction for name, cut in own.items()}
    given: dict[Held, float | None] = {"val": val_fraction, "test": test_fraction}
    for name, fraction in given.items():
        source = getattr(descriptor.splits, name)
        if fraction is None:
            continue
        if source is not None and name not in own:
            found = f"cuts {source.fraction}" if isinstance(source, Cut) else f"names '{source}'"
            raise ConfigError(
                f"data.{name}_fraction {fraction:g}: for {name}, '{descriptor.name}' {found} "
                "already; leave the fraction out, or change the descriptor"
            )
        fractions[name] = fraction
    if sum(fractions.values()) >= 1:
        raise ConfigError("data.val_fraction and data.test_fraction leave no image for training")
    if split_seed and not any(fractions.values()):
        raise ConfigError(
            f"data.split_seed {split_seed} has no effect: nothing is cut out of the training "
            f"images of '{descriptor.name}'; leave it out, or set data.val_fraction"
        )
    cuts = {
        str(name): Cut(fraction=fraction, seed=seed, by="content") if fraction else None
        for name, fraction in fractions.items()
    }
    splits = descriptor.splits.model_copy(update=cuts)
    return descriptor.model_copy(update={"splits": splits})


def cuts_of(
    descriptor: Descriptor, found: Container[SplitName], again: ContentCut | None
) -> dict[Held, Cut]:
    """What is cut out of train, test before val.

    Args:
        descriptor: of the data set.
        found: the splits that it has.
        again: of an earlier reading: its cuts take the place of others by content, and are made
            where a split is missing.
    """
    sources = descriptor.splits
    cuts: dict[Held, Cut] = {}
    if isinstance(sources.test, Cut):
        cuts["test"] = sources.test
    if isinstance(sources.val, Cut):
        cuts["val"] = sources.val
    if again is None:
        return cuts
    fractions: dict[Held, float | None] = {"test": again.test, "val": again.val}
    for name, fraction in fractions.items():
        own = cuts.get(name)
        if name not in found and (own is None or own.by == "content"):
            cuts.pop(name, None)
            if fraction is not None:
                cuts[name] = Cut(fraction=fraction, seed=again.seed, by="content")
    return cuts


def cut_out(
    name: str,
    found: Mapping[SplitName, Images],
    cuts: Mapping[Held, Cut],
    *,
    by_name: Callable[[Images, float, int], tuple[Images, Images]],
) -> tuple[dict[SplitName, Images], ContentCut | None]:
    """All splits once the cuts are made, and the record of those by content, if there are any.

    Args:
        name: of the data set, for errors.
        found: the splits that it has.
        cuts: of the training images, see `cuts_of`.
        by_name: (rest, held) of a split, a fraction and a seed: makes the cuts by name.

    Raises:
        DataError: there are no training images, a split that is to be cut out is there already, or
            a part gets no image.
    """
    for each in cuts:
        if "train" not in found:
            raise DataError(
                f"splits.{each} is to be cut out of train, but '{name}' has no train split"
            )
        if each in found:
            raise DataError(
                f"'{name}' has a {each} split of its own; remove splits.{each}, or leave out "
                f"data.{each}_fraction"
            )
    splits, record = dict(found), None
    by_content = {each: cut for each, cut in cuts.items() if cut.by == "content"}
    if by_content:
        parted, record = cut_by_content(splits["train"], by_content)
        splits |= parted
    for each, cut in cuts.items():
        if cut.by == "name":
            splits["train"], held = by_name(splits["train"], cut.fraction, cut.seed)
            splits[each] = replace(held, name=each)
    return splits, record


def cut_by_content(
    train: Images, cuts: Mapping[Held, Cut]
) -> tuple[dict[SplitName, Images], ContentCut]:
    """The training images in parts, and the record of how they were parted.

    Args:
        train: the images; one of several classes counts for the rarest of them.
        cuts: by content, of val, of test, or of both; with one seed.

    Raises:
        DataError: a part gets no image, or a file cannot be read.
    """
    fractions: dict[Held, float] = {name: cut.fraction for name, cut in cuts.items()}
    seed = next(iter(cuts.values())).seed
    contents = content_hashes(train)
    names = content_split(
        contents,
        train.rarest_classes().tolist(),
        test=fractions.get("test", 0.0),
        val=fractions.get("val", 0.0),
        seed=seed,
    )
    if "test" not in names and cuts.get("test") == AUTOMATIC_CUT:  # nobody asked for it
        fractions.pop("test", None)
    parted: dict[SplitName, Images] = {}
    digests: dict[str, str] = {}
    split_names: tuple[SplitName, ...] = ("train", *fractions)
    for name in split_names:
        places = np.array([place for place, split in enumerate(names) if split == name], np.int64)
        if not len(places):
            raise DataError(
                f"no image is left for '{name}': {len(train)} images of {len(train.class_names)} "
                "classes are too few to cut "
                + " and ".join(f"{cut.fraction:.0%} {each}" for each, cut in cuts.items())
                + " out; add images"
                + (", or set data.test_fraction=0, which does without" if name == "test" else "")
            )
        parted[name] = replace(train.take(places), name=name)
        held = "\n".join(sorted(contents[place] for place in places.tolist()))
        digests[name] = hashlib.sha256(held.encode()).hexdigest()
    record = ContentCut(
        fractions.get("val"),
        fractions.get("test"),
        seed,
        {name: len(split) for name, split in parted.items()},
        digests,
    )
    return parted, record


def cut_line(cut: ContentCut) -> str:
    """How the training images were parted, in one line that names the keys that change it."""
    fractions = {"val": cut.val, "test": cut.test}
    held = {name: value for name, value in fractions.items() if value is not None}
    counts = ", ".join(f"{name} {count:,}" for name, count in cut.images.items())
    keys = ", ".join(f"data.{name}_fraction {value:g}" for name, value in held.items())
    return (
        f"{' and '.join(held)} cut out of train by content, the same in every run: {counts} "
        f"({keys}, data.split_seed {cut.seed})"
    )


def cut_difference(now: ContentCut | None, before: ContentCut, name: str) -> str | None:
    """How the images of a split differ from those of an earlier cut, a clause; None: not at all."""
    if name not in before.images:
        return None
    if now is None or name not in now.images:
        return f"the data have a '{name}' split of their own; the run cut its out of its own images"
    if now.sha256[name] == before.sha256[name]:
        return None
    return (
        f"'{name}' has other images than in the run: {now.images[name]:,} here, "
        f"{before.images[name]:,} there, cut out alike"
    )
