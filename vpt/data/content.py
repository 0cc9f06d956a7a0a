"""What an image holds, as a hash of its bytes; files that were hashed before are not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vpt.data.boxes.detection import DetectionSplit
from vpt.data.loading.workers import usable_cores
from vpt.data.readers.parquet import packed_bytes
from vpt.data.splits import PackedImage, Split
from vpt.errors import DataError, RunError
from vpt.storage.atomic_file import write_atomic
from vpt.storage.cache import cache_folder


def content_hashes(split: Split | DetectionSplit) -> list[str]:
    """The SHA-256 of each image's bytes, in the split's order: of the file, or of the array's row.

    What was computed of a file is kept in `content` in $VPT_CACHE (or ~/.cache/vpt), and taken from
    there as long as the file's path, size and time of change are the same.

    Raises:
        DataError: an image cannot be read.
    """
    sources = [sample.source for sample in split.samples]
    of_files = file_hashes([source for source in sources if isinstance(source, Path)])
    hashes = []
    for source in sources:
        if isinstance(source, Path):
            hashes.append(of_files[source])
        elif isinstance(source, PackedImage):
            hashes.append(hashlib.sha256(packed_bytes(source)).hexdigest())
        else:
            assert isinstance(split, Split)
            assert split.array is not None
            row = np.ascontiguousarray(split.array[source])
            hashes.append(hashlib.sha256(row.tobytes()).hexdigest())
    return hashes


def file_hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file; see `content_hashes`.

    Raises:
        DataError: a file cannot be read.
    """
    if not paths:
        return {}
    memory = _memory_of(paths)
    known = _read(memory)
    states = {path: _state(path) for path in dict.fromkeys(paths)}
    hashes = {
        path: entry[2]
        for path, state in states.items()
        if (entry := known.get(str(path.absolute()))) is not None and entry[:2] == state
    }
    new = [path for path in states if path not in hashes]
    if new:
        with ThreadPoolExecutor(usable_cores()) as pool:  # hashing leaves the interpreter free
            hashes |= zip(new, pool.map(_hash, new), strict=True)
        entries = {str(path.absolute()): [*states[path], hashes[path]] for path in states}
        with contextlib.suppress(OSError, RunError):  # it is computed again next time
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(memory, [json.dumps(entries).encode()])
    return hashes


def _memory_of(paths: Sequence[Path]) -> Path:
    """The file that keeps the hashes of a data set, by the folder that all its files are in."""
    place = os.path.commonpath([str(path.absolute().parent) for path in paths])
    name = hashlib.sha256(os.fsencode(place)).hexdigest()[:40]
    return cache_folder("content") / f"{name}.json"


def _read(memory: Path) -> dict[str, list[Any]]:
    """What is kept; nothing where the file is missing or damaged."""
    try:
        values = json.loads(memory.read_bytes())
        return {
            path: entry
            for path, entry in values.items()
            if [type(each) for each in entry] == [int, int, str] and len(entry[2]) == 64
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return [state.st_size, state.st_mtime_ns]


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
