"""A split while its label files are read, and what is said of those that cannot be."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vpt.data.boxes.box_units import COCO_UNITS, BoxUnits
from vpt.data.boxes.detection import Finding
from vpt.data.readers.coco import CocoBox, CocoFile, CocoImage
from vpt.data.readers.parts import UNPRINTABLE
from vpt.data.readers.text_files import read_text
from vpt.errors import DataError


class LabelFileError(DataError):
    """A label file that cannot be used.

    Attributes:
        path: of the file.
        reason: what is wrong with it, without the path.
        line: where, counted from 1, or None.
    """

    def __init__(self, path: Path, reason: str, line: int | None = None):
        super().__init__(f"{path if line is None else f'{path}:{line}'}: {reason}")
        self.path, self.reason, self.line = path, reason, line


def names_in_file(path: Path) -> list[str]:
    """The class names in a text file, one a line; of a blank line within 'class_<index>'.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    lines = read_text(path).splitlines()
    names = [" ".join(UNPRINTABLE.sub(" ", line).split()) for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path}: names no class")
    return [name or f"class_{index}" for index, name in enumerate(names)]


@dataclass
class LabelledSplit:
    """A split while its label files are read.

    Attributes:
        source: what names it.
        base: what the images' names are relative to.
        categories: id -> name.
        units: of its boxes.
    """

    source: Path
    base: Path
    categories: dict[int, str]
    units: BoxUnits = COCO_UNITS
    images: list[CocoImage] = field(default_factory=list)
    boxes: dict[int, list[CocoBox]] = field(default_factory=dict)
    label_files: dict[int, Path] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _last_box: int = 0

    def add_image(self, image: Path, label: Path | None, size: tuple[int, int] | None) -> int:
        """Its id: images are numbered from 1."""
        number = len(self.images) + 1
        name = self.name_of(image)
        if UNPRINTABLE.search(name):
            text = "has a name that is no text in UTF-8, or holds a control character"
            self.findings.append(Finding("file_name_invalid", self.source, f"{name!a} {text}"))
            return 0
        self.images.append(CocoImage(number, name, size))
        self.boxes[number] = []
        if label is not None:
            self.label_files[number] = label
        return number

    def name_of(self, image: Path) -> str:
        """The name of an image in its data set."""
        return Path(os.path.relpath(image, self.base)).as_posix()

    def add_box(
        self,
        image: int,
        category: int,
        box: tuple[float, float, float, float],
        *,
        line: int | None = None,
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """A box of an image that was added.

        Args:
            image: its number; 0: it was refused, and so is the box.
            category: its number.
            box: xywh in `units`.
            line: of the label file, counted from 1.
            area: of the object, where the file has it.
            crowd: whether it is no target.
        """
        self._last_box += 1
        if image:
            found = CocoBox(self._last_box, line, category, box, area, crowd)
            self.boxes[image].append(found)

    def add_line(self, kind: str, message: str, line: int) -> None:
        """Something wrong with a line of the source itself."""
        self.findings.append(Finding(kind, self.source, message, line=line))

    def add_unreadable(self, image: Path, error: LabelFileError) -> None:
        """A label file that cannot be used; its image is left out."""
        self.add("label_unreadable", error.reason, image, error.path, error.line)

    def add(
        self, kind: str, message: str, image: Path, label: Path | None, line: int | None = None
    ) -> None:
        """Something wrong with an image's label file; a box that cannot be read is counted.

        Args:
            kind: see `Finding`.
            message: likewise.
            image: the file.
            label: its label file; None: the list or folder of the split.
            line: of the label file, counted from 1.
        """
        self.counts["unusable"] += kind.startswith("box_")
        found = Finding(kind, label or self.source, message, self.name_of(image), line=line)
        self.findings.append(found)

    def count(self, kind: str, text: str) -> None:
        """A finding for what was counted, if there was any."""
        if count := self.counts[kind]:
            self.findings.append(Finding(kind, self.source, f"{count} {text}", count=count))

    def file(self, root: Path) -> CocoFile:
        """All that was added."""
        return CocoFile(
            self.source,
            self.categories,
            self.images,
            self.boxes,
            self.findings,
            self.units,
            unusable=self.counts["unusable"],
            folder=Path() if self.base == root else self.base,
            label_files=self.label_files,
        )
