"""Predicted boxes as files: rows, COCO records, annotated copies of the images."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from vpt.api import load_detector
from vpt.console import SafeStream
from vpt.data import read_image
from vpt.engine.device import choose_device
from vpt.engine.progress import images_progress
from vpt.engine.run_dir import write_json_atomic
from vpt.errors import DataError
from vpt.evaluation.detection import to_records
from vpt.models import Detector
from vpt.runs.detection import (
    MIN_SCORE,
    BoxPrediction,
    Drawn,
    best_per_object,
    caption,
    predict_boxes,
)
from vpt.runs.drawing import Captions, draw_boxes
from vpt.runs.outputs import RowFormat, opened, prepare_outputs
from vpt.storage.atomic_file import write_new

CSV_COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2", "error")


def write_predictions(
    path: Path,
    images: Sequence[Path],
    *,
    output: Path | None = None,
    output_format: RowFormat = "csv",
    coco: Path | None = None,
    pictures: Path | None = None,
    draw: Drawn = "best",
    captions: Captions = "fit",
    min_score: float = MIN_SCORE,
    batch_size: int = 8,
    device: str = "auto",
    weights: Path | None = None,
    console: Console | None = None,
) -> int:
    """Find boxes with a detector's prompt file, and write them; how many images are unreadable.

    Args:
        path: the prompt file.
        images: files.
        output: for the rows; None: stdout.
        output_format: 'csv' (see `CSV_COLUMNS`) or 'jsonl'.
        coco: a file for COCO results by file name.
        pictures: a folder for annotated copies.
        draw: which boxes are in these.
        captions: which of them have captions.
        min_score: boxes below are left out everywhere.
        batch_size: images per forward pass.
        device: see `choose_device`.
        weights: local file of the backbone's weights.
        console: for a progress bar, if it is a terminal.

    Raises:
        PromptFileError: the file holds no detector, or is damaged.
        DataError: a file would replace what is read, or a picture any file.
    """
    outputs = {"the rows": output, "the COCO results": coco}
    prepare_outputs(outputs, [path, weights, *images])
    where = choose_device(device)
    model = load_detector(path, weights=weights).to(where)
    names = names_of(model)
    copies = None
    if pictures is not None:
        copies = Pictures(pictures, images, names, drawn=draw, captions=captions)
    records: list[dict[str, Any]] = []
    unreadable = 0
    found = predict_boxes(model, images, device=where, batch_size=batch_size, min_score=min_score)
    with opened(output) as stream, images_progress(len(images), console) as advance:
        for prediction in write_rows(found, names, stream, output_format):
            advance(1)
            unreadable += prediction.error is not None
            if copies is not None:
                copies.draw(prediction)
            if coco is not None:
                records += coco_records(prediction, model)
    if coco is not None:
        write_json_atomic(coco, records)
    return unreadable


def names_of(model: Detector) -> list[str]:
    """The classes' names, or their numbers where the file has none."""
    return model.class_names or [str(number) for number in range(model.head.num_classes)]


def write_rows(
    predictions: Iterable[BoxPrediction],
    names: Sequence[str],
    stream: TextIO | SafeStream,
    output_format: RowFormat,
) -> Iterator[BoxPrediction]:
    """Write each prediction as it comes, and hand it on.

    csv has a row per box, and one without a box for an image in which nothing was found; jsonl an
    object per image.

    Args:
        predictions: in the order of the rows.
        names: of the classes.
        stream: that is written to.
        output_format: 'csv' or 'jsonl'.
    """
    table = csv.writer(stream, lineterminator="\n")
    if output_format == "csv":
        table.writerow(CSV_COLUMNS)
    for prediction in predictions:
        found = _boxes(prediction, names)
        image = str(prediction.image)
        if output_format == "jsonl":
            values: dict[str, Any] = {"image": image, "boxes": found}
            if prediction.error is not None:
                values = {"image": image, "error": prediction.error}
            stream.write(json.dumps(values, allow_nan=False) + "\n")
        elif not found:
            table.writerow([image, *[""] * 6, prediction.error or ""])
        else:
            for each in found:
                sides = [f"{side:.2f}" for side in each["box"]]
                table.writerow([image, each["class"], f"{each['score']:.6f}", *sides, ""])
        yield prediction


def _boxes(prediction: BoxPrediction, names: Sequence[str]) -> list[dict[str, Any]]:
    found = prediction.detections
    if found is None:
        return []
    columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [
        {"class": names[label], "score": round(score, 6), "box": [round(side, 2) for side in box]}
        for box, score, label in zip(*columns, strict=True)
    ]


def coco_records(prediction: BoxPrediction, model: Detector) -> list[dict[str, Any]]:
    """One image's detections as COCO results, under its file name: it has no image id."""
    if prediction.detections is None:
        return []
    names, categories = names_of(model), model.category_ids or range(model.head.num_classes)
    records = to_records(0, prediction.detections, list(categories))
    labels = prediction.detections.labels.tolist()
    for record, label in zip(records, labels, strict=True):
        del record["image_id"]
        record["category"] = names[label]
    return [{"file_name": str(prediction.image), **record} for record in records]


class Pictures:
    """Annotated copies of images in a folder; no file that exists is ever replaced.

    Args:
        folder: made where it is missing.
        images: all that will be drawn.
        names: of the classes.
        drawn: the best box of each object, over all classes, or all.
        captions: see `draw_boxes`.

    Raises:
        DataError: a copy would replace a file.
    """

    def __init__(
        self,
        folder: Path,
        images: Sequence[Path],
        names: Sequence[str],
        *,
        drawn: Drawn = "best",
        captions: Captions = "fit",
    ):
        self._names, self._drawn, self._captions = names, drawn, captions
        self._targets = _targets(folder, images)
        for target in self._targets:
            if os.path.lexists(target):
                raise _not_replaced(target)
        folder.mkdir(parents=True, exist_ok=True)
        self._next = iter(self._targets)

    def draw(self, prediction: BoxPrediction) -> None:
        """Write the copy of the next image; none of one that could not be read."""
        target = next(self._next)
        found = prediction.detections
        if found is None:
            return
        if self._drawn == "best":
            found = best_per_object(found)
        labels = found.labels.tolist()
        pairs = zip(labels, found.scores.tolist(), strict=True)
        texts = [caption(self._names[label], score) for label, score in pairs]
        image = read_image(prediction.image)
        picture = draw_boxes(image, found.boxes.tolist(), labels, texts, shown=self._captions)
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=92, subsampling=0)
        try:
            write_new(target, encoded.getvalue())
        except FileExistsError as error:
            raise _not_replaced(target) from error


def _not_replaced(target: Path) -> DataError:
    return DataError(f"{target} exists and is not replaced; name another folder")


def _targets(folder: Path, images: Sequence[Path]) -> list[Path]:
    """A .jpg of each image's name; of names that occur again with a number."""
    taken: set[str] = set()
    targets = []
    for image in images:
        name, number = image.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name.lower())
        targets.append(folder / f"{name}.jpg")
    return targets
