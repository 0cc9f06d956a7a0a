"""The heads of many image files, read by several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from vpt.data.images import ImageHeader, read_header
from vpt.data.loading.loader import each_of
from vpt.data.loading.workers import MOST_WORKERS, usable_cores
from vpt.data.texts import Texts
from vpt.errors import DataError

_FEW = 2000  # files that are read sooner than processes start


def read_headers(folder: Path, names: Sequence[str]) -> Iterator[ImageHeader | str]:
    """The header of each file, in order; or why it cannot be read, in one line without the path.

    Args:
        folder: of the files.
        names: below it.
    """
    cores = min(usable_cores(), MOST_WORKERS)
    return each_of(_Headers(folder, names), 0 if len(names) < _FEW or cores < 2 else cores)


class _Headers(Dataset["ImageHeader | str"]):
    def __init__(self, folder: Path, names: Sequence[str]):
        self._folder, self._names = folder, Texts.of(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageHeader | str:
        path = self._folder / self._names[index]
        try:
            return read_header(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
