"""Which of many listed files do not exist."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vpt.data.sources import Sources

_MANY = 64  # listed files of one folder, from which on the whole folder is looked at


def missing_files(sources: Sources) -> list[int]:
    """The places of images whose files do not exist; images without a file of their own do.

    A folder of many listed files is read once. The files that are not found so are looked at one by
    one, and those of other folders.
    """
    folders: Counter[str] = Counter()
    hashes = np.zeros(len(sources), dtype=np.int64)
    own = np.zeros(len(sources), dtype=np.bool_)
    for place in range(len(sources)):
        path = sources.path_text(place)
        if path is not None:
            folders[path[: path.rfind("/") + 1]] += 1
            hashes[place], own[place] = hash(path), True
    present = _hashes_of_files([folder for folder, count in folders.items() if count >= _MANY])
    found = np.zeros(len(sources), dtype=np.bool_)
    if len(present):
        found = present[np.minimum(np.searchsorted(present, hashes), len(present) - 1)] == hashes
    return [
        place
        for place in np.flatnonzero(own & ~found).tolist()
        if not is_file(Path(sources.path_text(place) or ""))
    ]


def _hashes_of_files(folders: list[str]) -> NDArray[np.int64]:
    """Sorted hashes of the paths of all files directly in some folders; 64 bits tell them apart."""
    hashes = array("q")
    for folder in folders:
        with suppress(OSError, ValueError), os.scandir(folder or ".") as entries:
            hashes.extend(hash(folder + entry.name) for entry in entries if entry.is_file())
    return np.sort(np.array(hashes, dtype=np.int64))


def is_file(path: Path) -> bool:
    """Whether there is a file; no error where no file can have such a name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for any file, or with a NUL
        return False
