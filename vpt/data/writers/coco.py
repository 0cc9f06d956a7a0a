"""Boxes in COCO's format: one JSON file for each split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpt.data.boxes.detection import DetectionSplit, to_coco_dict
from vpt.data.splits import SplitName


def write_coco(
    folder: Path,
    splits: Mapping[SplitName, DetectionSplit],
    names: Mapping[SplitName, Sequence[str]],
) -> list[str]:
    """folder/annotations/<split>.json; ids, crowds and areas as they were read.

    Args:
        folder: exists.
        splits: what to write.
        names: file_name of each image, in the order of the samples.

    Returns:
        What the format could not say: nothing.
    """
    (folder / "annotations").mkdir()
    for name, split in splits.items():
        content = to_coco_dict(split)
        for image, file_name in zip(content["images"], names[name], strict=True):
            image["file_name"] = file_name
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (folder / "annotations" / f"{name}.json").write_text(text, encoding="utf-8")
    return []
