"""What is done with a trained detector: measure it, find boxes in images, show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torchvision.ops import nms

from vpt.api import load_detector
from vpt.data import (
    DetectionSample,
    DetectionSplit,
    box_evaluation_transform,
    depth_warning,
    layout_lines,
    load_descriptor,
    read_detection,
    read_image,
    to_coco_dict,
    told,
)
from vpt.data.cuts import cut_difference, cut_line
from vpt.data.splits import ContentCut, SplitName
from vpt.engine.device import choose_device
from vpt.engine.progress import Log, images_progress
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import DataError, PromptFileError
from vpt.evaluation import CocoEval, DetectionEvaluator, score_results
from vpt.models import Detector
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.drawing import draw_boxes, side_by_side
from vpt.runs.inference import difference, measure, precision_of, readable
from vpt.runs.predicting import NOT_FINITE, groups
from vpt.structures import Detections, Letterbox

if TYPE_CHECKING:
    from vpt.engine.events import Events

MIN_SCORE = 0.3
"""Detections below are not shown, unless asked for."""

_BATCH_SIZE = 8
_SHOWN, _SIDE = 8, 320  # images that are shown of a split; pixels of each
_CROWD, _CROWD_SIDE = 20, 640  # boxes from which a picture is larger; pixels of it then

Drawn = Literal["best", "all"]
"""Which detections are in a picture: the best box of each object, over all classes, or all."""

_SAME_OBJECT = 0.6
"""IoU from which two boxes are of one object."""

_Found = tuple[list[float], int, float]
"""Box (x1, y1, x2, y2) in the image's pixels, label, score."""


def evaluate_detector(
    path: Path,
    dataset: Path,
    *,
    root: Path | None = None,
    split: SplitName = "test",
    device: str = "auto",
    batch_size: int | None = None,
    num_workers: int = 2,
    weights: Path | None = None,
    output: Path | None = None,
    coco_eval: CocoEval = "pycocotools",
    on_bad_image: Literal["error", "skip"] = "error",
    log: Log = lambda line: None,
    console: Console | None = None,
) -> DetectionEvaluator:
    """A detector's prompt file, measured on a split: metrics, curves and confusions on demand.

    Computed in the precision of the file's run, so that the metrics equal the run's own.

    Args:
        path: the prompt file.
        dataset: a descriptor of format coco.
        root: where the images are; None takes the descriptor's.
        split: 'train', 'val' or 'test'.
        device: see `choose_device`.
        batch_size: images per forward pass; None takes the run's.
        num_workers: processes that decode images.
        weights: local file of the backbone's weights.
        output: a file for the detections as COCO results.
        coco_eval: see `DetectionEvaluator`.
        on_bad_image: what an unreadable image, or an entry with an error, does: 'error' raises,
            'skip' leaves it out and tells.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        ConfigError: see `check_coco_eval`.
        PromptFileError: the file, or its classes, do not fit.
        DataError: the data are missing, damaged or unreadable.
    """
    where = choose_device(device)
    skip = on_bad_image == "skip"
    record = read_prompt_header(path).cut
    cut = None if record is None else ContentCut(**record.model_dump())
    chosen = _split_of(dataset, root, split, skip=skip, cut=cut, log=log)
    model = load_detector(path, weights=weights).to(where)
    known = model.class_names
    if known is None:
        raise PromptFileError(f"{path} holds no class names: nothing to compare with the data's")
    if list(chosen.class_names) != known:
        raise PromptFileError(
            f"{path} has other classes than {dataset}: {difference(known, chosen.class_names)}"
        )
    if skip:
        chosen = readable(
            chosen,
            num_workers=num_workers,
            value_range=model.preprocess.value_range,
            log=log,
        )
    if warning := depth_warning(chosen, model.preprocess.value_range):
        log(f"warning: {warning}")
    with images_progress(len(chosen), console) as advance:
        _, evaluator = measure(
            model,
            chosen,
            box_evaluation_transform(model.preprocess),
            device=where,
            batch_size=batch_size or _batch_size_of(path),
            num_workers=num_workers,
            precision=precision_of(path),
            after_batch=advance,
            results=output,
            coco_eval=coco_eval,
        )
    assert isinstance(evaluator, BoxEvaluator)
    return evaluator.coco


def rescore(
    results: Path,
    dataset: Path,
    *,
    root: Path | None = None,
    split: SplitName = "test",
    coco_eval: CocoEval = "pycocotools",
    on_bad_image: Literal["error", "skip"] = "error",
    log: Log = lambda line: None,
) -> DetectionEvaluator:
    """Detections in a COCO results file, measured on a split.

    Images need not be there, unless those that were left out in a run are to be left out again.

    Args:
        results: JSON, a list of {image_id, category_id, bbox (xywh), score}.
        dataset: a descriptor of format coco.
        root: where the images are; None takes the descriptor's.
        split: that the results are of.
        coco_eval: see `DetectionEvaluator`.
        on_bad_image: see `evaluate_detector`.
        log: takes plain lines.

    Raises:
        ConfigError: see `check_coco_eval`.
        DataError: the data are missing or damaged, or the results do not fit them.
    """
    skip = on_bad_image == "skip"
    chosen = _split_of(dataset, root, split, skip=skip, with_images=skip, log=log)
    if skip:
        chosen = readable(chosen, log=log)
    truth = to_coco_dict(chosen)
    try:
        return score_results(results, truth, coco_eval=coco_eval)
    except DataError as error:
        if str(error).startswith(f"{results}: "):
            raise
        raise DataError(f"{results}: {error}") from error


def _split_of(
    dataset: Path,
    root: Path | None,
    split: SplitName,
    *,
    skip: bool = False,
    with_images: bool = True,
    cut: ContentCut | None = None,
    log: Log = lambda line: None,
) -> DetectionSplit:
    descriptor = load_descriptor(dataset)
    splits = read_detection(
        descriptor,
        root,
        problems="skip" if skip else "raise",
        needed=[split] if with_images else [],
        cut=cut,
    )
    for line in [*layout_lines(descriptor), *told(splits.findings)]:
        log(line)
    if splits.cut is not None:
        log(cut_line(splits.cut))
    if cut is not None and (differing := cut_difference(splits.cut, cut, split)):
        log(f"warning: {differing}")
    chosen = splits.require(split, "--split names one to measure on")
    if not any(chosen.class_counts()):
        log(f"split '{split}' of {dataset} has no box: AP is undefined")
    return chosen


def _batch_size_of(path: Path) -> int:
    """The run's own in evaluation: the same batches give the same bits."""
    return read_prompt_header(path).eval_batch_size or _BATCH_SIZE


@dataclass(frozen=True)
class BoxPrediction:
    """What was found in one image.

    Attributes:
        image: its path.
        detections: in the file's pixels (upright, EXIF orientation applied), best first; None
            where the image could not be read.
        error: why not, or None.
    """

    image: Path
    detections: Detections | None
    error: str | None = None


def predict_boxes(
    model: Detector,
    paths: Iterable[Path],
    *,
    device: torch.device,
    batch_size: int = _BATCH_SIZE,
    min_score: float = 0.0,
) -> Iterator[BoxPrediction]:
    """Detections in the order of the paths.

    An unreadable image gives its error, and the rest goes on.

    Args:
        model: in eval, on the device.
        paths: of image files.
        device: where the model is.
        batch_size: images per forward pass.
        min_score: detections below are left out.
    """
    with model.as_baked():
        transform = box_evaluation_transform(model.preprocess)
        for group in groups(paths, batch_size):
            images: list[torch.Tensor] = []
            letterboxes: list[Letterbox] = []
            errors: dict[int, str] = {}
            for place, path in enumerate(group):
                try:
                    image = read_image(path, value_range=model.preprocess.value_range)
                    seen = transform(image, np.zeros((0, 4)), 0)
                except DataError as error:
                    errors[place] = str(error)
                else:
                    images.append(seen.image)
                    letterboxes.append(seen.letterbox)
            found = iter(
                model.predict(torch.stack(images).to(device), letterboxes) if images else ()
            )
            for place, path in enumerate(group):
                if place in errors:
                    yield BoxPrediction(path, None, errors[place])
                else:
                    detections = next(found).to("cpu")
                    if not detections.boxes.isfinite().all():
                        yield BoxPrediction(path, None, NOT_FINITE)
                        continue
                    yield BoxPrediction(path, detections[detections.scores >= min_score])


def best_per_object(detections: Detections) -> Detections:
    """The detections without those that lie on a better one, of whatever class.

    A detector suppresses what lies on a better box of the same class alone, so that an object of
    two likely classes has a box for each.
    """
    return detections[nms(detections.boxes.float(), detections.scores.float(), _SAME_OBJECT)]


def show_validation(events: Events, evaluator: BoxEvaluator) -> None:
    """'val/boxes': some validation images, the truth on the left, on the right what was found.

    Always the same images, spread over the split. The detections are those of the evaluator's last
    evaluation; nothing is computed anew.
    """
    shown = truth_and_found(evaluator.split, evaluator.coco.results())
    if shown:
        pixels = torch.stack([torch.tensor(np.asarray(picture)) for picture in shown])
        events.images(events.step, "val/boxes", pixels.permute(0, 3, 1, 2))


def truth_and_found(
    split: DetectionSplit,
    results: Sequence[Mapping[str, Any]],
    count: int = _SHOWN,
    min_score: float = MIN_SCORE,
    drawn: Drawn = "best",
) -> list[Image.Image]:
    """Pictures of images spread over the split: the truth on the left, on the right what was found.

    An image that is gone since is left out: a picture less is no reason to stop a run.

    Args:
        split: with the true boxes.
        results: records of a COCO results file.
        count: of pictures.
        min_score: detections below are not shown.
        drawn: which of the others are.
    """
    count = min(count, len(split))
    samples = [split.samples[place * len(split) // count] for place in range(count)]
    labels = {category: label for label, category in enumerate(split.category_ids)}
    found: dict[int, list[_Found]] = {sample.image_id: [] for sample in samples}
    for record in results:
        if record["image_id"] in found and record["score"] >= min_score:
            x, y, width, height = record["bbox"]
            box = [x, y, x + width, y + height]
            found[record["image_id"]].append((box, labels[record["category_id"]], record["score"]))
    if drawn == "best":
        found = {image_id: _best(each) for image_id, each in found.items()}
    most = max((len(sample.boxes) for sample in samples), default=0)
    side = _CROWD_SIDE if most >= _CROWD else _SIDE
    pictures = []
    for sample in samples:
        with suppress(DataError):
            boxes = found[sample.image_id]
            pictures.append(_truth_and_found(sample, boxes, split.class_names, side))
    return pictures


def _best(found: list[_Found]) -> list[_Found]:
    """See `best_per_object`; best first."""
    boxes = torch.tensor([box for box, _, _ in found], dtype=torch.float64).reshape(-1, 4)
    scores = torch.tensor([score for _, _, score in found], dtype=torch.float64)
    return [found[row] for row in nms(boxes, scores, _SAME_OBJECT).tolist()]


def _truth_and_found(
    sample: DetectionSample,
    found: list[_Found],
    names: tuple[str, ...],
    side: int,
) -> Image.Image:
    image = read_image(sample.source)
    letterbox = Letterbox.fit((image.height, image.width), side)
    height, width = letterbox.content_size
    small = image.resize((width, height))

    def drawn(boxes: list[list[float]], labels: list[int], captions: list[str]) -> Image.Image:
        placed = letterbox.to_letterboxed(torch.tensor(boxes).reshape(-1, 4)).tolist()
        return draw_boxes(small, placed, labels, captions)

    crowds = sample.crowds.tolist()
    kinds = zip(sample.labels.tolist(), crowds, strict=True)
    true = [names[label] + (" (crowd)" if crowd else "") for label, crowd in kinds]
    left = drawn(sample.boxes.tolist(), sample.labels.tolist(), true)
    right = drawn(
        [box for box, _, _ in found],
        [label for _, label, _ in found],
        [caption(names[label], score) for _, label, score in found],
    )
    return side_by_side(left, right, side)


def caption(name: str, score: float) -> str:
    """What is written at a detection."""
    return f"{name} {score:.2f}"
