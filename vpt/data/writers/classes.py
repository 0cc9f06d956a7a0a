"""Classes of whole images: a folder for each class, or a CSV file for each split."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt.data.splits import Split, SplitName
from vpt.errors import DataError

_SEPARATORS = "|;/~^"


def write_csv(
    folder: Path, splits: Mapping[SplitName, Split], paths: Mapping[SplitName, Sequence[str]]
) -> dict[str, Any]:
    """folder/<split>.csv with the columns path and label, or labels of several classes.

    Args:
        folder: exists.
        splits: what to write.
        paths: of each image, in the order of the samples.

    Returns:
        The fields of a descriptor that reads the files.

    Raises:
        DataError: no separator is free for the classes of an image.
    """
    names = next(iter(splits.values())).class_names
    several = any(split.multi_label for split in splits.values())
    separator = next((each for each in _SEPARATORS if not any(each in n for n in names)), None)
    if several and separator is None:
        raise DataError(f"the class names hold all of {_SEPARATORS}: none can stand between two")
    for name, split in splits.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "labels" if several else "label"])
            for sample, path in zip(split.samples, paths[name], strict=True):
                words = (names[label] for label in sample.classes)
                writer.writerow([path, (separator or "").join(words)])
    columns = {"columns": {"labels": "labels", "separator": separator}} if several else {}
    return {"format": "csv", "classes": list(names), **columns}
