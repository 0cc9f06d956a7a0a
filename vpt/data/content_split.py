"""Test and validation images chosen by what they hold: the same whatever they are called.

Each image has a place between 0 and 1, a hash of its bytes and the split's seed. Places below the
test fraction are for testing, those above by the validation fraction for validation. So no image's
split depends on its name, on other images, or on a run's seed, and byte-identical copies stay
together. Only where that leaves a class far from its share, as in small classes, are the images
with the nearest places taken or left instead. Where images are added and one has to leave the test
images for that, it goes to validation, hardly ever to training.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from vpt.data.splits import SplitName

_SLACK = 0.25
"""How far a class may be from its share of test or validation images, as a part of that share."""


def content_split(
    contents: Sequence[str], classes: Sequence[int], *, test: float, val: float, seed: int
) -> list[SplitName]:
    """The split of each image.

    Every class keeps an image for training, and gives its share of test and validation images, give
    or take a quarter of it; none where its share is below half an image, except where nothing
    would be left to validate on.

    Args:
        contents: a hash of each image's bytes.
        classes: of each image, for equal shares of all.
        test: fraction of the images, 0 for none.
        val: likewise; together below 1.
        seed: another one gives other splits.
    """
    by_class: dict[int, Counter[str]] = defaultdict(Counter)
    for content, label in zip(contents, classes, strict=True):
        by_class[label][content] += 1
    places = {content: _place(content, seed) for content in set(contents)}
    chosen = _chosen(by_class, places, test, val)
    if val and "val" not in chosen.values():  # a handful of images: each class gives one
        chosen = _chosen(by_class, places, test, val, least_val=1)
    return [chosen[content] for content in contents]


def _chosen(
    by_class: Mapping[int, Counter[str]],
    places: dict[str, float],
    test: float,
    val: float,
    least_val: int = 0,
) -> dict[str, SplitName]:
    chosen: dict[str, SplitName] = {}
    for copies in by_class.values():
        for content, split in _of_class(copies, places, test, val, least_val).items():
            # Copies in several classes stay together: in train, if it is that for one of them.
            before = chosen.get(content, split)
            chosen[content] = split if before == split else "train"
    return chosen


def _place(content: str, seed: int) -> float:
    """In [0, 1), even, and of the content and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _of_class(
    copies: Counter[str], places: dict[str, float], test: float, val: float, least_val: int
) -> dict[str, SplitName]:
    """The split of each content of a class; `copies` says how many images hold it."""
    images = copies.total()
    share, val_share = test * images, val * images
    least, most = (max(least_val, bound) for bound in _near(val_share))
    # Test images are to stay what they are when others come, so their number is freer.
    test_bounds = (
        max(math.floor((1 - _SLACK) * share), int(share >= 0.5)),
        math.ceil((1 + _SLACK) * share),
    )
    order = sorted(copies, key=lambda content: (places[content], content))
    tested = _taken(order, copies, places, test, test_bounds, max(0, images - 1 - least))
    rest = [content for content in order if content not in tested]
    left = images - 1 - sum(copies[content] for content in tested)
    validated = _taken(rest, copies, places, test + val, (least, most), left)
    return {
        content: "test" if content in tested else "val" if content in validated else "train"
        for content in order
    }


def _near(share: float) -> tuple[int, int]:
    """The least and the greatest whole number that is near enough to a share."""
    nearest = math.floor(share + 0.5)
    low, high = math.ceil((1 - _SLACK) * share), math.floor((1 + _SLACK) * share)
    return min(nearest, low), max(nearest, high)


def _taken(
    order: Sequence[str],
    copies: Counter[str],
    places: dict[str, float],
    below: float,
    bounds: tuple[int, int],
    left: int,
) -> set[str]:
    """The contents with places below a bound, or fewer or more so that their number is in bounds.

    Args:
        order: contents by their place.
        copies: how many images hold each.
        places: of the contents.
        below: the bound of their places.
        bounds: the least and the greatest number of images.
        left: images that may be taken at all.
    """
    least, greatest = (min(each, left) for each in bounds)
    taken: set[str] = set()
    count = 0
    for content in order:
        wanted = places[content] < below or count < least
        if wanted and count + copies[content] <= greatest:
            taken.add(content)
            count += copies[content]
    return taken
