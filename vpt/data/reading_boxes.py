"""From a descriptor to splits with boxes: annotations and image headers, checked and joined."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vpt.data.boxes.box_units import BoxUnits, xywh_pixels
from vpt.data.boxes.categories import Categories
from vpt.data.boxes.detection import (
    DetectionSample,
    DetectionSamples,
    DetectionSplit,
    DetectionSplits,
    Finding,
    check_findings,
    detection_holdout,
    to_coco_dict,
)
from vpt.data.boxes.whole_files import OF_WRONG_UNITS, judge_crowds, judge_losses, judge_units
from vpt.data.cuts import cut_out, cuts_of
from vpt.data.descriptor import BOX_FORMATS, Cut, Descriptor
from vpt.data.headers import read_headers
from vpt.data.images import ImageHeader
from vpt.data.near_paths import explain_missing, find_accepted, is_foreign_path
from vpt.data.readers.coco import CocoBox, CocoFile, CocoImage, read_coco_files
from vpt.data.readers.hf_objects import read_hf_objects
from vpt.data.readers.parts import check_counts, class_folders, find_root, hint
from vpt.data.readers.voc import read_voc
from vpt.data.readers.yolo import read_yolo
from vpt.data.recognising import with_written
from vpt.data.splits import SPLIT_NAMES, ContentCut, SplitName
from vpt.errors import DataError
from vpt.registry import nearest

__all__ = ["Problems", "read_detection", "to_coco_dict"]

Problems = Literal["raise", "skip", "report"]

_OVER_EDGE = 1.0  # pixels: rounding, not worth a word
_AREA_OVER_BOX = 1.1  # an outline lies in its box, but for rounding
_SMALLEST_SIDE = 0.01  # pixels: less is no box


def read_detection(
    descriptor: Descriptor,
    root: Path | None = None,
    *,
    problems: Problems = "raise",
    needed: Collection[SplitName] = SPLIT_NAMES,
    cut: ContentCut | None = None,
) -> DetectionSplits:
    """The splits of a data set with boxes; of the images only the headers are read.

    Label k is the k-th smallest category id of the training file, in every split.

    Args:
        descriptor: the data set, of one of `BOX_FORMATS`.
        root: its folder; the descriptor's own if None.
        problems: 'raise' on the first error; 'skip' images, boxes and entries with errors where
            that helps; 'report' skips likewise and never raises for a finding.
        needed: the splits whose images must be there; missing ones of the others are taken as the
            annotation file describes them.
        cut: of an earlier reading, to be made again in place of any other cut by content.

    Raises:
        DataError: a file is missing or no COCO ground truth, or there are errors; one line.
    """
    if not descriptor.holds_boxes:
        raise DataError(
            f"'{descriptor.name}' has classes of whole images (format {descriptor.format}) and no "
            "boxes; train with a config of task classification, e.g. configs/finetune.yaml, or "
            f"name boxes in a descriptor of format {', '.join(BOX_FORMATS)} "
            "(datasets/custom_coco.yaml is a template)"
        )
    try:
        return _read(descriptor, find_root(descriptor, root), problems, needed, cut)
    except DataError as error:
        raise with_written(error, descriptor) from error


def _read(
    descriptor: Descriptor,
    root: Path,
    problems: Problems,
    needed: Collection[SplitName],
    cut: ContentCut | None,
) -> DetectionSplits:
    files = _READERS[descriptor.format](descriptor, root)
    builder = _Builder(
        descriptor, root, next(iter(files.values())), _sources(descriptor, needed, cut)
    )
    found = {split: builder.split(split, file) for split, file in files.items()}
    if problems != "report":
        check_findings(builder.findings, skip=problems == "skip")
    empty = [name for name, split in found.items() if not split.samples]
    if empty and problems != "report":
        first = next((f": {each}" for each in builder.findings if each.severity == "error"), "")
        raise DataError(f"no usable image in split '{empty[0]}' of '{descriptor.name}'{first}")
    for name in empty:
        text = f"no usable image in split '{name}'"
        builder.findings.append(Finding("split_empty", files[name].path, text))
    splits = _cut(descriptor, found, builder.findings, again=cut, report=problems == "report")
    if splits.train and not any(splits.train.class_counts()) and problems != "report":
        raise DataError(f"no box in split 'train' of '{descriptor.name}'")
    if problems == "raise":
        counts: dict[str, int] = {name: len(splits.get(name) or ()) for name in SPLIT_NAMES}
        check_counts(descriptor, counts)
    return splits


_READERS: dict[str, Callable[[Descriptor, Path], dict[SplitName, CocoFile]]] = {
    "coco": read_coco_files,
    "voc": read_voc,
    "yolo": read_yolo,
    "hf_objects": read_hf_objects,
}


def _sources(
    descriptor: Descriptor, needed: Collection[SplitName], again: ContentCut | None
) -> frozenset[SplitName]:
    """The splits whose files hold the needed ones."""
    cut = {name for name in needed if isinstance(getattr(descriptor.splits, name), Cut)}
    made_again = again is not None and any(getattr(again, name, None) for name in needed)
    return frozenset(needed) - cut | ({"train"} if cut or made_again else set())


def _cut(
    descriptor: Descriptor,
    found: dict[SplitName, DetectionSplit],
    findings: list[Finding],
    *,
    again: ContentCut | None,
    report: bool,
) -> DetectionSplits:
    """Test is cut out of train where the descriptor, or an earlier reading, says so, then val."""
    cuts = cuts_of(descriptor, found, again)
    if report and not found.get("train", ()):
        cuts = {}
    found, record = cut_out(descriptor.name, found, cuts, by_name=detection_holdout)
    first = next(iter(found.values()))
    return DetectionSplits(
        found.get("train"),
        found.get("val"),
        found.get("test"),
        first.class_names,
        first.category_ids,
        tuple(findings),
        record,
    )


@dataclass
class _Builder:
    """Joins the files of a data set: classes by the first of them, the training file."""

    descriptor: Descriptor
    root: Path
    reference: CocoFile
    needed: frozenset[SplitName]
    findings: list[Finding] = field(default_factory=list)
    split_of: dict[str, str] = field(default_factory=dict)  # by the path of the image

    def __post_init__(self) -> None:
        self.categories = Categories(self.descriptor, self.reference, self.findings.append)

    def split(self, name: SplitName, file: CocoFile) -> DetectionSplit:
        self.findings += file.findings
        labels = self.categories.labels(file)
        samples = DetectionSamples.of(self._samples(name, file, labels))
        names, ids = self.categories.class_names, self.categories.ids
        split = DetectionSplit(name, samples, names, ids, file.image_names)
        if self._are_foreign(file, samples):
            return split
        judged = (
            judge_losses(self.descriptor, file, split),
            judge_crowds(self.descriptor, file, split),
        )
        self.findings += [finding for finding in judged if finding is not None]
        if name == "train" and samples:
            self._check_classes(file, split)
        empty = int((samples.target_counts == 0).sum())
        if empty:
            message = f"{empty} of {len(samples)} images have no target; kept as negatives"
            self.findings.append(Finding("images_without_boxes", file.path, message, count=empty))
        return split

    def _are_foreign(self, file: CocoFile, samples: DetectionSamples) -> bool:
        """Whether the boxes are in other units; then that alone is said of them."""
        sizes = dict(
            zip(samples.image_ids.tolist(), map(tuple, samples.sizes.tolist()), strict=True)
        )
        found = judge_units(self.descriptor, file, sizes, self.findings)
        if found is None:
            return False
        if found.severity == "error":
            self.findings[:] = [
                each
                for each in self.findings
                if each.file != file.path or each.kind not in OF_WRONG_UNITS
            ]
        self.findings.append(found)
        return found.severity == "error"

    def _check_classes(self, file: CocoFile, split: DetectionSplit) -> None:
        counts = zip(split.category_ids, split.class_names, split.class_counts(), strict=True)
        for number, name, count in counts:
            if count == 0:
                message = f"category {number} '{name}' has no box to learn from"
                self.findings.append(Finding("class_without_boxes", file.path, message))

    # Images

    def _samples(
        self, name: SplitName, file: CocoFile, labels: dict[int, int]
    ) -> Iterator[DetectionSample]:
        below = file.folder
        folder = self.root / below
        if name in self.needed and not folder.is_dir():
            beside = class_folders(folder.parent) if folder.parent.is_dir() else ()
            near = nearest(folder.name, beside)
            raise DataError(f"no folder of images '{folder}'{near}{hint(self.descriptor)}")
        # A folder elsewhere is another one on each machine: it is no part of an image's name.
        prefix = Path() if below.is_absolute() else below
        images = self._accepted(file, folder) if name in self.needed else file.images
        missing: list[CocoImage] = []
        for image, header in zip(images, _headers(folder, images), strict=True):
            source = folder / image.file_name
            size = self._size(file, image, source, header, missing, needed=name in self.needed)
            if size is None:
                continue
            place = os.path.normpath(source)
            if self.split_of.setdefault(place, name) != name:
                message = f"also an image of '{self.split_of[place]}'"
                self._add("image_in_two_splits", file, message, image)
            key = (prefix / image.file_name).as_posix()
            yield self._sample(file, image, labels, source=source, key=key, size=size)
        self._explain_missing(file, folder, missing)

    def _accepted(self, file: CocoFile, folder: Path) -> list[CocoImage]:
        """The images of a file, those that the descriptor lets be named otherwise as they are."""
        variants = self.descriptor.name_variants
        if not variants:
            return file.images
        found = find_accepted([image.file_name for image in file.images], folder, variants)
        if found:
            listed, existing = next(iter(found.items()))
            message = f"{len(found)} files are called otherwise: '{listed}' is read as '{existing}'"
            self.findings.append(Finding("file_name_variant", file.path, message, count=len(found)))
        return [
            replace(image, file_name=found.get(image.file_name, image.file_name))
            for image in file.images
        ]

    def _explain_missing(self, file: CocoFile, folder: Path, missing: list[CocoImage]) -> None:
        """One finding for each missing file, with the one that it probably means."""
        reasons = explain_missing([image.file_name for image in missing], folder)
        for image in missing:
            kind, why = "image_missing", f"{folder / image.file_name}: no such file"
            if is_foreign_path(image.file_name):
                kind, why = "file_name_invalid", "not relative to the folder of the images"
            self._add(kind, file, reasons.get(image.file_name, why), image)

    def _size(
        self,
        file: CocoFile,
        image: CocoImage,
        source: Path,
        header: ImageHeader | str,
        missing: list[CocoImage],
        *,
        needed: bool,
    ) -> tuple[int, int] | None:
        """(H, W) of the upright image; None where it is left out, or added to the missing ones.

        Args:
            file: of the image.
            image: one that it lists.
            source: the image file.
            header: of it, or why that cannot be read.
            missing: the images that are not there, to be explained together.
            needed: whether it must be there.
        """
        if isinstance(header, str):
            if header != "no such file":
                self._add("image_unreadable", file, f"{source}: {header}", image)
            elif not needed and image.size is not None:
                return image.size
            else:
                missing.append(image)
            return None
        written, turned = image.size, header.size != header.stored_size
        if written in (None, header.size):
            if header.orientation > 1 and (not turned or written is None):
                message = f"EXIF orientation {header.orientation}; boxes are taken as of upright"
                self._add("orientation", file, message, image)
            return header.size
        return self._settle_size(file, image, header)

    def _settle_size(
        self, file: CocoFile, image: CocoImage, header: ImageHeader
    ) -> tuple[int, int] | None:
        """For a size that is not the upright image's: it is, if only its sides are exchanged."""
        height, width = image.size or header.size
        written, upright = f"{width} x {height}", f"{header.size[1]} x {header.size[0]}"
        if (height, width) == header.stored_size:
            message = (
                f"{written} is the size as stored; upright (EXIF orientation "
                f"{header.orientation}) it is {upright}. Annotate upright images, or remove the tag"
            )
            self._add("size_turned", file, message, image)
            return None
        if (width, height) == header.size:
            message = f"width and height are exchanged: {written} for {upright}"
            self._add("size_exchanged", file, message, image)
            return header.size
        self._add("size_differs", file, f"{written} is written, the file has {upright}", image)
        return None

    def _add(
        self,
        kind: str,
        file: CocoFile,
        message: str,
        image: CocoImage,
        annotation: int | None = None,
    ) -> None:
        labels = file.label_files.get(image.id)
        if labels is None:
            found = Finding(kind, file.path, message, image.file_name, annotation)
        else:
            found = Finding(kind, labels, message, image.file_name, line=annotation)
        self.findings.append(found)

    # Boxes

    def _sample(
        self,
        file: CocoFile,
        image: CocoImage,
        labels: dict[int, int],
        *,
        source: Path,
        key: str,
        size: tuple[int, int],
    ) -> DetectionSample:
        kept: list[tuple[CocoBox, tuple[float, float, float, float]]] = []
        seen: set[tuple[int, tuple[float, float, float, float]]] = set()
        for box in _in_pixels(file, image, size):
            corners = self._corners(file, image, box, size)
            if corners is None or box.category_id not in labels:
                continue
            if (box.category_id, corners) in seen:
                message = f"the same box and category again: {_xywh(box)}"
                self._add("box_twice", file, message, image, box.written_id)
            seen.add((box.category_id, corners))
            kept.append((box, corners))
        boxes = np.array([corners for _, corners in kept], dtype=np.float64).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = [
            self._area(file, image, box, float(width * height))
            for (box, _), (width, height) in zip(kept, sides, strict=True)
        ]
        return DetectionSample(
            source,
            key,
            image.id,
            size,
            boxes,
            np.array([labels[box.category_id] for box, _ in kept], dtype=np.int64),
            np.array([box.crowd for box, _ in kept], dtype=np.bool_),
            np.array(areas, dtype=np.float64),
            np.array([box.id for box, _ in kept], dtype=np.int64),
        )

    def _area(self, file: CocoFile, image: CocoImage, box: CocoBox, inside: float) -> float:
        """The object's; of its box inside the image where the file has none that can be."""
        if box.area is None:
            return inside
        if box.area > _AREA_OVER_BOX * box.box[2] * box.box[3] + 1:
            message = f"area {box.area:.6g} is larger than the bbox {_xywh(box)}"
            self._add("area_invalid", file, message, image, box.written_id)
            return inside
        return box.area

    def _corners(
        self, file: CocoFile, image: CocoImage, box: CocoBox, size: tuple[int, int]
    ) -> tuple[float, float, float, float] | None:
        """The xyxy inside the image; None where nothing is left of the box."""
        left, top, width, height = box.box
        if min(width, height) < _SMALLEST_SIDE:
            self._add("box_empty", file, f"bbox {_xywh(box)} has no area", image, box.written_id)
            return None
        x1, y1, x2, y2 = left, top, left + width, top + height
        inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[1])), min(y2, float(size[0]))
        over = max(inside[0] - x1, inside[1] - y1, x2 - inside[2], y2 - inside[3])
        gone = min(inside[2] - inside[0], inside[3] - inside[1]) < _SMALLEST_SIDE
        if gone or over > _OVER_EDGE:
            text = f"bbox {_xywh(box)} in an image of {size[1]} x {size[0]}"
            kind, text = (
                ("box_outside", text) if gone else ("box_clipped", f"{text}, {over:.1f} over")
            )
            self._add(kind, file, text, image, box.written_id)
        return None if gone else inside


def _headers(folder: Path, images: Sequence[CocoImage]) -> Iterator[ImageHeader | str]:
    """The header of each image, or why there is none; an absolute path is of another machine."""
    here = [image.file_name for image in images if not is_foreign_path(image.file_name)]
    headers = iter(read_headers(folder, here))
    for image in images:
        yield "no such file" if is_foreign_path(image.file_name) else next(headers)


def _in_pixels(file: CocoFile, image: CocoImage, size: tuple[int, int]) -> list[CocoBox]:
    """An image's boxes in pixels; areas of other units are left to the boxes."""
    boxes, scale = file.boxes[image.id], file.units.scale
    if scale == "pixels" or not boxes:
        return boxes
    written = np.array([box.box for box in boxes])
    scaled = xywh_pixels(written, np.tile(size, (len(boxes), 1)), BoxUnits(scale=scale)).tolist()
    return [
        box if box.outlined else replace(box, box=tuple(values), area=None)
        for box, values in zip(boxes, scaled, strict=True)
    ]


def _xywh(box: CocoBox) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in box.box) + "]"
