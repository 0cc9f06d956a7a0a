"""Parquet files with images inside, as the Hugging Face Hub stores data sets; through pyarrow.

pyarrow is an optional package: it is imported where a file is read, and nowhere else.
"""

from __future__ import annotations

import glob
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from vpt.data.descriptor import Columns, Cut, Descriptor
from vpt.data.images import decode_image
from vpt.data.readers.parts import Parts
from vpt.data.readers.rows import Row, key_of, label_of, names_of_rows
from vpt.data.recognising import recognised
from vpt.data.rgb import ValueRange
from vpt.data.splits import PackedImage, Sample, SplitName
from vpt.errors import DataError

CACHED_BYTES = 128 * 2**20
"""Most bytes of row groups that a process keeps, beside the one that it reads from."""

_USUAL_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid"),
    "test": ("test",),
}
_USUAL_PLACES = (
    "data/{}-*.parquet",
    "{}-*.parquet",
    "{}.parquet",
    "{}/*.parquet",
    "default/{}/*.parquet",
)


@dataclass(frozen=True)
class LabelColumn:
    """The labels of a file.

    Attributes:
        values: of each row: numbers, or names.
        class_names: that the file's Hugging Face metadata give to the numbers; None: none.
    """

    values: list[tuple[int | str, ...]]
    class_names: tuple[str, ...] | None


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder of parquet files; None: it holds none where they usually lie."""
    for place in ("*.parquet", "data/*.parquet"):
        if any(folder.glob(place)):
            return recognised(folder, f"parquet files: {place}", format="parquet")
    return None


def read_parquet(descriptor: Descriptor, root: Path) -> Parts:
    """A sample for each row of each file; images stay in their files."""
    columns = descriptor.columns
    forget_files()
    read = {
        split: [(file, read_labels(file, columns)) for file in files]
        for split, files in parquet_files(descriptor, root).items()
    }
    every = [pair for pairs in read.values() for pair in pairs]
    names = descriptor.classes or common_names(every)
    names = names or names_of_rows(
        Row("", tuple(map(str, values)), f"{file}: row {row}")
        for file, labels in every
        for row, values in enumerate(labels.values)
    )
    numbers = {name: label for label, name in enumerate(names)}
    samples = {
        split: [
            Sample(
                PackedImage(file, row, columns.image),
                _packed_label(values, f"{file}: row {row}", numbers, columns),
                f"{name}:{row}",
            )
            for file, labels in pairs
            for name in [key_of(os.path.relpath(file, root))]
            for row, values in enumerate(labels.values)
        ]
        for split, pairs in read.items()
    }
    return Parts(tuple(names), samples)


def _packed_label(
    values: tuple[int | str, ...], where: str, numbers: dict[str, int], columns: Columns
) -> int | tuple[int, ...]:
    """The label of a row: numbers stand for themselves, whatever the classes are called."""
    for value in values:
        if isinstance(value, int) and not 0 <= value < len(numbers):
            raise DataError(
                f"{where}: label {value} is out of range: {len(numbers)} classes are numbered "
                f"0..{len(numbers) - 1}"
            )
    labels = {
        value if isinstance(value, int) else label_of(value, where, numbers) for value in values
    }
    return tuple(sorted(labels)) if columns.multi_label else labels.pop()


def parquet_files(descriptor: Descriptor, root: Path) -> dict[SplitName, list[Path]]:
    """The files of each split, sorted: those that are named, or the usual ones where they exist.

    Raises:
        DataError: pyarrow is missing, or a split is named that no file is of.
    """
    if find_spec("pyarrow") is None:
        raise DataError(
            "format parquet needs the package pyarrow: pip install 'vpt[parquet]', or "
            "pip install pyarrow"
        )
    found: dict[SplitName, list[Path]] = {}
    for split, names in _USUAL_NAMES.items():
        source = getattr(descriptor.splits, split)
        if isinstance(source, Cut):
            continue
        if source is not None:
            found[split] = _named_files(root, source)
            if not found[split]:
                raise DataError(
                    f"splits.{split} of '{descriptor.name}': no parquet file at '{root / source}'"
                )
        else:
            patterns = [place.format(name) for name in names for place in _USUAL_PLACES]
            usual = next((files for each in patterns if (files := sorted(root.glob(each)))), None)
            if usual is not None:
                found[split] = usual
    return found


def _named_files(root: Path, source: str) -> list[Path]:
    """Of a file, a folder of files, or a pattern with signs such as *."""
    if (root / source).is_dir():
        return sorted((root / source).glob("*.parquet"))
    if (root / source).is_file():
        return [root / source]
    # Not Path.glob, which refuses whole paths.
    found = glob.glob(source, root_dir=root, recursive=True)  # noqa: PTH207
    return sorted(root / each for each in found)


def read_labels(file: Path, columns: Columns) -> LabelColumn:
    """The labels of a file, one or (of `columns.labels`) any number for each row; no image is read.

    Raises:
        DataError: the file cannot be read, or has not these columns.
    """
    import pyarrow as pa

    parquet = _opened(file)
    schema = parquet.schema_arrow
    name = columns.labels or columns.label
    for wanted in (columns.image, name):
        if wanted not in schema.names and "objects" in schema.names:
            raise DataError(
                f"{file}: the column 'objects' holds boxes, which are not read from parquet files; "
                "save the images in a folder with a metadata.jsonl, or in COCO's format"
            )
        if wanted not in schema.names:
            raise DataError(
                f"{file}: no column '{wanted}' ({', '.join(schema.names)}); name it under 'columns'"
            )
    _check_image_type(file, columns.image, schema.field(columns.image).type)
    kind = schema.field(name).type
    several = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    value_type = kind.value_type if several else kind
    if several != columns.multi_label:
        use, instead = ("labels", "label") if several else ("label", "labels")
        raise DataError(
            f"{file}: column '{name}' holds {'lists of labels' if several else 'one label a row'}; "
            f"name it under columns.{use}, not columns.{instead}"
        )
    if not (pa.types.is_integer(value_type) or pa.types.is_string(value_type)):
        raise DataError(f"{file}: column '{name}' is of type {kind}, not of numbers or texts")
    rows = parquet.read(columns=[name], use_threads=False).column(name).to_pylist()
    empty = next((row for row, value in enumerate(rows) if value is None), None)
    if empty is not None:
        raise DataError(f"{file}: row {empty} has no value for '{name}'")
    values = [tuple(row) if several else (row,) for row in rows]
    return LabelColumn(values, _class_names(file, schema, name))


def _check_image_type(file: Path, name: str, kind: Any) -> None:
    import pyarrow as pa

    packed = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (packed or _is_binary(kind)):
        raise DataError(
            f"{file}: column '{name}' is of type {kind}; images are expected as bytes, or as a "
            "struct of bytes and path"
        )


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(file: Path, schema: Any, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of a list of them, in the schema's Hugging Face metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(text)["info"]["features"][column] if text else {}
        if isinstance(feature, list):  # an older way to write a list
            feature = feature[0]
        names = feature.get("feature", feature).get("names")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    if isinstance(names, dict):  # an older way as well: {"0": name, ...}
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or len(set(map(str, names))) < len(names):
        return None
    return tuple(map(str, names)) or None


def read_packed_image(source: PackedImage, *, value_range: ValueRange | None = None) -> Image.Image:
    """The image of a row, whole, upright, in RGB; for `value_range` see `read_image`.

    Its row group is read, and kept for the next image as long as `CACHED_BYTES` last.

    Raises:
        DataError: the file cannot be read, or the row holds no image.
    """
    data = packed_bytes(source)
    return decode_image(data, str(source), value_range=value_range)


def packed_bytes(source: PackedImage) -> bytes:
    """The encoded image of a row.

    Raises:
        DataError: the file cannot be read, or the row holds no bytes.
    """
    value = _groups_of_this_process().value(source)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise DataError(f"{source}: holds no bytes of an image (a path alone is not followed)")
    return data


class _RowGroups:
    """Row groups of image columns, the ones used last; for one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._files: dict[Path, tuple[Any, list[int]]] = {}
        self._groups: OrderedDict[tuple[Path, str, int], Any] = OrderedDict()

    def value(self, source: PackedImage) -> Any:
        file, ends = self._file(source.file)
        number = bisect_right(ends, source.row)
        if number == len(ends):
            raise DataError(f"{source}: the file has {ends[-1] if ends else 0} rows; it changed")
        key = (source.file, source.column, number)
        if key not in self._groups:
            self._groups[key] = _read_group(file, source, number)
            while len(self._groups) > 1 and self._bytes() > CACHED_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        start = ends[number - 1] if number else 0
        return self._groups[key][source.row - start].as_py()

    def _bytes(self) -> int:
        return sum(group.nbytes for group in self._groups.values())

    def _file(self, path: Path) -> tuple[Any, list[int]]:
        """An opened file, and the number of rows up to the end of each row group."""
        if path not in self._files:
            file = _opened(path)
            groups = range(file.metadata.num_row_groups)
            ends = accumulate(file.metadata.row_group(number).num_rows for number in groups)
            self._files[path] = file, list(ends)
        return self._files[path]


_groups = _RowGroups()


def _groups_of_this_process() -> _RowGroups:
    """Open files are not shared with a process that this one was forked from."""
    global _groups
    if _groups.process != os.getpid():
        _groups = _RowGroups()
    return _groups


def forget_files() -> None:
    """Close every file and drop what was kept of them: they may have changed."""
    global _groups
    _groups = _RowGroups()


def _read_group(file: Any, source: PackedImage, number: int) -> Any:
    import pyarrow as pa

    packed = not _is_binary(file.schema_arrow.field(source.column).type)
    column = f"{source.column}.bytes" if packed else source.column
    try:
        table = file.read_row_group(number, columns=[column], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(source.file, error) from error
    return table.column(0)


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    detail = (str(error) or type(error).__name__).splitlines()[0]
    return DataError(f"{path}: cannot be read as parquet ({detail})")


def common_names(columns: Sequence[tuple[Path, LabelColumn]]) -> tuple[str, ...] | None:
    """The class names that all files give; None where none gives any.

    Raises:
        DataError: two files give other names.
    """
    given = [(file, each.class_names) for file, each in columns if each.class_names is not None]
    for file, names in given:
        if names != given[0][1]:
            raise DataError(f"{file} has other class names than {given[0][0]}")
    return given[0][1] if given else None
