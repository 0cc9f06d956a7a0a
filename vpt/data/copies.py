"""Files with the same content, whatever they are called."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def same_content(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of two or more files whose bytes are equal, in the order of the first of each.

    Only files of the same size are read. Files that cannot be read are in no group.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            by_size[path.stat().st_size].append(path)
    groups: dict[bytes, list[Path]] = defaultdict(list)
    for alike in by_size.values():
        for path in alike if len(alike) > 1 else ():
            with suppress(OSError), path.open("rb") as file:
                groups[hashlib.file_digest(file, "sha256").digest()].append(path)
    return [group for group in groups.values() if len(group) > 1]
