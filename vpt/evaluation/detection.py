"""Detection metrics: COCO's twelve numbers by pycocotools, per class, curves and confusions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from vpt.errors import ConfigError, DataError
from vpt.evaluation.result_files import check_records, read_results, some
from vpt.structures import Detections

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR@1",
    "AR@10",
    "AR@100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""In COCO's order. AP averages over IoU 0.50:0.95 where none is named; sizes are areas below 32^2,
up to 96^2 and above, in the file's pixels; AR@k allows k detections per image, the others 100."""

NOTHING = "nothing"
"""The last row and column of a confusion matrix: what no box, or no detection, stands for."""

CocoEval = Literal["pycocotools", "faster"]
"""Who matches detections with boxes: the reference, or faster-coco-eval, an optional package."""

_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_ALL_AREAS, _MOST_DETECTIONS = 0, -1
"""Places on pycocotools' last two axes."""


class DetectionEvaluator:
    """COCO's metrics of detections in the original files' pixels, against one ground truth.

    Images of the ground truth that get no detections count as misses. Crowds are neither hit nor
    missed: what lies in them is ignored.

    Args:
        ground_truth: a COCO object {images, annotations, categories} whose boxes were checked; it
            is not changed. Annotation ids do not matter, `ignore` flags neither; without `iscrowd`
            an annotation is no crowd, without `area` its box's area counts.
        category_ids: the category of each label 0..C-1.
        coco_eval: 'pycocotools', or 'faster' for the same numbers sooner on large sets.

    Attributes:
        class_names: C, from the ground truth.

    Raises:
        ConfigError: see `check_coco_eval`.
        DataError: an annotation's category has no label, or a label's category is not in the ground
            truth.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        category_ids: Sequence[int],
        *,
        coco_eval: CocoEval = "pycocotools",
    ):
        check_coco_eval(coco_eval)
        self._coco_eval = coco_eval
        names = {each["id"]: each["name"] for each in ground_truth["categories"]}
        self.category_ids = tuple(category_ids)
        self._labels = {category: label for label, category in enumerate(self.category_ids)}
        _check_categories(ground_truth, self._labels, names)
        self.class_names = [str(names[category]) for category in self.category_ids]
        self._names = dict(zip(self.category_ids, self.class_names, strict=True))
        self._images = [dict(image) for image in ground_truth["images"]]
        self._known = {image["id"] for image in self._images}
        self._annotations = [
            _plain_annotation(each, number)
            for number, each in enumerate(ground_truth["annotations"], start=1)
        ]
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._records: list[dict[str, Any]] = []
        self._seen: set[int] = set()
        self._curves: _Curves | None = None

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Take the detections of some images.

        Args:
            image_ids: B, as in the ground truth.
            detections: B, in the original files' pixels.

        Raises:
            DataError: an image is unknown, or was given before.
        """
        for image_id, each in zip(image_ids, detections, strict=True):
            self._check_image(image_id)
            if image_id in self._seen:
                raise DataError(
                    f"image id {image_id} was evaluated twice, which would count its detections as "
                    "false positives; give every image once"
                )
            self._seen.add(image_id)
            self._records += to_records(image_id, each, self.category_ids)
        self._curves = None

    def update_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take detections as COCO results; see `check_records`.

        Raises:
            DataError: a record lacks a field, or does not fit the ground truth.
        """
        self._records += check_records(records, self._images, self._annotations, self._names)
        self._curves = None

    def compute(self) -> dict[str, float]:
        """COCO's metrics in [0, 1], by the names of `METRICS`.

        Those that are not defined are left out: sizes that no box has; all of them where there is
        no box at all. Without any detections they are zero.
        """
        return dict(self._evaluated().metrics)

    def per_class_ap(self) -> dict[str, float | None]:
        """AP of each class over IoU 0.50:0.95; None for a class without boxes.

        The mean of the numbers is AP.
        """
        precision = self._evaluated().precision
        values = {}
        for name, category in zip(self.class_names, self.category_ids, strict=True):
            of_class = precision[:, :, self._place(category), _ALL_AREAS, _MOST_DETECTIONS]
            valid = of_class[of_class > -1]
            values[name] = float(valid.mean()) if len(valid) else None
        return values

    def pr_curves(self, *, iou: float = 0.5) -> dict[str, list[float]]:
        """Precision of each class at the recalls 0, 0.01, ..., 1; classes without boxes left out.

        Args:
            iou: of 0.5, 0.55, ..., 0.95.
        """
        precision = self._evaluated().precision[_IOUS.index(round(iou, 2))]
        curves = {}
        for name, category in zip(self.class_names, self.category_ids, strict=True):
            curve = precision[:, self._place(category), _ALL_AREAS, _MOST_DETECTIONS]
            if (curve > -1).all():
                curves[name] = curve.tolist()
        return curves

    def confusion_matrix(self, *, iou: float = 0.5, score: float = 0.5) -> Tensor:
        """(C + 1, C + 1) int64 counts; rows are the true classes, columns the found ones.

        The last column holds boxes that nothing found, the last row detections of nothing. In each
        image the detections from `score` on take, best first, the free box of the highest IoU from
        `iou` on, of their own class if there is one. Detections that hit nothing and lie in a crowd
        (by that share of their area) do not count.
        """
        by_image: dict[int, tuple[list[Any], list[Any]]] = {
            image["id"]: ([], []) for image in self._images
        }
        for annotation in self._annotations:
            by_image[annotation["image_id"]][0].append(annotation)
        for record in self._records:
            if record["score"] >= score:
                by_image[record["image_id"]][1].append(record)
        counts = torch.zeros(len(self.category_ids) + 1, len(self.category_ids) + 1).long()
        for boxes, records in by_image.values():
            _count_confusions(boxes, records, self._labels, iou, counts)
        return counts

    def details(self, *, iou: float = 0.5, score: float = 0.5) -> dict[str, Any]:
        """AP of each class, the precision-recall curves and the confusions, as JSON values.

        Args:
            iou: of the curves and of a hit.
            score: detections below are not in the confusion matrix.
        """
        return {
            "AP_per_class": self.per_class_ap(),
            "precision_at_recall": {
                "iou": iou,
                "recall": [step / 100 for step in range(101)],
                "precision": self.pr_curves(iou=iou),
            },
            "confusion_matrix": {
                "iou": iou,
                "score": score,
                "classes": [*self.class_names, NOTHING],
                "counts": self.confusion_matrix(iou=iou, score=score).tolist(),
            },
        }

    def results(self) -> list[dict[str, Any]]:
        """The detections as COCO results: xywh rounded to hundredths of a pixel.

        `score_results` makes exactly the metrics of `compute` from them.
        """
        return [dict(record) for record in self._records]

    def _check_image(self, image_id: Any, prefix: str = "") -> None:
        if image_id not in self._known:
            raise DataError(
                f"{prefix}image id {image_id!r} is not in the ground truth; "
                f"known are {some(self._known)}"
            )

    def _place(self, category: int) -> int:
        """On the class axis of pycocotools, which sorts."""
        return sorted(self.category_ids).index(category)

    def _evaluated(self) -> _Curves:
        if self._curves is None:
            found = _as_annotations(self._records)
            self._curves = _Curves(
                self._images, self._annotations, found, self.category_ids, self._coco_eval
            )
        return self._curves


def check_coco_eval(coco_eval: CocoEval) -> None:
    """Refuse what is not installed.

    Raises:
        ConfigError: saying how to install it.
    """
    if coco_eval == "faster" and find_spec("faster_coco_eval") is None:
        raise ConfigError(
            "coco_eval 'faster' needs the package faster-coco-eval: pip install 'vpt[fast]', or "
            "use 'pycocotools'"
        )


def score_results(
    results: Path | Sequence[Mapping[str, Any]],
    ground_truth: Mapping[str, Any],
    *,
    coco_eval: CocoEval = "pycocotools",
) -> DetectionEvaluator:
    """An evaluator that holds the detections of a COCO results file; ask it for its numbers.

    Args:
        results: the file, or what it holds.
        ground_truth: see `DetectionEvaluator`; every one of its categories is evaluated.
        coco_eval: likewise.

    Raises:
        ConfigError: see `check_coco_eval`.
        DataError: the file is no list of results, or a result does not fit the ground truth.
    """
    records = read_results(results) if isinstance(results, Path) else results
    categories = sorted(category["id"] for category in ground_truth["categories"])
    evaluator = DetectionEvaluator(ground_truth, categories, coco_eval=coco_eval)
    evaluator.update_records(records)
    return evaluator


def to_records(
    image_id: int, detections: Detections, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One image's detections as COCO results: xywh in hundredths of a pixel, category ids.

    Boxes of less than a pixel in a side are written exactly: hundredths would change their overlap.
    """
    boxes = box_convert(detections.boxes.detach().cpu().double(), "xyxy", "xywh").tolist()
    scores, labels = detections.scores.tolist(), detections.labels.tolist()
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": box if min(box[2:]) < 1 else [round(side, 2) for side in box],
            "score": score,
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


class _Curves:
    """What COCO's evaluation computes, kept quiet.

    Args:
        images: of the ground truth.
        annotations: its boxes.
        found: the detections, as annotations.
        category_ids: which are evaluated.
        coco_eval: by whom.

    Attributes:
        metrics: by name, without the undefined ones.
        precision: (10 IoUs, 101 recalls, C sorted by category, 4 areas, 3 limits); -1: undefined.
    """

    def __init__(
        self,
        images: list[dict[str, Any]],
        annotations: list[dict[str, Any]],
        found: list[dict[str, Any]],
        category_ids: Sequence[int],
        coco_eval: CocoEval,
    ):
        index_of, evaluation_of = _implementation(coco_eval)
        with contextlib.redirect_stdout(io.StringIO()):
            both = []
            for boxes in (annotations, found):
                coco = index_of()
                coco.dataset = {
                    "images": images,
                    "categories": [{"id": category} for category in category_ids],
                    # copied, as an evaluation writes into them
                    "annotations": [dict(annotation) for annotation in boxes],
                }
                coco.createIndex()
                both.append(coco)
            evaluation = evaluation_of(*both, "bbox")
            evaluation.params.catIds = sorted(category_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.precision = evaluation.eval["precision"]
        values = zip(METRICS, evaluation.stats[: len(METRICS)].tolist(), strict=True)
        self.metrics = {name: value for name, value in values if value > -1}


def _implementation(coco_eval: CocoEval) -> tuple[Any, Any]:
    """The classes of an index of annotations and of the evaluation, which work alike."""
    if coco_eval == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _plain_annotation(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What a box's evaluation needs, under an id that is never 0: a match with 0 is a miss."""
    x, y, width, height = annotation["bbox"]
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": [x, y, width, height],
        "area": annotation.get("area", width * height),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _as_annotations(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results as pycocotools holds them; its own loader fails on none at all."""
    return [
        {
            **record,
            "id": number,
            "area": record["bbox"][2] * record["bbox"][3],
            "iscrowd": 0,
        }
        for number, record in enumerate(records, start=1)
    ]


def _count_confusions(
    annotations: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    iou: float,
    counts: Tensor,
) -> None:
    """Add one image to the counts."""
    nothing = len(counts) - 1
    boxes = [each for each in annotations if not each["iscrowd"]]
    crowds = _xyxy([each for each in annotations if each["iscrowd"]])
    found = sorted(records, key=lambda record: -record["score"])
    overlaps = box_iou(_xyxy(found), _xyxy(boxes))
    true = torch.tensor([labels[each["category_id"]] for each in boxes]).long()
    free = torch.ones(len(boxes), dtype=torch.bool)
    covered = _covered(_xyxy(found), crowds) >= iou
    for place, record in enumerate(found):
        label = labels[record["category_id"]]
        candidates = free & (overlaps[place] >= iou)
        if candidates.any():
            same = candidates & (true == label)
            chosen = same if same.any() else candidates
            best = int(overlaps[place].masked_fill(~chosen, -1.0).argmax())
            free[best] = False
            counts[true[best], label] += 1
        elif not covered[place]:
            counts[nothing, label] += 1
    for label in true[free].tolist():
        counts[label, nothing] += 1


def _xyxy(boxes: Sequence[Mapping[str, Any]]) -> Tensor:
    """(K, 4) xyxy of annotations or results."""
    sides = torch.tensor([each["bbox"] for each in boxes], dtype=torch.float64).reshape(-1, 4)
    return box_convert(sides, "xywh", "xyxy")  # type: ignore[no-any-return]


def _covered(boxes: Tensor, crowds: Tensor) -> Tensor:
    """(K,): the largest share of each box's area that lies in one crowd."""
    if len(crowds) == 0:
        return boxes.new_full((len(boxes),), -1.0)
    corners = torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    sides = (corners - torch.maximum(boxes[:, None, :2], crowds[None, :, :2])).clamp(min=0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1, keepdim=True)
    return (sides.prod(dim=2) / areas.clamp(min=1e-9)).max(dim=1).values


def _check_categories(
    ground_truth: Mapping[str, Any], labels: Mapping[int, int], names: Mapping[int, Any]
) -> None:
    if absent := [category for category in labels if category not in names]:
        raise DataError(
            f"category ids {some(absent)} are not in the ground truth; known are {some(names)}"
        )
    for place, annotation in enumerate(ground_truth["annotations"]):
        if annotation["category_id"] not in labels:
            raise DataError(
                f"annotation {annotation.get('id', place)} has category id "
                f"{annotation['category_id']}, which the model does not know; its own are "
                f"{some(labels)}"
            )
