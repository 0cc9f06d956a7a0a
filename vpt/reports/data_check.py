"""What is wrong with a data set, and what is in it, before anything is trained on it."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from vpt.data.boxes.detection import (
    KINDS,
    DetectionSample,
    DetectionSplit,
    Finding,
    Severity,
    to_coco_dict,
)
from vpt.data.copies import same_content
from vpt.data.depth import depth_warning
from vpt.data.descriptor import Descriptor
from vpt.data.images import read_header
from vpt.data.layouts import load_descriptor
from vpt.data.loading.scans import ScanMemory, scan_images
from vpt.data.readers.parquet import packed_bytes
from vpt.data.readers.parts import check_counts
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.recognising import to_change
from vpt.data.rgb import ValueRange
from vpt.data.splits import SPLIT_NAMES, PackedImage, Sample, Split
from vpt.errors import DataError
from vpt.evaluation.detection import DetectionEvaluator
from vpt.structures import Detections, Letterbox

Bins = tuple[tuple[str, int], ...]
"""(what, how many), in the order to show them in."""

SHOWN_PER_KIND = 20

_RARE = 10
_OF_MISSING = {
    "train": "",
    "val": "; data.val_fraction=0.2 cuts it out of train, as does 'val: {fraction: 0.2, seed: 0}' "
    "under 'splits' of a descriptor",
}
_HALF_PATCH = 8.0
_COUNTED_DETECTIONS = 100
_SCORED = 2000


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds; what is not said to be of images is for boxes alone.

    Attributes:
        images: how many.
        class_counts: boxes without crowds, or images, per class in label order.
        labels_per_image: over multi-label images.
        boxes: without crowds; None where images have classes.
        crowds: boxes that stand for groups.
        negatives: images without a target, or (of multi-label data) without a label.
        image_sizes: of images; the most frequent ones.
        boxes_per_image: over images.
        box_sides: over boxes, square root of the area in pixels of the model's square.
        aspects: over boxes, width / height.
        areas: over boxes, COCO's bins, in the files' pixels.
    """

    images: int
    class_counts: tuple[int, ...]
    labels_per_image: Bins = ()
    boxes: int | None = None
    crowds: int = 0
    negatives: int = 0
    image_sizes: Bins = ()
    boxes_per_image: Bins = ()
    box_sides: Bins = ()
    aspects: Bins = ()
    areas: Bins = ()


@dataclass(frozen=True)
class DataCheck:
    """What was found.

    Attributes:
        descriptor: of the data set.
        source: the descriptor's file.
        size: side of the model's square in pixels.
        class_names: in label order.
        splits: by name.
        findings: errors first, then warnings, then notes.
        scores: AP of the ground truth as predictions, by split; None: no box to score.
        data: the splits themselves, where they can be read.
    """

    descriptor: Descriptor
    source: Path
    size: int
    class_names: tuple[str, ...]
    splits: dict[str, SplitSummary]
    findings: tuple[Finding, ...]
    scores: dict[str, float | None] = field(default_factory=dict)
    data: Mapping[str, Split | DetectionSplit] = field(default_factory=dict, repr=False)

    def count(self, severity: Severity) -> int:
        """How many findings are as severe as that."""
        return sum(finding.severity == severity for finding in self.findings)

    def by_kind(self) -> dict[str, list[Finding]]:
        """The findings of each kind, in the order of `findings`."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.kind, []).append(finding)
        return groups

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return self.count("error") == 0


def check_data(
    path: Path,
    *,
    root: Path | None = None,
    size: int = 640,
    num_workers: int = 0,
    value_range: ValueRange | None = None,
) -> DataCheck:
    """Read a data set, decode every image, and score the boxes as predictions of themselves.

    Args:
        path: a descriptor, or a folder of images by class.
        root: where the images are; the descriptor's own if None.
        size: side of the square that the model will see, in pixels.
        num_workers: processes that decode; 0: this one.
        value_range: what `data.value_range` of the training will be.

    Raises:
        DataError: the data cannot be read at all.
    """
    descriptor = load_descriptor(path)
    if descriptor.holds_boxes:
        return _check_detection(
            descriptor,
            path,
            root=root,
            size=size,
            num_workers=num_workers,
            value_range=value_range,
        )
    splits = read_splits(descriptor, root)
    found: dict[str, Split] = {
        name: split for name in SPLIT_NAMES if (split := splits.get(name)) is not None
    }
    findings = [*_unreadable(found.values(), num_workers, value_range), *_missing(path, found)]
    findings += _narrow_values(found.values(), path, value_range)
    findings += _copies(found.values(), path)
    findings += [Finding("as_read", path, note) for note in splits.notes]
    if splits.train is not None:
        findings += _rare_classes(splits.class_names, splits.train.class_counts(), path, "images")
    findings += _unlabelled(found.values(), path)
    return DataCheck(
        descriptor,
        path,
        size,
        splits.class_names,
        {name: _class_summary(split) for name, split in found.items()},
        _sorted(findings),
        data=found,
    )


def _check_detection(
    descriptor: Descriptor,
    path: Path,
    *,
    root: Path | None,
    size: int,
    num_workers: int,
    value_range: ValueRange | None,
) -> DataCheck:
    splits = read_detection(descriptor, root, problems="report")
    found: dict[str, DetectionSplit] = {
        name: split for name in SPLIT_NAMES if (split := splits.get(name)) is not None
    }
    findings = [*splits.findings, *_unreadable(found.values(), num_workers, value_range)]
    findings += _narrow_values(found.values(), path, value_range)
    findings += [*_wrong_counts(descriptor, path, found), *_missing(path, found)]
    findings += _copies(found.values(), path)
    findings += [
        Finding("no_boxes", path, f"split '{name}' has no box")
        for name, split in found.items()
        if name != "test" and not any(len(sample.boxes) for sample in split.samples)
    ]
    scores: dict[str, float | None] = {}
    for name, split in found.items():
        scores[name] = score_ground_truth(split, size)
        findings += _look_at_boxes(split, size, path, score=scores[name])
    if splits.train is not None:
        counts = splits.train.class_counts()
        findings += _rare_classes(splits.class_names, counts, path, "boxes")
    return DataCheck(
        descriptor,
        path,
        size,
        splits.class_names,
        {name: _summary(split, size) for name, split in found.items()},
        _sorted(findings),
        scores,
        found,
    )


def score_ground_truth(split: DetectionSplit, size: int) -> float | None:
    """AP of a split's boxes as predictions of themselves, through the letterbox and back.

    Anything but 1 is a mistake in ids, units, classes or geometry. Of a large split 2,000 images
    are scored. None: no box to score.
    """
    split = split.with_samples(to_look_at(split.samples)[:_SCORED])
    evaluator = DetectionEvaluator(to_coco_dict(split), split.category_ids)
    for sample in split.samples:
        letterbox = Letterbox.fit(sample.size, size)
        boxes = torch.tensor(sample.target_boxes)
        there_and_back = letterbox.to_original(letterbox.to_letterboxed(boxes))
        scores = torch.ones(len(boxes))
        labels = torch.tensor(sample.target_labels)
        evaluator.update([sample.image_id], [Detections(there_and_back, scores, labels)])
    return evaluator.compute().get("AP")


def to_json(check: DataCheck) -> dict[str, Any]:
    """All that was found, as JSON values."""
    return {
        "name": check.descriptor.name,
        "descriptor": str(check.source),
        "healthy": check.healthy,
        "counts": {severity: check.count(severity) for severity in get_args(Severity)},
        "image_size": check.size,
        "classes": list(check.class_names),
        "splits": {name: _summary_json(summary) for name, summary in check.splits.items()},
        "ground_truth_ap": check.scores,
        "findings": [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "file": str(finding.file),
                "line": finding.line,
                "image": finding.image,
                "annotation": finding.annotation,
                "count": finding.count,
                "message": finding.message,
            }
            for finding in check.findings
        ],
    }


def _summary_json(summary: SplitSummary) -> dict[str, Any]:
    values = dict(vars(summary))
    for name, value in values.items():
        if name != "class_counts" and isinstance(value, tuple):
            values[name] = dict(value)
    return values | {"class_counts": list(summary.class_counts)}


AnySample = TypeVar("AnySample", bound=Sample | DetectionSample)


def to_look_at(samples: Iterable[AnySample]) -> list[AnySample]:
    """The samples in an order that has nothing to do with theirs, but is always the same."""
    return sorted(samples, key=lambda each: hashlib.blake2b(each.key.encode()).digest())


# What is printed


def overview(check: DataCheck) -> list[list[str]]:
    """Columns, then one row per split."""
    boxes = any(summary.boxes is not None for summary in check.splits.values())
    columns = ["split", "images"]
    columns += ["boxes", "crowds", "negatives", "AP of itself"] if boxes else []
    several = check.descriptor.multi_label
    columns += ["labels", "without label"] if several else []
    rows = [[*columns, "smallest class", "largest class"]]
    for name, summary in check.splits.items():
        cells = [name, f"{summary.images:,}"]
        if boxes:
            score = check.scores.get(name)
            cells += [f"{summary.boxes:,}", f"{summary.crowds:,}", f"{summary.negatives:,}"]
            cells.append("n/a" if score is None else f"{score:.4f}")
        if several:
            cells += [f"{sum(summary.class_counts):,}", f"{summary.negatives:,}"]
        rows.append([*cells, *_extremes(check.class_names, summary.class_counts)])
    return rows


def summary_table(check: DataCheck) -> Table:
    """One row per split."""
    columns, *rows = overview(check)
    table = Table(title=f"{check.descriptor.name}: {len(check.class_names)} classes")
    for column in columns:
        word = max(len(part) for part in column.split())
        table.add_column(column, justify="left" if column == "split" else "right", min_width=word)
    for row in rows:
        table.add_row(*row)
    return table


def finding_lines(check: DataCheck) -> list[str]:
    """Each kind of finding with its count, then the first twenty of it, one line each.

    Of a recognised folder the descriptor follows in which to write what they advise.
    """
    lines = []
    for kind, group in check.by_kind().items():
        severity, meaning = KINDS[kind]
        lines.append(f"{severity}: {kind} ({len(group):,}): {meaning}")
        lines += [f"  {finding}" for finding in group[:SHOWN_PER_KIND]]
        if len(group) > SHOWN_PER_KIND:
            lines.append(f"  and {len(group) - SHOWN_PER_KIND:,} more")
    if written := to_change(check.descriptor, "\n".join(lines)):
        lines += ["", written, ""]
    return lines


def verdict(check: DataCheck) -> str:
    """How many findings there are, in one line."""
    counts = [(check.count(severity), severity) for severity in get_args(Severity)]
    text = ", ".join(
        f"{count:,} {severity}{'' if count == 1 else 's'}" for count, severity in counts
    )
    return f"{text}: {'ready to train' if check.healthy else 'training will stop at the errors'}"


def _extremes(names: Sequence[str], counts: Sequence[int]) -> tuple[str, str]:
    pairs = sorted(zip(counts, names, strict=True), key=lambda pair: pair[0])
    (least, rare), (most, common) = pairs[0], pairs[-1]
    return f"{rare} ({least:,})", f"{common} ({most:,})"


# What is found beside what the reader finds


def _unreadable(
    splits: Iterable[Split | DetectionSplit], num_workers: int, value_range: ValueRange | None
) -> list[Finding]:
    findings, memory = [], ScanMemory.of_user()  # a run after it need not decode them again
    for split in splits:
        keys = {sample.source: sample.key for sample in split.samples}
        bad = scan_images(split, num_workers, value_range=value_range, memory=memory, again=True)
        for image in bad:
            file = image.path.file if isinstance(image.path, PackedImage) else image.path
            findings.append(Finding("image_unreadable", file, image.reason, keys[image.path]))
    return findings


def _narrow_values(
    splits: Iterable[Split | DetectionSplit], file: Path, value_range: ValueRange | None
) -> list[Finding]:
    """Splits whose images of more than 8 bits do not fit the range that they are scaled by."""
    warnings = [depth_warning(split, value_range) for split in splits]
    return [Finding("values_narrow", file, each) for each in warnings if each is not None]


def _copies(splits: Iterable[Split | DetectionSplit], file: Path) -> list[Finding]:
    """Images with the same bytes: in two splits, of two classes, or simply twice."""
    places: dict[Path, list[tuple[str, Sample | DetectionSample]]] = defaultdict(list)
    for split in splits:
        for sample in split.samples:
            if isinstance(sample.source, Path):
                places[sample.source].append((split.name, sample))
    findings = []
    for group in same_content(places):
        held = [place for path in group for place in places[path]]
        keys = " = ".join(f"'{sample.key}' ({name})" for name, sample in held)
        classes = {sample.label for _, sample in held if isinstance(sample, Sample)}
        if len({name for name, _ in held}) > 1:
            kind = "content_in_two_splits"
        elif len(classes) > 1:
            kind = "content_of_two_classes"
        else:
            kind = "content_twice"
        findings.append(Finding(kind, file, keys, held[0][1].key))
    return findings


def _missing(file: Path, found: Mapping[str, Any]) -> list[Finding]:
    """Splits that training cannot do without."""
    return [
        Finding("split_missing", file, f"there is no split '{name}'{way_out}")
        for name, way_out in _OF_MISSING.items()
        if name not in found
    ]


def _wrong_counts(
    descriptor: Descriptor, file: Path, found: Mapping[str, DetectionSplit]
) -> list[Finding]:
    counts: dict[str, int] = {name: len(found.get(name) or ()) for name in SPLIT_NAMES}
    try:
        check_counts(descriptor, counts)
    except DataError as error:
        return [Finding("counts_differ", file, str(error))]
    return []


def _rare_classes(
    names: Sequence[str], counts: Sequence[int], file: Path, what: str
) -> list[Finding]:
    rare = [(count, name) for count, name in zip(counts, names, strict=True) if count < _RARE]
    if not rare:
        return []
    listed = ", ".join(f"{name} ({count})" for count, name in sorted(rare)[:SHOWN_PER_KIND])
    more = f" and {len(rare) - SHOWN_PER_KIND} more" if len(rare) > SHOWN_PER_KIND else ""
    message = (
        f"{len(rare)} of {len(names)} classes have fewer than {_RARE} {what} to learn from: "
        f"{listed}{more}"
    )
    return [Finding("class_rare", file, message, count=len(rare))]


def _unlabelled(splits: Iterable[Split], file: Path) -> list[Finding]:
    """One note for the images of each split that are of no class."""
    findings = []
    for split in splits:
        keys = [sample.key for sample in split.samples if not sample.classes]
        if keys:
            message = f"{len(keys):,} of {len(split):,} images of '{split.name}' have no label"
            findings.append(
                Finding("images_without_labels", file, message, keys[0], count=len(keys))
            )
    return findings


def _look_at_boxes(
    split: DetectionSplit, size: int, file: Path, *, score: float | None
) -> list[Finding]:
    findings = []
    crowded = [
        sample.key
        for sample in split.samples
        if max(Counter(sample.target_labels.tolist()).values(), default=0) > _COUNTED_DETECTIONS
    ]
    if crowded:
        message = (
            f"{len(crowded)} images of '{split.name}' have more than {_COUNTED_DETECTIONS} boxes "
            "of a class, of which COCO's AP can count no more"
        )
        findings.append(Finding("crowded", file, message, crowded[0], count=len(crowded)))
    if score is not None and score < 1 - 1e-6 and not crowded:
        message = f"'{split.name}' scores AP {score:.4f} against itself; 1 is expected"
        findings.append(Finding("ground_truth_score", file, message))
    shortest = _seen_sides(split, size).min(axis=1, initial=np.inf)
    small = int((shortest < _HALF_PATCH).sum())
    if small:
        message = (
            f"{small:,} of {len(shortest):,} boxes of '{split.name}' ({small / len(shortest):.0%}) "
            f"have a side below {_HALF_PATCH:.0f} pixels at image size {size}"
        )
        findings.append(Finding("small_boxes", file, message, count=small))
    return findings


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = {severity: rank for rank, severity in enumerate(get_args(Severity))}
    kinds = list(KINDS)
    return tuple(sorted(findings, key=lambda f: (order[f.severity], kinds.index(f.kind))))


# What is in it


def _class_summary(split: Split) -> SplitSummary:
    per_image = np.array([len(sample.classes) for sample in split.samples])
    return SplitSummary(
        len(split),
        tuple(split.class_counts()),
        labels_per_image=_binned(per_image, _PER_IMAGE) if split.multi_label else (),
        negatives=int((per_image == 0).sum()),
        image_sizes=_image_sizes(split),
    )


def _summary(split: DetectionSplit, size: int) -> SplitSummary:
    boxes = np.concatenate([np.zeros((0, 4)), *(sample.target_boxes for sample in split.samples)])
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = np.concatenate(
        [np.zeros(0), *(sample.areas[~sample.crowds] for sample in split.samples)]
    )
    per_image = np.array([len(sample.target_boxes) for sample in split.samples])
    sizes = Counter(f"{sample.size[1]} x {sample.size[0]}" for sample in split.samples)
    seen = _seen_sides(split, size)
    return SplitSummary(
        len(split),
        tuple(split.class_counts()),
        boxes=len(boxes),
        crowds=int(sum(sample.crowds.sum() for sample in split.samples)),
        negatives=int((per_image == 0).sum()),
        image_sizes=tuple(sizes.most_common(8)),
        boxes_per_image=_binned(per_image, _PER_IMAGE),
        box_sides=_binned(np.sqrt(seen.prod(axis=1)), _SIDES),
        aspects=_binned(sides[:, 0] / sides[:, 1], _ASPECTS),
        areas=_binned(areas, _AREAS),
    )


def _image_sizes(split: Split) -> Bins:
    """The most frequent sizes of images, as their heads say; of an array its one size."""
    if split.array is not None:
        return ((f"{split.array.shape[2]} x {split.array.shape[1]}", len(split)),)
    sizes: Counter[str] = Counter()
    for sample in split.samples:
        with suppress(DataError):  # among the findings already
            source = sample.source
            assert not isinstance(source, int)
            file = io.BytesIO(packed_bytes(source)) if isinstance(source, PackedImage) else source
            height, width = read_header(file).size
            sizes[f"{width} x {height}"] += 1
    return tuple(sizes.most_common(8))


def _seen_sides(split: DetectionSplit, size: int) -> NDArray[np.float64]:
    """(K, 2): width and height of all targets in pixels of the model's square."""
    rows = [np.zeros((0, 2))]
    for sample in split.samples:
        boxes = sample.target_boxes
        rows.append((boxes[:, 2:] - boxes[:, :2]) * (size / max(sample.size)))
    return np.concatenate(rows)


_PER_IMAGE = (
    ("0", 1),
    ("1", 2),
    ("2", 3),
    ("3-4", 5),
    ("5-8", 9),
    ("9-16", 17),
    ("17-32", 33),
    ("33-64", 65),
    ("65 or more", np.inf),
)
_SIDES = (
    ("below 8", 8),
    ("8-16", 16),
    ("16-32", 32),
    ("32-64", 64),
    ("64-128", 128),
    ("128-256", 256),
    ("256-512", 512),
    ("512 or more", np.inf),
)
_ASPECTS = (
    ("below 1:8", 1 / 8),
    ("1:8-1:4", 1 / 4),
    ("1:4-1:2", 1 / 2),
    ("1:2-1:1", 1),
    ("1:1-2:1", 2),
    ("2:1-4:1", 4),
    ("4:1-8:1", 8),
    ("8:1 or more", np.inf),
)
_AREAS = (("small, below 32²", 32**2), ("medium, to 96²", 96**2), ("large", np.inf))


def _binned(values: NDArray[Any], bins: Sequence[tuple[str, float]]) -> Bins:
    """How many values are below each limit and not below the one before."""
    places = np.searchsorted([limit for _, limit in bins], values, side="right")
    counts = np.bincount(np.minimum(places, len(bins) - 1), minlength=len(bins))
    return tuple((label, int(count)) for (label, _), count in zip(bins, counts, strict=True))
