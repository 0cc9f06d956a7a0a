"""Splits of images with boxes, and what was found wrong with them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpt.data.boxes.detection_samples import DetectionSample as DetectionSample
from vpt.data.boxes.detection_samples import DetectionSamples as DetectionSamples
from vpt.data.sampling import shuffled
from vpt.data.splits import ContentCut, SplitsOf
from vpt.data.texts import Places
from vpt.errors import DataError

Severity = Literal["error", "warning", "note"]

# kind -> (severity, what it is and what becomes of it). 'error' stops a run.
KINDS: dict[str, tuple[Severity, str]] = {
    "box_units": ("error", "the boxes do not look like those of their format"),
    "all_crowds": (
        "error",
        "all objects are marked as crowds or difficult: nothing to learn from",
    ),
    "annotations_missing": ("error", "a named file has no annotations"),
    "box_malformed": ("error", "a bbox is not a list of four numbers"),
    "box_not_finite": ("error", "a bbox holds NaN or infinity"),
    "box_negative": ("error", "a bbox has a negative width or height"),
    "boxes_lost": ("error", "more than 5 % of the boxes of a split cannot be used"),
    "category_id_invalid": ("error", "a category has no whole number as id"),
    "category_id_twice": ("error", "two categories share an id"),
    "category_not_in_train": ("error", "boxes have a category that the training file lacks"),
    "category_renamed": ("error", "a category has another name than in the training file"),
    "counts_differ": ("error", "there are more or fewer images than the descriptor says"),
    "file_name_invalid": ("error", "an image has no usable file_name"),
    "ground_truth_score": ("error", "the boxes, scored as predictions of themselves, miss AP 1"),
    "image_id_invalid": ("error", "an image has no whole number as id"),
    "image_id_twice": ("error", "two images share an id"),
    "image_in_two_splits": ("error", "one file is an image of two splits"),
    "image_missing": ("error", "a listed image does not exist"),
    "image_twice": ("error", "one file is listed as two images"),
    "image_unreadable": ("error", "an image does not decode"),
    "malformed": ("error", "an entry is not an object"),
    "no_boxes": ("error", "a split to learn from, or to choose by, has no box"),
    "size_differs": ("error", "width and height are not those of the file"),
    "split_empty": ("error", "no image of a split can be used"),
    "split_missing": ("error", "training needs train and val"),
    "size_turned": ("error", "width and height are of the file before its EXIF orientation"),
    "box_not_relative": ("error", "a number of a YOLO label is not in 0..1"),
    "label_unreadable": ("error", "a label file cannot be read"),
    "unknown_category": ("error", "an annotation has a category that is not listed"),
    "unknown_image": ("error", "an annotation is of an image that is not listed"),
    "annotation_id_invalid": ("warning", "annotations have no usable id; renumbered in memory"),
    "annotation_id_twice": ("warning", "annotations share an id; renumbered in memory"),
    "annotation_id_zero": ("warning", "id 0 counts as a miss in pycocotools; renumbered in memory"),
    "area_invalid": (
        "warning",
        "an area is not above 0, or above its box's; that is taken",
    ),
    "area_missing": ("warning", "annotations have no area; width x height is taken"),
    "box_from_outline": ("warning", "boxes are missing or empty; taken from the segmentations"),
    "box_units_doubtful": ("warning", "the boxes lie as they do in other units; taken as COCO's"),
    "box_clipped": ("warning", "a box reaches over the edge by more than a pixel; clipped"),
    "box_empty": ("warning", "a box has no width or no height; dropped"),
    "box_outside": ("warning", "a box lies outside of its image; dropped"),
    "classes_renamed": ("warning", "the descriptor calls the categories otherwise"),
    "box_twice": ("warning", "an image has the same box and category twice; kept"),
    "category_names_alike": ("warning", "classes differ in capitals or blanks alone"),
    "category_name_twice": ("warning", "categories share a name; their ids are added to it"),
    "category_unnamed": ("warning", "a category has no name; its id is taken"),
    "category_unused": ("warning", "a category that the training file lacks, without boxes"),
    "class_without_boxes": ("warning", "a class has no box to learn from"),
    "content_in_two_splits": ("warning", "two splits hold one image, byte by byte: a leak"),
    "content_of_two_classes": ("warning", "one image, byte by byte, is of two classes"),
    "crowd_invalid": ("warning", "an iscrowd is not 0 or 1; 0 is taken"),
    "crowd_missing": ("warning", "annotations have no iscrowd; 0 is taken"),
    "file_name_backslash": ("warning", "file names have backslashes; read as slashes"),
    "ids_as_names": ("warning", "images or categories have names as ids; numbered in memory"),
    "image_named": ("warning", "annotations name their image; taken as its id"),
    "category_named": ("warning", "annotations name their category; taken as its id"),
    "category_spelled": ("warning", "a category is spelled otherwise than in the training file"),
    "commas_in_labels": ("warning", "lines of YOLO labels have commas; read as blanks or points"),
    "file_name_differs": ("warning", "label files name another image; the one beside is taken"),
    "image_listed_twice": ("warning", "an image is listed again; taken once"),
    "image_without_label": ("warning", "images have no label file; left out"),
    "label_without_image": ("warning", "label files have no image; left out"),
    "labels_mostly_missing": ("warning", "most images have no label file; kept as negatives"),
    "ids_as_text": ("warning", "ids are texts; read as numbers"),
    "values_narrow": (
        "warning",
        "images of more than 8 bits do not use, or exceed, the range they are scaled by",
    ),
    "ignore_flag": ("warning", "'ignore' flags, which the COCO evaluation never reads; dropped"),
    "orientation": ("warning", "the EXIF orientation turns the image; boxes taken as of upright"),
    "size_exchanged": ("warning", "width and height are exchanged; those of the file are taken"),
    "size_missing": ("warning", "images have no width and height; those of the file are taken"),
    "test_without_boxes": ("warning", "the test split has no box: its AP is undefined"),
    "test_without_truth": ("note", "a test split without annotations is left out"),
    "category_is_group": ("note", "a category is the group of all others, without boxes; left out"),
    "corners_from_zero": ("note", "PASCAL VOC's corners count from 0 here"),
    "difficult_left_out": ("note", "objects are marked as difficult; left out"),
    "label_missing": ("note", "images have no label file; kept as negatives"),
    "file_name_variant": ("note", "files with other names, as the descriptor accepts"),
    "content_twice": ("note", "a split holds one image twice, byte by byte"),
    "as_read": ("note", "how the images were found and parted"),
    "class_rare": ("note", "classes with few examples to learn from"),
    "crowded": ("note", "more than 100 boxes of a class in an image; COCO counts 100 detections"),
    "small_boxes": ("note", "boxes shorter than half a patch of 16 pixels in the model's square"),
    "images_without_labels": ("note", "images of no class; kept as negatives of all"),
    "images_without_boxes": ("note", "images without a target; kept as negatives"),
}

# Errors that go away when an image, a box or an entry is left out.
SKIPPABLE = frozenset(
    {
        "box_malformed",
        "box_not_finite",
        "box_not_relative",
        "box_negative",
        "file_name_invalid",
        "image_id_invalid",
        "image_missing",
        "image_twice",
        "image_unreadable",
        "label_unreadable",
        "malformed",
        "size_differs",
        "size_turned",
        "unknown_category",
        "unknown_image",
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing wrong, or worth knowing, about a data set.

    Attributes:
        kind: a key of `KINDS`.
        file: the annotation file or the image where it is.
        message: one line; without the file.
        image: the image's file name, where it is about one.
        annotation: the annotation's id as written, where it is about one and has one.
        count: how often it was seen, where one finding stands for many.
        line: of the file, counted from 1, where it is about one.
    """

    kind: str
    file: Path
    message: str
    image: str | None = None
    annotation: int | None = None
    count: int = 1
    line: int | None = None

    @property
    def severity(self) -> Severity:
        """'error' stops a run, a 'warning' was corrected, a 'note' is no fault."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        file = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        places = [f"image '{self.image}'"] if self.image is not None else []
        if self.annotation is not None:
            places.append(f"annotation {self.annotation}")
        return ": ".join([file, *([", ".join(places)] if places else []), self.message])


@dataclass(frozen=True)
class DetectionSplit:
    """Images with boxes, in a fixed order.

    Attributes:
        name: 'train', 'val' or 'test'.
        samples: the images, each made when it is looked at; any sequence is taken for them.
        class_names: in label order.
        category_ids: the annotation files' id of each class, in label order.
        image_names: what the annotation file has as id, where that is no number.
    """

    name: str
    samples: Sequence[DetectionSample] = field(repr=False)
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_names: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", DetectionSamples.of(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def table(self) -> DetectionSamples:
        """The samples in arrays, for what looks at all of them."""
        assert isinstance(self.samples, DetectionSamples)
        return self.samples

    def class_counts(self) -> list[int]:
        """Boxes per class without crowds, in label order."""
        counts: list[int] = np.bincount(
            self.table.target_labels, minlength=len(self.class_names)
        ).tolist()
        return counts

    def rarest_classes(self) -> NDArray[np.int64]:
        """(N,): of each image the class that has the fewest boxes in the split, without any -1."""
        counts = self.class_counts()
        return np.array(
            [
                min(set(sample.target_labels.tolist()), key=lambda k: (counts[k], k), default=-1)
                for sample in self.samples
            ],
            dtype=np.int64,
        )

    def with_samples(
        self, samples: Iterable[DetectionSample], name: str | None = None
    ) -> DetectionSplit:
        """The same split (or one of another name) with other samples."""
        return replace(self, samples=DetectionSamples.of(samples), name=name or self.name)

    def take(self, places: Places) -> DetectionSplit:
        """The same split with the samples at some places alone, in that order."""
        return replace(self, samples=self.table.take(places))


@dataclass(frozen=True)
class DetectionSplits(SplitsOf[DetectionSplit]):
    """The splits of a data set with boxes; classes are the training file's.

    Attributes:
        category_ids: in label order, from the training file.
        findings: what was found wrong and, unless it is an error, corrected.
        cut: how val and test were made of the training images; None: they were not, or by name.
    """

    category_ids: tuple[int, ...]
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    cut: ContentCut | None = field(default=None, compare=False)


def detection_holdout(
    split: DetectionSplit, fraction: float, seed: int
) -> tuple[DetectionSplit, DetectionSplit]:
    """(rest, held): a share of the images cut out of a split, at random but always the same.

    Which are held depends on the seed and on each image's key alone.

    Raises:
        DataError: there are too few images for one to be held.
    """
    count = min(math.floor(fraction * len(split) + 0.5), len(split) - 1)
    if count < 1:
        raise DataError(
            f"a fraction of {fraction} cut out of '{split.name}' ({len(split)} images) holds no "
            "image; raise it or add images"
        )
    held = np.zeros(len(split), dtype=np.bool_)
    held[shuffled(split.table.keys, np.arange(len(split)), "holdout", seed)[:count]] = True
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def check_findings(findings: Sequence[Finding], *, skip: bool = False) -> None:
    """Refuse data with errors, in one line: the first of them, and how many there are.

    Args:
        findings: all of them.
        skip: let pass the errors of which the image, box or entry was left out.

    Raises:
        DataError: there is one.
    """
    errors = [
        finding
        for finding in findings
        if finding.severity == "error" and not (skip and finding.kind in SKIPPABLE)
    ]
    if not errors:
        return
    counts = Counter(finding.kind for finding in errors)
    total = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    more = "" if len(errors) == 1 else f" ({len(errors)} errors: {total})"
    raise DataError(f"{errors[0]}{more}; 'vpt data check' lists everything")


LEFT_OUT = "left out: "
"""How every line about an image, a box or an entry that was left out begins."""


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """What a run logs of its data: all that was left out, and counts of what is unusual."""
    lines = [f"{LEFT_OUT}{finding}" for finding in findings if finding.severity == "error"]
    kinds: Counter[str] = Counter()
    for finding in findings:
        if finding.severity == "warning":
            kinds[finding.kind] += finding.count
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        lines.append(f"corrected or unusual in the data: {counts}; 'vpt data check' lists them")
    return lines


def boxes_hash(split: DetectionSplit) -> str:
    """SHA-256 of the ground truth, by which a run recognises its data.

    What is hashed is `to_coco_dict` as JSON with sorted keys, piece by piece.
    """
    lists: dict[str, Iterable[dict[str, Any]]] = {
        "annotations": (each for sample in split.samples for each in _annotations(split, sample)),
        "categories": _categories(split),
        "images": (_image(split, sample) for sample in split.samples),
    }
    digest = hashlib.sha256(b"{")
    for name, entries in lists.items():
        digest.update(f'"{name}": ['.encode())
        for number, entry in enumerate(entries):
            text = json.dumps(entry, sort_keys=True)
            digest.update((f", {text}" if number else text).encode())
        digest.update(b"], ")
    digest.update(f'"info": {json.dumps(_info(split))}}}'.encode())
    return digest.hexdigest()


def to_coco_dict(split: DetectionSplit) -> dict[str, Any]:
    """The ground truth of a split as the COCO evaluation reads it, from the cleaned samples."""
    return {
        "info": _info(split),
        "images": [_image(split, sample) for sample in split.samples],
        "annotations": [each for sample in split.samples for each in _annotations(split, sample)],
        "categories": _categories(split),
    }


def _info(split: DetectionSplit) -> dict[str, Any]:
    return {"description": split.name}


def _image(split: DetectionSplit, sample: DetectionSample) -> dict[str, Any]:
    height, width = sample.size
    image = {"id": sample.image_id, "file_name": sample.key, "width": width, "height": height}
    if sample.image_id in split.image_names:
        image["name"] = split.image_names[sample.image_id]
    return image


def _annotations(split: DetectionSplit, sample: DetectionSample) -> Iterator[dict[str, Any]]:
    columns = (sample.boxes, sample.labels, sample.crowds, sample.areas, sample.annotation_ids)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for (left, top, right, bottom), label, crowd, area, number in rows:
        yield {
            "id": number,
            "image_id": sample.image_id,
            "category_id": split.category_ids[label],
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "iscrowd": int(crowd),
        }


def _categories(split: DetectionSplit) -> list[dict[str, Any]]:
    names = zip(split.category_ids, split.class_names, strict=True)
    return [{"id": number, "name": name} for number, name in names]
