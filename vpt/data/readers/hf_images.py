"""Folders of images with a metadata file of their labels, as Hugging Face's ImageFolder has them.

The file is metadata.csv or metadata.jsonl, in the folder of each split or once in the root.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vpt.data.descriptor import AUTOMATIC_CUT, Columns, Descriptor, SplitSources
from vpt.data.image_files import find_files
from vpt.data.readers.csv_table import open_csv_table
from vpt.data.readers.parts import Parts, hint, shown, split_paths, usual_paths
from vpt.data.readers.rows import Row, key_of, label_rows
from vpt.data.readers.tables import check_value, split_of_value
from vpt.data.readers.text_files import read_text
from vpt.data.recognising import question, recognised
from vpt.data.splits import USUAL_NAMES, SplitName
from vpt.errors import DataError

FILE_NAME = "file_name"
_FILES = ("metadata.csv", "metadata.jsonl")
_ENOUGH_ROWS = 5  # to take a column of values that all differ for something else than a label
_LABELS = ("label", "labels", "class", "class_name", "category", "target")
"""Columns that are labels where several might be, in this order."""

Record = tuple[str, dict[str, Any]]
"""'file:line' and the values of one image by column."""


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder with metadata of one class, or a list of classes, for each image.

    Raises:
        DataError: the metadata cannot be read, or it is not certain which column is the label.
    """
    places = _metadata_of_splits(folder)
    own = _metadata_in(folder)
    if own is not None:
        places = {"train": own}
    if not places:
        return None
    records = _records(next(iter(places.values())))
    if not records or FILE_NAME not in records[0][1] or "objects" in records[0][1]:
        return None  # of something else, or of boxes
    seen = f"images with labels in {next(iter(places.values())).name}"
    fields: dict[str, Any] = {"format": "hf_images"}
    by_column: dict[str, str] = {}
    split_names: set[str] = set(places)
    if own is not None:
        fields["file"] = own.name
        if "split" in records[0][1]:
            by_column["split"] = "split"
        columns = Columns.model_validate(by_column)
        descriptor = Descriptor(name="data", columns=columns, **fields)
        split_names = {_split_of(descriptor, record, folder) for record in records}
    sources = SplitSources(
        val=None if "val" in split_names else AUTOMATIC_CUT,
        test=AUTOMATIC_CUT if split_names == {"train"} and own is not None else None,
    )
    fields["splits"] = sources.model_dump(exclude_none=True)
    choices = _label_columns(records)
    descriptors = [
        recognised(folder, f"{seen}, column '{name}'", columns={**by_column, **said}, **fields)
        for name, said in choices.items()
    ]
    if len(descriptors) != 1:
        listed = ", ".join(f"'{name}'" for name in choices) or "none"
        raise question(
            folder,
            f"has metadata in which it is not certain what the label is ({listed})",
            descriptors or [recognised(folder, seen, **fields)],
        )
    (name,) = choices
    if name not in _LABELS and _all_differ(records, name):
        raise question(
            folder,
            f"has metadata whose only column, '{name}', differs from image to image, as captions "
            "do and labels do not",
            descriptors,
        )
    return descriptors[0]


def is_layout(folder: Path) -> bool:
    """Whether a folder, or one of its splits' folders, has a metadata file that names images."""
    own = _metadata_in(folder)
    places = [own] if own is not None else list(_metadata_of_splits(folder).values())
    return any(FILE_NAME in values for place in places for _, values in _records(place, 1))


def read_hf_images(descriptor: Descriptor, root: Path) -> Parts:
    """The images that metadata files list, in their order."""
    if descriptor.file is not None:
        places = {root: root / descriptor.file}
        rows = _rows_of_root(descriptor, root)
    else:
        folders = split_paths(descriptor, root, suffix="")
        files = {split: _metadata_in(folder) for split, folder in folders.items()}
        missing = next((folders[split] for split, file in files.items() if file is None), None)
        if not folders or missing is not None:
            raise DataError(f"'{missing or root}' has no {' or '.join(_FILES)}{hint(descriptor)}")
        places = {folders[split]: file for split, file in files.items() if file is not None}
        rows = {
            split: _rows(descriptor, folders[split], root, _records(file))
            for split, file in files.items()
            if file is not None
        }
    listed = {row.key for part in rows.values() for row in part}
    notes = []
    for folder, file in places.items():
        found = {path.relative_to(root).as_posix() for path in find_files(folder).images}
        if unlisted := len(found - listed):
            notes.append(f"{unlisted:,} images in '{folder}' left out: {file.name} has no row")
    parts = label_rows(descriptor, root, rows)
    return Parts(parts.class_names, parts.samples, notes=tuple(notes))


def _rows_of_root(descriptor: Descriptor, root: Path) -> dict[SplitName, list[Row]]:
    records = _records(root / str(descriptor.file))
    rows: dict[SplitName, list[Row]] = {}
    for record, row in zip(records, _rows(descriptor, root, root, records), strict=True):
        rows.setdefault(_split_of(descriptor, record, root), []).append(row)
    return rows


def _split_of(descriptor: Descriptor, record: Record, root: Path) -> SplitName:
    """The split of an image: of its column, or of the folder that it is in; else train."""
    where, values = record
    if descriptor.columns.split is not None:
        return split_of_value(descriptor, str(values.get(descriptor.columns.split)), where)
    first, slash, _ = key_of(str(values.get(FILE_NAME)), root).partition("/")
    for split, names in USUAL_NAMES.items():
        if slash and first.casefold() in names:
            return split
    return "train"


def _rows(descriptor: Descriptor, folder: Path, root: Path, records: Sequence[Record]) -> list[Row]:
    columns = descriptor.columns
    name = columns.path if "path" in columns.model_fields_set else FILE_NAME
    label = columns.labels or columns.label
    if not {"label", "labels"} & columns.model_fields_set:
        choices = list(_label_columns(records))
        label = choices[0] if len(choices) == 1 else label
    rows = []
    for where, values in records:
        for column in (name, label):
            if column not in values:
                raise DataError(
                    f"{where}: no '{column}' (there are: {', '.join(values)}); name the column "
                    f"under columns.{'path' if column == name else 'label'} of a descriptor"
                )
        path = str(values[name]).strip()
        check_value(path, name, where)
        place = folder.relative_to(root) / key_of(path, folder)
        rows.append(Row(place.as_posix(), _labels(values[label], columns, label, where), where))
    return rows


def _labels(value: Any, columns: Columns, column: str, where: str) -> tuple[str, ...]:
    several = isinstance(value, list)
    if several != columns.multi_label:
        use = "labels" if several else "label"
        raise DataError(
            f"{where}: '{column}' is {shown(value)}, {'a list' if several else 'no list'}; name it "
            f"under columns.{use}"
        )
    values = value if several else [value]
    for each in values:
        if not isinstance(each, str | int) or isinstance(each, bool):
            raise DataError(f"{where}: '{column}' is {shown(value)}, no name or whole number")
        check_value(str(each).strip(), column, where)
    labels = tuple(str(each).strip() for each in values)
    if len(set(labels)) < len(labels):
        raise DataError(f"{where}: a class is listed twice in '{column}'")
    return labels


def _label_columns(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """The columns that may be the label, with what `columns` of a descriptor says of each."""
    names = dict.fromkeys(name for _, values in records for name in values)
    others = [name for name in names if not name.endswith(FILE_NAME) and name and name != "split"]
    usual = [name for name in _LABELS if name in others]
    chosen = others if len(others) == 1 else usual[:1] or others
    lists = {name for _, values in records for name in chosen if isinstance(values.get(name), list)}
    return {name: {"labels" if name in lists else "label": name} for name in chosen}


def _all_differ(records: Sequence[Record], name: str) -> bool:
    """Whether no two rows share a value; too few rows say nothing."""
    values = {str(values.get(name)) for _, values in records}
    return len(values) == len(records) >= _ENOUGH_ROWS


def _metadata_of_splits(folder: Path) -> dict[SplitName, Path]:
    found: dict[SplitName, Path] = {}
    for split, paths in usual_paths(folder).items():
        for path in paths:
            if split not in found and (file := _metadata_in(path)) is not None:
                found[split] = file
    return found


def _metadata_in(folder: Path) -> Path | None:
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    if len(files) > 1:
        raise DataError(f"'{folder}' has {' and '.join(_FILES)}; keep one of them")
    return files[0] if files else None


def _records(path: Path, most: int | None = None) -> list[Record]:
    """The rows of a metadata file, or the first of them.

    Raises:
        DataError: it is no CSV, or a line is no JSON object.
    """
    if path.suffix.lower() == ".csv":
        table = open_csv_table(path, [FILE_NAME])
        return [
            (f"{path}:{line}", dict(zip(table.header, fields, strict=True)))
            for line, fields in islice(table.rows, most)
        ]
    records: list[Record] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if len(records) == most:
            break
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: is not a JSON object ({error})") from error
        if not isinstance(values, dict):
            raise DataError(f"{path}:{number}: is {shown(values)}, not a JSON object")
        records.append((f"{path}:{number}", values))
    return records
