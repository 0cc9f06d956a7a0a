"""Seeds for everything random.

A pure function of what it is for, never of time, worker or history.
"""

from __future__ import annotations

import hashlib


def derive_seed(purpose: str, *parts: int) -> int:
    """A 63-bit seed for one purpose and its counters, e.g. ('augment', seed, epoch, index).

    Distinct inputs give independent seeds (BLAKE2b), the same on every platform and Python.
    """
    text = ":".join((purpose, *map(str, parts)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
