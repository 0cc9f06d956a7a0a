"""Whether images of more than 8 bits a channel reach the model with the contrast they have.

A camera of 12 bits that writes 16-bit files gives values of 0..4095 of 65535: without
`data.value_range` the model sees nearly black images. A look at some images of a split tells.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpt.data.boxes.detection import DetectionSplit
from vpt.data.images import read_deep
from vpt.data.readers.parquet import packed_bytes
from vpt.data.rgb import DeepImage, ValueRange
from vpt.data.splits import PackedImage, Split
from vpt.errors import DataError

LOOKED_AT = 64
"""Images of a split, spread over it; of those with more than 8 bits the pixels are decoded."""

_DECODED = 24
_PIXELS = 100_000  # of an image, spread over it
_OUTLIERS = 0.1  # percent of the pixels at either end: defects, markers
_ODD_IMAGES = 10  # percent of the images at either end
_NARROW = 0.25
_CUT_OFF = 0.01


@dataclass(frozen=True)
class Depth:
    """What some images of a split show.

    Attributes:
        looked_at: how many were.
        deep: how many of them have more than 8 bits a channel.
        low: nearly all pixels of nearly all deep images are at least that.
        high: and at most that.
        full: the range that the files' kind has.
        cut_off: share of the pixels outside of the stated range; 0 without one.
    """

    looked_at: int
    deep: int = 0
    low: float = 0.0
    high: float = 0.0
    full: ValueRange = (0.0, 65535.0)
    cut_off: float = 0.0


def depth_warning(
    split: Split | DetectionSplit, value_range: ValueRange | None = None
) -> str | None:
    """One line where the images' values and the range they are scaled by do not fit; else None.

    Args:
        split: some of its images are looked at.
        value_range: what becomes 0 and 255; None: the range of the files' kind.
    """
    places = _spread(len(split), LOOKED_AT)
    sources = [split.samples[place].source for place in places]
    files = [source for source in sources if not isinstance(source, int)]  # arrays have 8 bits
    if not files:
        return None
    what = f"the images of '{split.name}'"
    found = look_at_depth(files, value_range)
    if value_range is not None and not found.deep:
        return (
            f"data.value_range {_shown(value_range)} changes none of {what}: all "
            f"{found.looked_at:,} that were looked at have 8 bits a channel"
        )
    return _warning(what, found, value_range)


def depth_warning_of_files(
    paths: Sequence[Path], value_range: ValueRange | None = None
) -> str | None:
    """The same of image files that are to be predicted by a model that was trained with a range."""
    files = [paths[place] for place in _spread(len(paths), LOOKED_AT)]
    return _warning("these images", look_at_depth(files, value_range), value_range)


def look_at_depth(
    sources: Sequence[Path | PackedImage], value_range: ValueRange | None = None
) -> Depth:
    """The values of those images that have more than 8 bits; unreadable ones are passed over."""
    lows: list[float] = []
    highs: list[float] = []
    outside: list[float] = []
    full = (0.0, 65535.0)
    for source in sources:
        if len(lows) == _DECODED:
            break
        with suppress(DataError):
            image = _deep(source)
            if image is None:
                continue
            values = image.values.reshape(-1)
            values = values[:: max(1, len(values) // _PIXELS)]
            low, high = np.percentile(values, [_OUTLIERS, 100 - _OUTLIERS])
            lows.append(low)
            highs.append(high)
            full = image.known_range or full
            if value_range is not None:
                beyond = (values < value_range[0]) | (values > value_range[1])
                outside.append(float(beyond.mean()))
    if not lows:
        return Depth(len(sources))
    return Depth(
        len(sources),
        len(lows),
        float(np.percentile(lows, _ODD_IMAGES)),
        float(np.percentile(highs, 100 - _ODD_IMAGES)),
        full,
        float(np.mean(outside)) if outside else 0.0,
    )


def _warning(what: str, found: Depth, value_range: ValueRange | None) -> str | None:
    if not found.deep:
        return None
    used = (found.low, found.high)
    if value_range is not None:
        return _misfit(what, used, value_range, found.cut_off)
    span = found.full[1] - found.full[0]
    if found.high - found.low >= _NARROW * span:
        return None
    darkest, brightest = (255 * value / span for value in used)
    return (
        f"{what} have 16 bits and use only the values {_shown(used)} of {_shown(found.full)}, so "
        f"the model sees {darkest:.0f}..{brightest:.0f} of 255; train with "
        f"data.value_range={_shown(_suggested(used))}, the range of your camera, to scale them"
    )


def _misfit(what: str, used: ValueRange, value_range: ValueRange, cut_off: float) -> str | None:
    """Where a stated range cuts off much, or is far wider than the values."""
    if cut_off > _CUT_OFF:
        return (
            f"data.value_range {_shown(value_range)} cuts off {cut_off:.0%} of the pixels of "
            f"{what}, whose values are {_shown(used)}"
        )
    if used[1] - used[0] < _NARROW * (value_range[1] - value_range[0]):
        return (
            f"data.value_range {_shown(value_range)} is wide for {what}, whose values are "
            f"{_shown(used)}"
        )
    return None


def _suggested(used: ValueRange) -> ValueRange:
    """A camera's range that holds the values: from 0 to 2^bits - 1, or as it is used."""
    low, high = used
    if low > high / 2:
        return float(np.floor(low)), float(np.ceil(max(high, low + 1)))
    return 0.0, float(2 ** int(np.ceil(np.log2(max(high, 1) + 1))) - 1)


def _shown(value_range: ValueRange) -> str:
    return f"[{_number(value_range[0])},{_number(value_range[1])}]"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _spread(length: int, count: int) -> list[int]:
    """At most `count` places, spread over all."""
    count = min(count, length)
    return [place * length // count for place in range(count)]


def _deep(source: Path | PackedImage) -> DeepImage | None:
    if isinstance(source, PackedImage):
        return read_deep(io.BytesIO(packed_bytes(source)))
    return read_deep(source)
