"""Small data sets with a label file for each image, written by hand as tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from vpt.data.boxes.detection import DetectionSplits
from vpt.data.layouts import load_descriptor
from vpt.data.reading_boxes import Problems, read_detection
from vpt.errors import DataError

SIZE = (80, 60)  # W, H


def write_images(folder: Path, *names: str, size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number % 256, number // 256 % 256, 90)).save(folder / name)


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def voc_object(name: str, *corners: float, difficult: int | str = 0) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def voc_xml(
    *objects: str, file_name: str | None = None, size: tuple[int, int] | None = SIZE
) -> str:
    """A file as VOC's own: each object on a line of its own, the first on line 4."""
    head = "" if file_name is None else f"<filename>{file_name}</filename>"
    sides = (
        "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    )
    return "\n".join(["<annotation>", head, sides, *objects, "</annotation>"])


def read(path: Path, problems: Problems = "report") -> DetectionSplits:
    return read_detection(load_descriptor(path), problems=problems)


def kinds(splits: DetectionSplits) -> list[str]:
    return [finding.kind for finding in splits.findings]


def lines(splits: DetectionSplits, *wanted: str) -> list[str]:
    """The findings of some kinds as they are printed."""
    return [str(finding) for finding in splits.findings if finding.kind in wanted]


def keys(splits: DetectionSplits) -> dict[str, list[str]]:
    names: Sequence[str] = ("train", "val", "test")
    found = {name: splits.get(name) for name in names}  # type: ignore[arg-type]
    return {name: [each.key for each in split.samples] for name, split in found.items() if split}


def boxes(splits: DetectionSplits, split: str = "train") -> list[list[list[float]]]:
    found = splits.require(split)  # type: ignore[arg-type]
    return [sample.boxes.round(6).tolist() for sample in found.samples]


def error_of(path: Path) -> str:
    """The one line that stops a run on these data, without the descriptor that it may print."""
    with pytest.raises(DataError) as caught:
        read(path, "raise")
    text, _, written = str(caught.value).partition("; this descriptor reads the folder as it is, ")
    assert "\n" not in text
    assert not written or "format: " in written
    return text
