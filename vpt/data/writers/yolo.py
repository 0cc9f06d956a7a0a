"""Boxes in YOLO's format: a text file for each image, and a data.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from vpt.data.boxes.detection import DetectionSample, DetectionSplit
from vpt.data.splits import SplitName


def write_yolo(
    folder: Path,
    splits: Mapping[SplitName, DetectionSplit],
    names: Mapping[SplitName, Sequence[str]],
    *,
    lists: Path | None = None,
) -> list[str]:
    """folder/data.yaml, and folder/labels/<split>/<image>.txt; empty where there is no object.

    Args:
        folder: exists.
        splits: what to write.
        names: of each image's file below folder/images/<split>, in the order of the samples.
        lists: the images stay in this folder, where `names` are relative to: they are listed in
            folder/<split>.txt, and the labels lie below folder/labels.

    Returns:
        What the format could not say, one line each.
    """
    sources: dict[str, str] = {}
    for name, split in splits.items():
        below = folder / "labels" if lists is not None else folder / "labels" / name
        for sample, file_name in zip(split.samples, names[name], strict=True):
            path = below / PurePosixPath(file_name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_lines(sample)), encoding="utf-8")
        sources[name] = f"images/{name}" if lists is None else f"{name}.txt"
        if lists is not None:
            text = "".join(f"{lists / each}\n" for each in names[name])
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    classes = next(iter(splits.values())).class_names
    rows = [f"{name}: {source}" for name, source in sources.items()]
    rows += [f"nc: {len(classes)}", "names:"]
    rows += [f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in enumerate(classes)]
    (folder / "data.yaml").write_text("\n".join(rows) + "\n", encoding="utf-8")
    crowds = sum(int(s.crowds.sum()) for split in splits.values() for s in split.samples)
    if not crowds:
        return []
    return [f"crowds and difficult objects left out, for which YOLO has no mark: {crowds}"]


def _lines(sample: DetectionSample) -> list[str]:
    height, width = sample.size
    lines = []
    for (left, top, right, bottom), label in zip(
        sample.target_boxes.tolist(), sample.target_labels.tolist(), strict=True
    ):
        centre = ((left + right) / 2 / width, (top + bottom) / 2 / height)
        shares = (*centre, (right - left) / width, (bottom - top) / height)
        lines.append(" ".join([str(label), *(f"{share:.9f}" for share in shares)]) + "\n")
    return lines
