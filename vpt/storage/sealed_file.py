"""A sealed file: tensors and a JSON header in one safetensors file, every byte under a SHA-256.

The safetensors metadata holds one string, `vpt`: "<seal> <data SHA-256> <data size> <header JSON>".
The seal is the SHA-256 of the file's head (length, tensor table, metadata) with the seal's own
digits as zeros; the head holds the digest of the data. So the head can be trusted after reading it
alone, and a changed name, dtype, shape or byte of any tensor shows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vpt.errors import VptError
from vpt.storage.atomic_file import write_atomic

HEAD_LIMIT = 4 * 2**20
"""Most bytes that a file's head (header and tensor table) may take."""

MAX_DEPTH = 64
"""Most levels of lists and objects in each other that a header may have."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The element types that a sealed file may hold, by safetensors' names."""

_LENGTH_SIZE = 8
_UNSEALED = b"0" * 64
_SEAL = re.compile(rb'"vpt"\s*:\s*"([0-9a-f]{64}) ([0-9a-f]{64}) (\d{1,15}) ')
_OLD_PICKLE = re.compile(rb"c[\w.]+\n[\w.]+\n|\([dl]p\d|[}\]]q")


class SealedFileError(VptError):
    """A file is damaged, of another kind, or cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class Stated:
    """What a file's tensor table says about a tensor, before its bytes are read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


Table = dict[str, Stated]
"""A file's tensor table, by the tensors' names."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Replace `path` with a sealed file of the tensors (any device, any layout) and the header.

    Atomic: whatever happens, `path` holds its old content or all of the new. The same tensors and
    header give the same bytes.

    Args:
        path: the file; its folder exists.
        tensors: names to tensors; copied to the CPU, shared memory is written once per name.
        header: JSON values, all numbers finite.

    Raises:
        SealedFileError: the header holds a number that JSON does not have, or is over the limit.
        RunError: the disk is full, forbidden or broken.
    """
    head, data = _seal(path, _on_cpu(tensors), _canonical_json(path, header))
    write_atomic(path, [head, data])


def read_sealed(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors (on the CPU) of a sealed file, after every byte was verified.

    Raises:
        SealedFileError: the file is missing, damaged in any byte, or of another kind.
    """
    read_sealed_header(path)  # so that no large file of another kind is read whole
    raw = _read(path)
    header, table, data_digest = _open_head(path, raw, size=len(raw))
    start = _LENGTH_SIZE + _head_length(raw)
    if hashlib.sha256(memoryview(raw)[start:]).hexdigest() != data_digest:
        raise SealedFileError(f"{path} is damaged: its tensors do not match their SHA-256")
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        raise SealedFileError(f"{path} is damaged: {_one_line(error)}") from error
    if {name: Stated(each.dtype, tuple(each.shape)) for name, each in tensors.items()} != table:
        raise SealedFileError(f"{path} is damaged: its tensor table can be read in two ways")
    return header, tensors


def read_sealed_header(path: Path) -> dict[str, Any]:
    """The header alone: no tensor is read, so damage in the tensors' bytes is not seen.

    Raises:
        SealedFileError: the file is missing, too short, damaged in its head, or of another kind.
    """
    return read_sealed_head(path)[0]


def read_sealed_head(path: Path) -> tuple[dict[str, Any], Table]:
    """The header and the tensor table, without the tensors' bytes; see `read_sealed_header`."""
    raw, size = _read_head(path)
    header, table, _ = _open_head(path, raw, size=size)
    return header, table


def sealed_head_size(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> int:
    """Bytes that the head of a sealed file would take; of those, `HEAD_LIMIT` are allowed."""
    unsealed = _UNSEALED.decode()
    place = 10**15  # more digits than any real place in a file has
    table: dict[str, Any] = {
        name: {
            "dtype": "BOOL",
            "shape": list(tensor.shape),
            "data_offsets": [place, place],
        }
        for name, tensor in tensors.items()
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    table["__metadata__"] = {"vpt": f"{unsealed} {unsealed} {place} {text}"}
    return _LENGTH_SIZE + len(json.dumps(table, separators=(",", ":")))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, which safetensors asks for."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        ready[name] = value
    return ready


def _seal(path: Path, tensors: dict[str, Tensor], header: str) -> tuple[bytes, memoryview]:
    """(head with its seal, data) of the file."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    unsealed = _UNSEALED.decode()
    raw = safetensors.torch.save(tensors, {"vpt": f"{unsealed} {unsealed} {size} {header}"})
    end = _LENGTH_SIZE + _head_length(raw)
    if end - _LENGTH_SIZE > HEAD_LIMIT:
        raise SealedFileError(
            f"{path}: the header takes {end - _LENGTH_SIZE} bytes, at most {HEAD_LIMIT} are allowed"
        )
    head, data = raw[:end], memoryview(raw)[end:]
    match = _find_seal(head)
    if match is None:
        raise RuntimeError("safetensors did not write the metadata as it was given")
    # The data's digest first, for the seal covers it.
    digest = hashlib.sha256(data).hexdigest().encode()
    head = head[: match.start(2)] + digest + head[match.end(2) :]
    seal = hashlib.sha256(head).hexdigest().encode()
    return head[: match.start(1)] + seal + head[match.end(1) :], data


def _open_head(path: Path, raw: bytes, *, size: int) -> tuple[dict[str, Any], Table, str]:
    """(header, tensor table, SHA-256 of the data) of a file that begins with `raw`, verified.

    Args:
        path: for errors.
        raw: the file's first bytes, at least its head.
        size: of the whole file in bytes.
    """
    _refuse_other_kinds(path, raw, size=size)
    end = _LENGTH_SIZE + _head_length(raw)
    match = _find_seal(raw[:end])
    if match is None:
        raise SealedFileError(
            f"{path} is not a file that vpt wrote (or its header is damaged): no seal in it"
        )
    unsealed = raw[: match.start(1)] + _UNSEALED + raw[match.end(1) : end]
    if hashlib.sha256(unsealed).hexdigest().encode() != match[1]:
        raise SealedFileError(f"{path} is damaged: its header does not match its SHA-256")
    if size != end + int(match[3]):
        raise SealedFileError(
            f"{path} is truncated or overlong: {size} bytes instead of {end + int(match[3])}"
        )
    header, table = _parse_head(path, raw[_LENGTH_SIZE:end], data_size=size - end)
    return header, table, match[2].decode()


def _find_seal(head: bytes) -> re.Match[bytes] | None:
    matches = list(_SEAL.finditer(head))
    return matches[0] if len(matches) == 1 else None


def _parse_head(path: Path, head: bytes, *, data_size: int) -> tuple[dict[str, Any], Table]:
    try:
        values = json.loads(head)
        text = values.pop("__metadata__")["vpt"].split(" ", 3)[3]
        header = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        _check_plain(header)
        return header, {name: _stated(name, entry, data_size) for name, entry in values.items()}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise SealedFileError(f"{path} is damaged: {_one_line(error)}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"its header holds {name}, and JSON has no such number")


def _check_plain(header: dict[str, Any]) -> None:
    """Refuse numbers that are not finite (1e999 is read as infinity) and endless nesting."""
    level: list[Any] = [header]
    for _ in range(MAX_DEPTH):
        if any(isinstance(value, float) and not math.isfinite(value) for value in level):
            raise ValueError("its header holds a number that is not finite")
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise ValueError(f"its header is nested deeper than {MAX_DEPTH} levels")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _stated(name: str, entry: Any, data_size: int) -> Stated:
    """One entry of the tensor table; its shape and type must fill its bytes exactly."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"tensor {name!r} is of the type {entry['dtype']!r:.40}")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a size or place that is no number of bytes")
    if len(shape) > 16 or end > data_size or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name!r} does not fill its place")
    return Stated(dtype, tuple(shape))


def _refuse_other_kinds(path: Path, raw: bytes, *, size: int) -> None:
    """Name what a file is that does not begin as safetensors do: a length, then '{'."""
    kind = _foreign_kind(raw)
    if kind is not None:
        raise SealedFileError(f"{path} is a {kind}, not safetensors; nothing of it was read")
    if size <= _LENGTH_SIZE:
        raise SealedFileError(f"{path} is truncated: only {size} bytes")
    length = _head_length(raw)
    if raw[_LENGTH_SIZE : _LENGTH_SIZE + 1] != b"{":
        raise SealedFileError(f"{path} is not a safetensors file, or its first bytes are damaged")
    if length > HEAD_LIMIT:
        raise SealedFileError(
            f"{path} is damaged: a header of {length} bytes, at most {HEAD_LIMIT} are allowed"
        )
    if _LENGTH_SIZE + length > size:
        raise SealedFileError(f"{path} is truncated: {size} bytes, its header alone takes {length}")


def _foreign_kind(raw: bytes) -> str | None:
    if raw[_LENGTH_SIZE : _LENGTH_SIZE + 1] == b"{":
        return None
    if raw.startswith(b"PK\x03\x04"):
        return "zip archive (as torch.save writes, a pickle inside)"
    binary = raw[:1] == b"\x80" and raw[1:2] <= b"\x05"
    return "pickle" if binary or _OLD_PICKLE.match(raw) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _read_error(path, error) from error


def _read_head(path: Path) -> tuple[bytes, int]:
    """(the file's first bytes up to the end of its head, the file's size)."""
    if path.exists() and not path.is_file():
        raise SealedFileError(f"cannot read {path}: it is a folder or a device")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            raw = file.read(_LENGTH_SIZE + 1)
            length = _head_length(raw)
            # One byte is enough to name the file where the length cannot be true.
            return raw + file.read(length - 1 if 0 < length <= HEAD_LIMIT else 64), size
    except OSError as error:
        raise _read_error(path, error) from error


def _read_error(path: Path, error: OSError) -> SealedFileError:
    reason = {
        FileNotFoundError: "it does not exist",
        PermissionError: "no permission",
    }.get(type(error), error.strerror or str(error))
    return SealedFileError(f"cannot read {path}: {reason}")


def _head_length(raw: bytes) -> int:
    return int.from_bytes(raw[:_LENGTH_SIZE], "little")


def _canonical_json(path: Path, header: dict[str, Any]) -> str:
    number = _first_non_finite(header, "")
    if number is not None:
        raise SealedFileError(f"cannot write {path}: {number}, and JSON has no such number")
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _first_non_finite(value: Any, key: str) -> str | None:
    """'header.key is nan' for the first number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"header{key} is {value}"
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for name, item in items:
        found = _first_non_finite(item, f"{key}.{name}")
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
