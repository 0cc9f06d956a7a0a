"""Readers of the layouts that CoOp and its successors share (Zhou et al. 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vpt.data.descriptor import Descriptor
from vpt.data.readers.parts import (
    UNPRINTABLE,
    Parts,
    check_class_folders,
    check_files,
    class_folders,
    class_names,
    hint,
    images_below,
    read_json,
    shown,
    text_rows,
)
from vpt.data.splits import Sample, SplitName
from vpt.errors import DataError


@dataclass(frozen=True)
class _Entry:
    """One image of a list: its path, its label and the name of its class."""

    key: str
    label: int
    name: str
    where: str


def read_split_zhou(descriptor: Descriptor, root: Path) -> Parts:
    """One JSON file, {split: [[path, label, class name], ...]}, in the order of the file."""
    file = root / str(descriptor.file)
    if not file.is_file():
        raise DataError(f"'{root}' has no {descriptor.file}{hint(descriptor)}")
    entries = _entries(file)
    names = _names_by_label(file, [entry for part in entries.values() for entry in part])
    folder = _image_folder(descriptor, root)
    samples = {
        split: [Sample(folder / entry.key, entry.label, entry.key) for entry in part]
        for split, part in entries.items()
    }
    check_files(sample for part in samples.values() for sample in part)
    return Parts(class_names(descriptor, file, names), samples)


def _entries(file: Path) -> dict[SplitName, list[_Entry]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: no object with the lists train, val and test")
    if unknown := sorted(set(content) - set(get_args(SplitName))):
        raise DataError(f"{file}: split {shown(unknown[0])} is none of train, val, test")
    entries: dict[SplitName, list[_Entry]] = {}
    for split in get_args(SplitName):
        rows = content.get(split, [])
        if not isinstance(rows, list):
            raise DataError(f"{file}: {split} is no list")
        if split in content:
            places = (f"{file}: {split}[{number}]" for number in range(len(rows)))
            entries[split] = [_entry(row, where) for row, where in zip(rows, places, strict=True)]
    return entries


def _entry(row: Any, where: str) -> _Entry:
    if not (isinstance(row, list) and [type(value) for value in row] == [str, int, str]):
        raise DataError(f"{where} is {shown(row)}; [path, label, class name] is expected")
    path, label, name = row
    for text in (path, name):
        if not text.strip() or UNPRINTABLE.search(text):
            raise DataError(f"{where}: {shown(text)} is empty or not printable")
    if Path(path).is_absolute():
        raise DataError(f"{where}: {shown(path)} is not relative to the folder of the images")
    return _Entry(Path(path).as_posix(), label, name, where)


def _names_by_label(file: Path, entries: list[_Entry]) -> list[str]:
    """The names of classes 0..C-1."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for entry in entries:
        name = names.setdefault(entry.label, entry.name)
        if name != entry.name:
            raise DataError(
                f"{entry.where}: label {entry.label} is called '{entry.name}' here and '{name}' "
                "before; a label has one name"
            )
        label = labels.setdefault(entry.name, entry.label)
        if label != entry.label:
            raise DataError(
                f"{entry.where}: class '{entry.name}' has label {entry.label} here and {label} "
                "before; a class has one label"
            )
    outside = next((entry for entry in entries if not 0 <= entry.label < len(names)), None)
    if outside is not None:
        raise DataError(
            f"{outside.where}: label {shown(outside.label)} is out of range: {len(names)} classes "
            f"are numbered 0..{len(names) - 1}"
        )
    return [names[label] for label in range(len(names))]


def read_imagenet(descriptor: Descriptor, root: Path) -> Parts:
    """train/ and val/ with a folder per WordNet id; val is for testing, as the field uses it."""
    listed = _names_of_ids(descriptor, root)
    images = _image_folder(descriptor, root)
    folders: dict[SplitName, Path] = {"train": images / "train", "test": images / "val"}
    for folder in folders.values():
        if not folder.is_dir():
            raise DataError(f"'{images}' has no folder {folder.name}{hint(descriptor)}")
    ids = class_folders(folders["train"])
    samples = {}
    for split, folder in folders.items():
        check_class_folders(folder, ids)
        samples[split] = [
            Sample(path, label, path.relative_to(images).as_posix())
            for label, wnid in enumerate(ids)
            for path in images_below(folder / wnid)
        ]
    for wnid in ids:
        if wnid not in listed:
            raise DataError(f"{root / _NAMES}: no name for class folder '{wnid}'")
    names = class_names(descriptor, root / _NAMES, _told_apart(ids, listed))
    words = () if descriptor.classes else tuple(listed[wnid] for wnid in ids)
    return Parts(names, samples, words=words)


_NAMES = "classnames.txt"


def _names_of_ids(descriptor: Descriptor, root: Path) -> dict[str, str]:
    if not (root / _NAMES).is_file():
        raise DataError(f"'{root}' has no {_NAMES}{hint(descriptor)}")
    names: dict[str, str] = {}
    for where, (wnid, name) in text_rows(root / _NAMES, fields=2, what="wnid name"):
        if wnid in names:
            raise DataError(f"{where}: id {wnid} is listed twice")
        names[wnid] = name
    return names


def _told_apart(ids: list[str], names: Mapping[str, str]) -> list[str]:
    """The name of each id; the id is added where others share it, as in CLIP's own list."""
    counts = Counter(names[wnid] for wnid in ids)
    return [names[wnid] if counts[names[wnid]] == 1 else f"{names[wnid]} ({wnid})" for wnid in ids]


def _image_folder(descriptor: Descriptor, root: Path) -> Path:
    folder = root / str(descriptor.images or "")
    if not folder.is_dir():
        raise DataError(f"no folder of images '{folder}'{hint(descriptor)}")
    return folder
