"""Boxes in PASCAL VOC's format: an XML file for each image, and a list of names for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from vpt.data.boxes.detection import DetectionSample, DetectionSplit
from vpt.data.splits import SplitName


def write_voc(
    folder: Path,
    splits: Mapping[SplitName, DetectionSplit],
    names: Mapping[SplitName, Sequence[str]],
) -> list[str]:
    """folder/Annotations/<image>.xml, folder/ImageSets/Main/<split>.txt, folder/classes.txt.

    Corners count from 1 and belong to the box, with fractions where the boxes have them. A crowd
    becomes a difficult object. The classes' order is in classes.txt, which VOC itself has not.

    Args:
        folder: exists.
        splits: what to write.
        names: of each image's file below JPEGImages, in the order of the samples; no two stems
            alike.

    Returns:
        What the format could not say, one line each.
    """
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    crowds = 0
    for name, split in splits.items():
        for sample, file_name in zip(split.samples, names[name], strict=True):
            path = folder / "Annotations" / PurePosixPath(file_name).with_suffix(".xml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_xml(sample, split.class_names, file_name), encoding="utf-8")
            crowds += int(sample.crowds.sum())
        stems = [PurePosixPath(each).with_suffix("").as_posix() for each in names[name]]
        (lists / f"{name}.txt").write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")
    classes = next(iter(splits.values())).class_names
    (folder / "classes.txt").write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")
    return [f"crowds written as difficult objects: {crowds}"] if crowds else []


def _xml(sample: DetectionSample, classes: Sequence[str], file_name: str) -> str:
    height, width = sample.size
    rows = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(PurePosixPath(file_name).name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    columns = (sample.boxes.tolist(), sample.labels.tolist(), sample.crowds.tolist())
    for (left, top, right, bottom), label, crowd in zip(*columns, strict=True):
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        box = "".join(f"<{name}>{_number(value)}</{name}>" for name, value in corners.items())
        rows += [
            "  <object>",
            f"    <name>{escape(classes[label])}</name>",
            f"    <difficult>{int(crowd)}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*rows, "</annotation>"]) + "\n"


def _number(value: float) -> str:
    return f"{value:.5f}".rstrip("0").rstrip(".")
