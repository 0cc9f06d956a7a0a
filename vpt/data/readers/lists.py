"""Text files with a line for each image: 'path label', or 'class/image'."""

from __future__ import annotations

from pathlib import Path

from vpt.data.descriptor import Descriptor
from vpt.data.readers.parts import Parts, hint, split_paths, text_rows
from vpt.data.readers.rows import Row, key_of, label_rows
from vpt.data.splits import SplitName
from vpt.errors import DataError


def read_image_list(descriptor: Descriptor, root: Path) -> Parts:
    """'path label' in each line; the path may hold blanks."""
    rows = {
        split: [
            Row(key_of(path, root), (label,), where)
            for where, (path, label) in text_rows(file, fields=2, what="path label", last=True)
        ]
        for split, file in split_paths(descriptor, root, suffix=".txt").items()
    }
    return label_rows(descriptor, root, rows)


def read_path_list(descriptor: Descriptor, root: Path) -> Parts:
    """'class/image' in each line: the folder of an image is its class."""
    lists = split_paths(descriptor, root, suffix=".txt")
    if not lists:
        raise DataError(f"'{root}' has no list of images{hint(descriptor)}")
    folder = Path(str(descriptor.images or ""))
    rows: dict[SplitName, list[Row]] = {}
    for split, file in lists.items():
        rows[split] = []
        for where, (path,) in text_rows(file, fields=1, what="class/image"):
            name, slash, rest = path.partition("/")
            if not (name and slash and rest) or ".." in path.split("/"):
                raise DataError(f"{where}: '{path[:80]}' is not 'class/image'")
            key = (folder / f"{path}{descriptor.suffix}").as_posix()
            rows[split].append(Row(key, (name,), where))
    found = {label for part in rows.values() for row in part for label in row.labels}
    names = descriptor.classes or sorted(found)
    return label_rows(descriptor.model_copy(update={"classes": names}), root, rows)
