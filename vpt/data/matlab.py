"""Variables of MATLAB files, checked before anything is taken from them."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpt.data.parts import UNPRINTABLE, shown
from vpt.errors import DataError

# What scipy raises on damaged files, found by flipping bytes.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)


def read_mat(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The variables of those names, in MATLAB's shapes (at least two dimensions).

    Raises:
        DataError: the file cannot be read, or has no such variable.
    """
    # Imported here: it takes a quarter of a second that most data sets do not need.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = loadmat(path, variable_names=names)
    except (*_DAMAGE, MatReadError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a MATLAB file ({detail[:120]})") from error
    for name in names:
        if not isinstance(found.get(name), np.ndarray):
            raise DataError(f"{path}: has no variable '{name}'")
    return {name: found[name] for name in names}


def integers(path: Path, name: str, values: Iterable[Any]) -> list[int]:
    """Whole numbers, whatever type of number or of nested cell they came in."""
    return [_integer(path, name, value) for value in values]


def texts(path: Path, name: str, values: Iterable[Any]) -> list[str]:
    """Texts, whatever nested cell they came in."""
    return [_text(path, name, value) for value in values]


def _integer(path: Path, name: str, value: Any) -> int:
    value = _single(path, name, value)
    if not isinstance(value, np.integer | np.floating | int | float) or value != int(value):
        raise DataError(f"{path}: '{name}' holds {shown(str(value))}, a whole number is expected")
    return int(value)


def _text(path: Path, name: str, value: Any) -> str:
    value = _single(path, name, value)
    if not isinstance(value, str) or not value.strip() or UNPRINTABLE.search(value):
        raise DataError(f"{path}: '{name}' holds {shown(str(value))}, a text is expected")
    return str(value)


def _single(path: Path, name: str, value: Any) -> Any:
    for _ in range(8):
        if not isinstance(value, np.ndarray):
            return value
        if value.size != 1:
            break
        value = value.reshape(-1)[0]
    raise DataError(f"{path}: '{name}' holds an entry of {np.size(value)} values, 1 is expected")
