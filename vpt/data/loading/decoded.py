"""Images that are decoded once and kept on the disk, as far as every epoch makes the same of them.

A file holds what `Transform.settle` makes of each image of a split, in the split's order. Its name
is a hash of all that this depends on, so it is never of other images than those asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vpt.data.images import decoder_versions, read_header
from vpt.data.loading.loader import ImageDataset, each_of, load_sample
from vpt.data.loading.workers import Workers, usable_cores
from vpt.data.readers.parquet import packed_bytes
from vpt.data.splits import Sample, Split
from vpt.data.transforms.images import Pixels, Transform
from vpt.errors import DataError
from vpt.storage.atomic_file import is_leftover
from vpt.storage.lock_file import lock, open_lock_file
from vpt.storage.records import Records, RecordsError, RecordsWriter

SUFFIX = ".decoded"

_VERSION = 2
"""Of what `upright_rgb`, `settle` and the layout of the file make of an image."""

_DAY = 24 * 3600


class DecodedImages:
    """What was settled of the images of a split, by position; mapped into memory, never copied.

    Attributes:
        path: the file.
        nbytes: of all pixels.
    """

    def __init__(self, records: Records):
        self._records = records
        self._sizes = np.asarray(records.header["images"], dtype=np.int32).reshape(-1, 2)
        self.path, self.nbytes = records.path, int(records.sizes.sum())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Pixels:
        """(H, W, 3), read-only."""
        height, width = self._sizes[index]
        return self._records[index].reshape(height, width, 3)


class DecodedDataset(ImageDataset):
    """The same items as of an `ImageDataset` of the transform's `pixels`, bit for bit."""

    def __init__(self, split: Split, transform: Transform, seed: int, decoded: DecodedImages):
        """Join a split with a transform and what is decoded of it.

        Args:
            split: what `decoded` is of.
            transform: whose `settle` it is of.
            seed: of the run.
            decoded: by position in the split.
        """
        super().__init__(
            split, transform.pixels, seed, value_range=transform.preprocess.value_range
        )
        self._finish, self._decoded = transform.finish, decoded

    def seen(self, index: int, seed: int) -> Tensor:
        """(3, H, W) uint8."""
        return self._finish(self._decoded[index], seed)


def decoded_path(folder: Path, split: Split, transform: Transform) -> Path:
    """Where the decoded images of a split are, if they are anywhere.

    The name changes with the path, size or time of change of any image, with what the transform
    settles, and with the libraries that decode.

    Raises:
        DataError: an image is missing.
    """
    facts = {
        "version": _VERSION,
        "libraries": decoder_versions(),
        "settling": transform.settling(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    states: dict[Path, str] = {}  # of files that hold many images
    for sample in split.samples:
        digest.update(f"\n{_fingerprint(sample, states)}".encode())
    return folder / f"{digest.hexdigest()[:40]}{SUFFIX}"


def _fingerprint(sample: Sample, states: dict[Path, str]) -> str:
    source = sample.source
    assert not isinstance(source, int), "arrays are in memory already"
    if isinstance(source, Path):
        return _state_of(source)
    if source.file not in states:
        states[source.file] = _state_of(source.file)
    return f"{states[source.file]} {source.row} {source.column}"


def _state_of(path: Path) -> str:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return f"{path.absolute()} {state.st_size} {state.st_mtime_ns}"


def decoded_sizes(split: Split, transform: Transform, num_workers: Workers) -> NDArray[np.int64]:
    """(N, 2), height and width of what is settled of each image, by the heads of the files alone.

    Raises:
        DataError: a head cannot be read.
    """
    if transform.settled_to is not None:
        return np.tile(np.array(transform.settled_to, dtype=np.int64), (len(split), 1))
    sizes = []
    for size in each_of(_Heads(split, transform), num_workers):
        if isinstance(size, DataError):
            raise size
        sizes.append(size)
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def find_decoded(path: Path) -> DecodedImages | None:
    """The decoded images of a file, every byte checked; None: there is no such file.

    Raises:
        RecordsError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        found = DecodedImages(Records.open(path, threads=usable_cores()))
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the files used last are those that `make_room` keeps
    return found


def build_decoded(
    path: Path,
    split: Split,
    transform: Transform,
    sizes: NDArray[np.int64],
    *,
    num_workers: Workers,
) -> DecodedImages:
    """Decode every image of a split into a file; afterwards as `find_decoded`.

    A process that builds the same file meanwhile is waited for, and its file taken.

    Args:
        path: of `decoded_path`; its folder is made.
        split: its images.
        transform: settles them.
        sizes: of `decoded_sizes`.
        num_workers: processes that decode and write.

    Raises:
        DataError: an image cannot be read, or has another size than its head says.
        OSError: from the disk, e.g. that it is full; nothing is left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(path):
        try:
            found = find_decoded(path)
        except RecordsError:
            found = None
        return found or _built(path, split, transform, sizes, num_workers)


def _built(
    path: Path,
    split: Split,
    transform: Transform,
    sizes: NDArray[np.int64],
    num_workers: Workers,
) -> DecodedImages:
    writer = RecordsWriter(path, (3 * sizes.prod(axis=1)).tolist())
    try:
        images, checksums = [], []
        for written in each_of(_Written(split, transform, writer), num_workers):
            if isinstance(written, (DataError, OSError)):
                raise written
            images.append(written[0])
            checksums.append(written[1])
        writer.finish({"images": images}, checksums)
    finally:
        writer.discard()
    return DecodedImages(Records(path, {"images": images}, writer.sizes))


@contextlib.contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    """One process at a time; where the file system has no locks, several do the same work.

    What a killed builder left is removed: its lock went with it.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    descriptor = open_lock_file(lock_path)
    try:
        with contextlib.suppress(OSError):
            lock(descriptor, wait=True)
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock_path.unlink(missing_ok=True)
        os.close(descriptor)


def make_room(folder: Path, needed: int, *, most: float, keep: Callable[[Path], bool]) -> None:
    """Remove the decoded images that were used longest ago, until `needed` more bytes fit.

    What a killed process left there more than a day ago goes as well.

    Args:
        folder: where they are; it may be missing.
        needed: bytes of what comes.
        most: bytes that the folder may hold.
        keep: whether a file stays in any case.
    """
    files = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            state = path.stat()
            if path.suffix == SUFFIX:
                files.append((state.st_mtime_ns, state.st_size, path))
            elif is_leftover(path.name) and time.time() - state.st_mtime > _DAY:
                path.unlink()
    held = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if held + needed <= most:
            return
        if not keep(path):
            with contextlib.suppress(OSError):
                path.unlink()
                held -= size


class _Heads(Dataset["tuple[int, int] | DataError"]):
    """(H, W) of what is settled of each image."""

    def __init__(self, split: Split, transform: Transform):
        self._split = split
        self._settled_size = transform.settled_size

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[int, int] | DataError:
        source = self._split.samples[index].source
        assert not isinstance(source, int)
        try:
            file = source if isinstance(source, Path) else io.BytesIO(packed_bytes(source))
            return self._settled_size(*read_header(file).size)
        except DataError as error:
            return DataError(str(error))


class _Written(Dataset[Any]):
    """Each image, once it is in the file: ((H, W), checksum), or why it is not."""

    def __init__(self, split: Split, transform: Transform, writer: RecordsWriter):
        self._split, self._transform, self._writer = split, transform, writer

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[tuple[int, int], int] | DataError | OSError:
        sample = self._split.samples[index]
        try:
            scaled = self._transform.preprocess.value_range
            pixels = self._transform.settle(load_sample(self._split, sample, scaled))
            return (pixels.shape[0], pixels.shape[1]), self._writer.write(index, pixels)
        except DataError as error:
            return DataError(str(error))
        except ValueError as error:
            return DataError(f"{sample.source}: another size than its head says ({error})")
        except OSError as error:
            return OSError(error.errno, error.strerror)
