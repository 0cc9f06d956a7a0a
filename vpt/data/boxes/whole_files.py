"""What is wrong with an annotation file as a whole: units of its boxes, lost boxes, crowds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice

import numpy as np

from vpt.data.boxes.box_units import COCO_UNITS, ForeignUnits, find_foreign_units
from vpt.data.boxes.detection import DetectionSplit, Finding
from vpt.data.descriptor import Descriptor
from vpt.data.readers.coco import CocoBox, CocoFile

OF_WRONG_UNITS = frozenset(
    {
        "area_invalid",
        "area_missing",
        "box_clipped",
        "box_empty",
        "box_negative",
        "box_outside",
        "box_twice",
    }
)
"""What boxes in other units look like one by one."""

_LOST = 0.05
"""More of a split's boxes must not be lost, nor contradict the descriptor's units."""


_LOOKED_AT = 20_000
"""Boxes of a file, evenly spread, that show in which units it is."""


def judge_units(
    descriptor: Descriptor,
    file: CocoFile,
    sizes: Mapping[int, tuple[int, int]],
    findings: Iterable[Finding],
) -> Finding | None:
    """What a file's boxes look like where they do not look like what they should be.

    Args:
        descriptor: of the data set, which may say what the units are.
        file: with the boxes as written.
        sizes: (H, W) of the images that are used, by id.
        findings: all so far, those of single boxes among them.
    """
    if file.units != COCO_UNITS:
        return _judge_declared(file, findings) if descriptor.box_units is not None else None
    if descriptor.box_units is not None:
        return None
    for outlined in (False, True):
        found = _foreign_units(file, sizes, outlined=outlined)
        if found is not None:
            what = "the outlines" if outlined else "the boxes"
            text = f"{what} look like {found.names}: {found.evidence}"
            kind = "box_units" if found.certain else "box_units_doubtful"
            return Finding(kind, file.path, text + _advice(descriptor, found))
    return None


def _foreign_units(
    file: CocoFile, sizes: Mapping[int, tuple[int, int]], *, outlined: bool
) -> ForeignUnits | None:
    def row(image_id: int, box: CocoBox) -> tuple[float, ...]:
        return (*box.box, *sizes[image_id], np.nan if box.area is None else box.area)

    pairs = (
        (image_id, box)
        for image_id, boxes in file.boxes.items()
        if image_id in sizes
        for box in boxes
        if box.outlined == outlined
    )
    step = 1 + sum(map(len, file.boxes.values())) // _LOOKED_AT
    rows = (row(*pair) for pair in islice(pairs, 0, None, step))
    table = np.fromiter(chain.from_iterable(rows), dtype=np.float64).reshape(-1, 7)
    # Only the outlines' scale can be wrong, and an area need not be that of their boxes.
    areas = None if outlined else table[:, 6]
    return find_foreign_units(table[:, :4], table[:, 4:6], areas)


def _judge_declared(file: CocoFile, findings: Iterable[Finding]) -> Finding | None:
    """Boxes of which too many do not fit once they are taken in the descriptor's units."""
    kinds = {"box_clipped", "box_empty", "box_negative", "box_outside"}
    wrong = sum(each.file == file.path and each.kind in kinds for each in findings)
    count = sum(map(len, file.boxes.values())) + file.unusable
    if wrong <= max(1, _LOST * count):
        return None
    message = (
        f"{wrong} of {count} boxes have no sides or reach out of their images as "
        f"{file.units}; correct 'box_units' in the descriptor, or remove it"
    )
    return Finding("box_units", file.path, message)


def _advice(descriptor: Descriptor, found: ForeignUnits) -> str:
    """The key that converts the boxes, and the one that says that they are right."""
    if descriptor.format not in ("coco", "hf_objects"):
        return "; correct them"
    right = f"'box_units: {COCO_UNITS.written}' if they are right as they are"
    if not found.units:
        return f"; correct them, or write {right}"
    likely = f"'box_units: {found.units[0].written}' in the descriptor to have them converted"
    return f"; write {likely}, or {right}"


def judge_losses(descriptor: Descriptor, file: CocoFile, split: DetectionSplit) -> Finding | None:
    """More than an odd box that is lost: what it was around would be learned as background."""
    used = split.table.image_ids.tolist()
    given = sum(len(file.boxes[image_id]) for image_id in used) + file.unusable
    lost = given - int(split.table.box_counts.sum())
    if lost <= max(1, _LOST * given) or descriptor.dropped_boxes == "allow":
        return None
    allowed = "" if lost == given else ", or write 'dropped_boxes: allow' in the descriptor"
    message = (
        f"{lost} of {given} boxes of '{split.name}' cannot be used, so their objects would become "
        f"background; correct them{allowed}"
    )
    return Finding("boxes_lost", file.path, message, count=lost)


def judge_crowds(descriptor: Descriptor, file: CocoFile, split: DetectionSplit) -> Finding | None:
    """Boxes that are all crowds; or a test split without any box."""
    if any(split.class_counts()):
        return None
    crowds = int(split.table.box_counts.sum())
    if crowds:
        advice = (
            "they are marked as difficult: write 'difficult: object' in the descriptor if that "
            "mark means nothing here"
            if descriptor.format == "voc"
            else "set iscrowd to 0 where one object is outlined (some tools write 1 for every RLE "
            "mask)"
        )
        message = (
            f"all {crowds} objects of '{split.name}' are crowds, of which nothing is learned; "
            f"{advice}"
        )
        return Finding("all_crowds", file.path, message, count=crowds)
    if split.name == "test" and split.samples:
        return Finding("test_without_boxes", file.path, "it has no box, so AP is undefined")
    return None
