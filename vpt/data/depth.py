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

from vpt.data.detection import DetectionSplit
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


def look_at_depth(
    split: Split | DetectionSplit, value_range: ValueRange | None = None
) -> Depth | None:
    """The values of a split's deep images; None for a split of arrays, which have 8 bits.

    Images that cannot be read are passed over.
    """
    sources = _spread([sample.source for sample in split.samples], LOOKED_AT)
    if not sources or isinstance(sources[0], int):
        return None
    lows, highs, outside, full, deep = [], [], [], (0.0, 65535.0), 0
    for source in sources:
        if deep >= _DECODED:
            break
        with suppress(DataError):
            image = _deep(source)
            if image is None:
                continue
            deep += 1
            values = image.values.reshape(-1)
            values = values[:: max(1, len(values) // _PIXELS)]
            low, high = np.percentile(values, [_OUTLIERS, 100 - _OUTLIERS])
            lows.append(low)
            highs.append(high)
            full = image.known_range or full
            if value_range is not None:
                beyond = (values < value_range[0]) | (values > value_range[1])
                outside.append(float(beyond.mean()))
    if not deep:
        return Depth(len(sources))
    return Depth(
        len(sources),
        deep,
        float(np.percentile(lows, _ODD_IMAGES)),
        float(np.percentile(highs, 100 - _ODD_IMAGES)),
        full,
        float(np.mean(outside)) if outside else 0.0,
    )


def depth_warning(
    split: Split | DetectionSplit, value_range: ValueRange | None = None
) -> str | None:
    """One line where the images' values and the range they are scaled by do not fit; else None.

    Args:
        split: its images are looked at.
        value_range: what becomes 0 and 255; None: the range of the files' kind.
    """
    found = look_at_depth(split, value_range)
    if found is None:
        return None
    if not found.deep:
        if value_range is None:
            return None
        return (
            f"data.value_range {_shown(value_range)} changes no image of '{split.name}': all "
            f"{found.looked_at:,} that were looked at have 8 bits a channel"
        )
    used = (found.low, found.high)
    if value_range is not None:
        return _misfit(split.name, used, value_range, found.cut_off)
    span = found.full[1] - found.full[0]
    if found.high - found.low >= _NARROW * span:
        return None
    darkest, brightest = (255 * value / span for value in used)
    return (
        f"the 16-bit images of '{split.name}' use only the values {_shown(used)} of "
        f"{_shown(found.full)}, so the model sees {darkest:.0f}..{brightest:.0f} of 255; set "
        f"data.value_range={_shown(_suggested(used))}, the range of your camera, to scale them"
    )


def _misfit(name: str, used: ValueRange, value_range: ValueRange, cut_off: float) -> str | None:
    """Where a stated range cuts off much, or is far wider than the values."""
    if cut_off > _CUT_OFF:
        return (
            f"data.value_range {_shown(value_range)} cuts off {cut_off:.0%} of the pixels of "
            f"'{name}', whose values are {_shown(used)}"
        )
    if used[1] - used[0] < _NARROW * (value_range[1] - value_range[0]):
        return (
            f"data.value_range {_shown(value_range)} is wide for '{name}', whose values are "
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
    return (
        f"[{value_range[0]:g},{value_range[1]:g}]"
        if max(value_range) < 1e5
        else str(list(value_range))
    )


def _spread(items: Sequence[object], count: int) -> list[object]:
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _deep(source: object) -> DeepImage | None:
    if isinstance(source, PackedImage):
        return read_deep(io.BytesIO(packed_bytes(source)))
    assert isinstance(source, Path)
    return read_deep(source)
