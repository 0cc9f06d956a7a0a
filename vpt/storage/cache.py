"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder `name` in $VPT_CACHE, or else in ~/.cache/vpt; it may not exist yet."""
    return Path(os.environ.get("VPT_CACHE") or "~/.cache/vpt").expanduser() / name
