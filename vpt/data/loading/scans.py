"""The scan for images that do not decode, and the memory of what scans found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from vpt.data.boxes.detection import DetectionSample, DetectionSplit
from vpt.data.images import FORMATS, decoder_versions
from vpt.data.loading.loader import check_size, each_of, read_source
from vpt.data.loading.workers import Workers
from vpt.data.rgb import ValueRange
from vpt.data.splits import PackedImage, Sample, Split
from vpt.errors import DataError
from vpt.storage.atomic_file import is_leftover
from vpt.storage.cache import cache_folder
from vpt.storage.records import Records, RecordsError, RecordsWriter

SUFFIX = ".scan"

_VERSION = 1
"""Of what `read_image` refuses."""

_KEY_BYTES = 16
_MOST_FILES = 32  # more are merged
_MOST_IMAGES = 16_000_000  # that are remembered, 256 MB; the newest stay
_CHUNK = 4096  # images whose files are looked at by one thread in one go
_THREADS = 8
_DAY = 24 * 3600


@dataclass(frozen=True)
class BadImage:
    """A file that does not decode, and why in one line.

    Attributes:
        path: the file, or the row of one.
        reason: without the path.
        lasting: whether the same bytes fail again; not so where the disk failed, or the memory.
    """

    path: Path | PackedImage
    reason: str
    lasting: bool = True


AnySplit = TypeVar("AnySplit", Split, DetectionSplit)


def scan_images(
    split: Split | DetectionSplit,
    num_workers: Workers = 0,
    *,
    value_range: ValueRange | None = None,
    memory: ScanMemory | None = None,
    again: bool = False,
) -> list[BadImage]:
    """Decode every image of a split, and list those that fail, in the split's order.

    Args:
        split: its files are read whole; nothing is written to them.
        num_workers: processes; 0 scans in this one.
        value_range: see `read_image`; floating-point images cannot be used without.
        memory: images that a scan has decoded before are not decoded again, unless their file has
            changed since; what is found is added. None: every image is decoded.
        again: decode every image nevertheless.
    """
    if memory is None:
        return list(_scanned(split, np.arange(len(split)), num_workers, value_range).values())
    keys = _keys_of(split, value_range)
    found: dict[int, BadImage] = {}
    known = np.zeros(len(split), dtype=np.bool_)
    if not again:
        known, reasons = memory.recall(keys)
        for place, reason in reasons.items():
            source = split.samples[place].source
            assert not isinstance(source, int)
            found[place] = BadImage(source, reason)
    places = np.flatnonzero(~known)
    new = _scanned(split, places, num_workers, value_range)
    fleeting = [place for place, bad in new.items() if not bad.lasting]
    memory.remember(
        keys[np.setdiff1d(places, fleeting)],
        {keys[place]: bad.reason for place, bad in new.items() if bad.lasting},
    )
    found |= new
    return [found[place] for place in sorted(found)]


def _scanned(
    split: Split | DetectionSplit,
    places: NDArray[np.int64],
    num_workers: Workers,
    value_range: ValueRange | None,
) -> dict[int, BadImage]:
    """The bad images among those at some places, by place."""
    if len(places) == 0:
        return {}
    results = each_of(_Scan(split, places, value_range), num_workers)
    pairs = zip(places.tolist(), results, strict=True)
    return {place: bad for place, bad in pairs if bad is not None}


def drop_bad(split: AnySplit, bad: Sequence[BadImage]) -> AnySplit:
    """The split without the images that failed the scan; labels and boxes stay with their images.

    Raises:
        DataError: no image is left, or none of a class to learn from.
    """
    paths = {image.path for image in bad}
    kept = [place for place, each in enumerate(split.samples) if each.source not in paths]
    rest = split.take(np.array(kept, dtype=np.int64))
    if not rest.samples:
        raise DataError(
            f"no readable image is left in '{split.name}' ({len(split)} unreadable); replace them"
        )
    if isinstance(split, Split) and split.name == "train":
        counts = zip(split.class_names, split.class_counts(), rest.class_counts(), strict=True)
        for name, before, after in counts:
            if before > 0 and after == 0:
                raise DataError(
                    f"class '{name}' has no readable image left in '{split.name}' "
                    f"({before} unreadable); replace its files"
                )
    return rest


class _Scan(Dataset["BadImage | None"]):
    """For each image None, or what is wrong with it.

    Args:
        split: of the images.
        places: in the split, of those that are scanned.
        value_range: see `read_image`.
    """

    def __init__(
        self,
        split: Split | DetectionSplit,
        places: NDArray[np.int64],
        value_range: ValueRange | None,
    ):
        self.split, self.places, self.value_range = split, places, value_range

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> BadImage | None:
        sample = self.split.samples[int(self.places[index])]
        path = sample.source
        if isinstance(path, int):
            return None
        try:
            image = read_source(path, value_range=self.value_range)
            if isinstance(sample, DetectionSample):  # boxes are of a size
                check_size(sample.source, image, sample.size)
        except DataError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return BadImage(path, reason, lasting=not _may_pass(error.__cause__))
        return None


def _may_pass(cause: BaseException | None) -> bool:
    """Whether an error may be of the moment: Pillow's own OSErrors have no number."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and bool(cause.errno))


# The memory


class ScanMemory:
    """What scans found of images, by the state in which each file was.

    Each scan adds one file to a folder, under a name of its own and whole or not at all, so that
    several processes may scan at once. A damaged file is as none. When there are many files they
    are merged.

    Args:
        folder: for all data sets; it is made when there is something to remember.
    """

    def __init__(self, folder: Path):
        facts = {
            "version": _VERSION,
            "libraries": decoder_versions(),
            "formats": list(FORMATS),
            "most_pixels": Image.MAX_IMAGE_PIXELS,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder = folder
        self._mark = digest[:12]  # scans by other decoders found other things

    @classmethod
    def of_user(cls) -> ScanMemory:
        """The memory in $VPT_CACHE, or else in ~/.cache/vpt."""
        return cls(cache_folder("scans"))

    def recall(self, keys: NDArray[Any]) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Which images were scanned, and why those among them that are bad do not decode.

        Args:
            keys: (N,) of 16 bytes each; zeros: of an image whose file cannot be looked at.

        Returns:
            (N,) and reasons by position.
        """
        known, reasons = np.zeros(len(keys), dtype=np.bool_), dict[int, str]()
        order = np.argsort(keys)
        in_order = keys[order]
        for path in self._files():
            if (part := _read(path)) is None:
                continue
            places = np.minimum(np.searchsorted(part.keys, keys), max(0, len(part.keys) - 1))
            known |= part.keys[places] == keys if len(part.keys) else False
            for key, reason in part.bad.items():
                start = np.searchsorted(in_order, key)
                end = np.searchsorted(in_order, key, side="right")
                reasons.update(dict.fromkeys(order[start:end].tolist(), reason))
        known &= keys != b""
        return known, {place: reason for place, reason in reasons.items() if known[place]}

    def remember(self, keys: NDArray[Any], bad: dict[bytes, str]) -> None:
        """Add the images that were scanned; where nothing can be written, nothing is remembered.

        Args:
            keys: of all of them, as of `recall`.
            bad: why those that are bad do not decode.
        """
        keys = np.unique(keys[keys != b""])
        if len(keys) == 0:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(_Part(keys, bad))
            self._tidy()

    def _files(self) -> list[Path]:
        """Of scans by the same decoders, those written last first."""
        found = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.startswith(f"{self._mark}-") and entry.name.endswith(SUFFIX):
                    with contextlib.suppress(OSError):
                        found.append((entry.stat().st_mtime_ns, entry.path))
        return [Path(path) for _, path in sorted(found, reverse=True)]

    def _write(self, part: _Part) -> None:
        path = self.folder / f"{self._mark}-{secrets.token_hex(8)}{SUFFIX}"
        writer = RecordsWriter(path, [part.keys.nbytes])
        try:
            checksum = writer.write(0, part.keys.view(np.uint8))
            bad = {key.hex(): reason for key, reason in part.bad.items()}
            writer.finish({"bad": bad}, [checksum])
        finally:
            writer.discard()

    def _tidy(self) -> None:
        """Merge many files into one; remove what killed processes and old decoders left."""
        for path in self.folder.iterdir():
            old = time.time() - path.stat().st_mtime > _DAY
            other = path.suffix == SUFFIX and not path.name.startswith(f"{self._mark}-")
            if old and (is_leftover(path.name) or other):
                path.unlink(missing_ok=True)
        files = self._files()
        if len(files) <= _MOST_FILES:
            return
        parts, held = [], 0
        for path in files:
            part = _read(path)
            if part is not None and held + len(part.keys) <= _MOST_IMAGES:
                parts.append(part)
                held += len(part.keys)
        bad = {key: reason for part in parts for key, reason in part.bad.items()}
        if parts:
            self._write(_Part(np.unique(np.concatenate([part.keys for part in parts])), bad))
        for path in files:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Part:
    """What one file of the memory holds: sorted keys of all images, reasons of the bad ones."""

    keys: NDArray[Any]
    bad: dict[bytes, str]


def _read(path: Path) -> _Part | None:
    """None where the file is damaged, or gone."""
    try:
        records = Records.open(path)
        keys = np.array(records[0]).view(f"S{_KEY_BYTES}")
        bad = {bytes.fromhex(key): str(reason) for key, reason in records.header["bad"].items()}
    except (OSError, RecordsError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return _Part(keys, bad)


def _keys_of(split: Split | DetectionSplit, value_range: ValueRange | None) -> NDArray[Any]:
    """(N,) of 16 bytes: a hash of each image's path, its file's state and how it is read, or zeros.

    A range makes images readable that are not without it.

    The time of the last change of the inode is part of it: a file that was restored from a backup
    may have the size and the time of the damaged one.
    """
    here = Path.cwd()
    how = "" if value_range is None else f"\0{value_range}"
    starts = range(0, len(split), _CHUNK)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda start: _some_keys(split, start, here, how), starts)
        return np.concatenate([np.zeros(0, dtype=f"S{_KEY_BYTES}"), *parts])


def _some_keys(split: Split | DetectionSplit, start: int, here: Path, how: str) -> NDArray[Any]:
    end = min(start + _CHUNK, len(split))
    keys = np.zeros(end - start, dtype=f"S{_KEY_BYTES}")
    states: dict[Path, str] = {}
    for place in range(start, end):
        sample = split.samples[place]
        if (text := _state_text(sample, states, here)) is not None:
            encoded = (text + how).encode("utf-8", "surrogateescape")
            keys[place - start] = hashlib.blake2b(encoded, digest_size=_KEY_BYTES).digest()
    return keys


def _state_text(
    sample: Sample | DetectionSample, states: dict[Path, str], here: Path
) -> str | None:
    """What an image's scan depends on; None: it has no file, or one that cannot be looked at."""
    source = sample.source
    if isinstance(source, int):
        return None
    if isinstance(source, PackedImage):
        text = states.get(source.file) or _file_text(source.file, here)
        states[source.file] = text or ""
        return f"{text}\0{source.row}\0{source.column}" if text else None
    text = _file_text(source, here)
    return f"{text}\0{sample.size}" if isinstance(sample, DetectionSample) and text else text


def _file_text(path: Path, here: Path) -> str | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return f"{here / path}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}"
