"""What is done with a trained model: measure it on a split, name the class of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from vpt.api import load_prompt
from vpt.data import (
    LEFT_OUT,
    Split,
    Transform,
    Workers,
    drop_bad,
    evaluation_transform,
    load_descriptor,
    read_image,
    read_splits,
    scan_images,
)
from vpt.data.loader import OneSplit
from vpt.engine.device import choose_device
from vpt.engine.evaluate import evaluate
from vpt.engine.progress import Log, images_progress
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import DataError, PromptFileError
from vpt.evaluation import (
    ClassificationEvaluator,
    CocoEval,
    Evaluator,
    MultiLabelEvaluator,
)
from vpt.models import Classifier, PromptedModel
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.feeding import AnySplit, evaluator_of, in_order


def measure(
    model: PromptedModel,
    split: AnySplit,
    transform: Any,
    *,
    device: torch.device,
    batch_size: int = 64,
    num_workers: Workers = 2,
    precision: str = "fp32",
    after_batch: Callable[[int], None] = lambda images: None,
    results: Path | None = None,
    coco_eval: CocoEval = "pycocotools",
) -> tuple[dict[str, float], Evaluator]:
    """Metrics of a model of either task on one split, and the evaluator for more."""
    batches = in_order(
        split, transform, batch_size=batch_size, num_workers=num_workers, device=device
    )
    evaluator = evaluator_of(split, results=results, coco_eval=coco_eval)
    metrics = evaluate(
        model, batches, evaluator, device=device, precision=precision, after_batch=after_batch
    )
    return metrics, evaluator


def readable(
    split: OneSplit, *, num_workers: Workers = 2, log: Log = lambda line: None
) -> OneSplit:
    """The split without the images that do not decode, each of which is named.

    Raises:
        DataError: what is left is not enough, see `drop_bad`.
    """
    bad = scan_images(split, num_workers)
    for image in bad:
        log(f"{LEFT_OUT}{image.path}: {image.reason}")
    return drop_bad(split, bad) if bad else split


def evaluate_split(
    model: Classifier,
    split: Split,
    transform: Transform,
    *,
    device: torch.device,
    batch_size: int = 64,
    num_workers: Workers = 2,
    precision: str = "fp32",
) -> tuple[dict[str, float], ClassificationEvaluator]:
    """Metrics of a classifier on one split, and the evaluator for more."""
    metrics, evaluator = measure(
        model,
        split,
        transform,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        precision=precision,
    )
    assert isinstance(evaluator, ClassificationEvaluator)
    return metrics, evaluator


def per_class_of(evaluator: Evaluator) -> list[float | None]:
    """The accuracy, or AP, of each class; None for one that does not occur."""
    if isinstance(evaluator, BoxEvaluator):
        return list(evaluator.coco.per_class_ap().values())
    if isinstance(evaluator, MultiLabelEvaluator):
        return evaluator.average_precisions()
    assert isinstance(evaluator, ClassificationEvaluator)
    return evaluator.per_class_accuracy()


def confusions_of(evaluator: Evaluator) -> torch.Tensor | None:
    """Counts by true and found class; of boxes with a last row and column for nothing.

    None where images may be of several classes: none is taken for another.
    """
    if isinstance(evaluator, MultiLabelEvaluator):
        return None
    if isinstance(evaluator, BoxEvaluator):
        return evaluator.coco.confusion_matrix()
    assert isinstance(evaluator, ClassificationEvaluator)
    return evaluator.confusion_matrix()


def evaluate_prompt(
    path: Path,
    dataset: Path,
    *,
    root: Path | None = None,
    split: str = "test",
    device: str = "auto",
    batch_size: int = 64,
    num_workers: int = 2,
    weights: Path | None = None,
    names: Literal["file", "data"] = "file",
    on_bad_image: Literal["error", "skip"] = "error",
    log: Log = lambda line: None,
    console: Console | None = None,
) -> dict[str, float]:
    """Metrics of a prompt file on a split of a data set.

    Its classes are the file's; with `names='data'` a file whose classes are texts takes the data
    set's own, whatever it was trained with. Computed in the precision of the file's run, so that
    they equal the run's own. With `on_bad_image='skip'` unreadable images are left out and told.
    Of a multi-label file they hold 'AP/<class>' of each class that occurs, too.

    Raises:
        PromptFileError: the file, or its classes, do not fit.
        DataError: the data are missing or unreadable.
    """
    where = choose_device(device)
    splits = read_splits(load_descriptor(dataset), root)
    chosen = splits.require(split)  # type: ignore[arg-type]
    if on_bad_image == "skip":
        chosen = readable(chosen, num_workers=num_workers, log=log)
    other = names == "data"
    model = load_prompt(
        path,
        weights=weights,
        class_names=splits.class_names if other else None,
        text_names=splits.text_names if other else None,
    ).to(where)
    known = model.class_names
    if model.head is None or known is None:
        raise PromptFileError(f"{path} holds no head with class names: nothing to evaluate")
    if model.multi_label != splits.multi_label:
        kinds = ("multi-label", "of one class per image")
        file, data = kinds if model.multi_label else reversed(kinds)
        raise PromptFileError(f"{path} is {file}, {dataset} is {data}: they cannot be compared")
    if list(splits.class_names) != known:
        raise PromptFileError(
            f"{path} has other classes than {dataset}: {difference(known, splits.class_names)}"
            + ("" if model.text is None else "; --names data takes the data set's")
        )
    transform = evaluation_transform(model.preprocess)
    with images_progress(len(chosen), console) as advance:
        metrics, evaluator = measure(
            model,
            chosen,
            transform,
            device=where,
            batch_size=batch_size,
            num_workers=num_workers,
            precision=precision_of(path),
            after_batch=advance,
        )
    if not math.isfinite(metrics["loss"]):
        raise PromptFileError(f"{path}: {NOT_FINITE} on {dataset}: there is nothing to measure")
    if isinstance(evaluator, MultiLabelEvaluator):
        pairs = zip(known, evaluator.average_precisions(), strict=True)
        metrics |= {f"AP/{name}": value for name, value in pairs if value is not None}
    return metrics


def precision_of(path: Path) -> str:
    """The arithmetic that a prompt file's run had; fp32 where it does not say."""
    return read_prompt_header(path).precision


def difference(file: Iterable[str], data: Iterable[str]) -> str:
    """How a file's classes differ from a data set's, in a few words."""
    only_file, only_data = sorted(set(file) - set(data)), sorted(set(data) - set(file))
    if not only_file and not only_data:
        return "the same names in another order"
    return f"only in the file {only_file[:5]}, only in the data {only_data[:5]}"


@dataclass(frozen=True)
class Prediction:
    """The most likely class of one image; of a multi-label model all that are likely enough.

    Attributes:
        image: its path.
        label: the class name, or its number where the file has no names.
        probability: of that class.
        error: why the image could not be read, or None.
        top: class to probability, the best `top_k`.
        labels: class to probability, best first, of all that reach the threshold, perhaps none;
            None where an image has one class.
    """

    image: str
    label: str | None
    probability: float | None
    error: str | None = None
    top: dict[str, float] = field(default_factory=dict)
    labels: dict[str, float] | None = None


def predict_images(
    model: Classifier,
    paths: Iterable[Path],
    *,
    device: torch.device,
    batch_size: int = 32,
    top_k: int = 1,
    probabilities: Literal["softmax", "sigmoid"] | None = None,
    min_score: float = 0.5,
) -> Iterator[Prediction]:
    """Predictions in the order of the paths.

    An unreadable image gives its error, and the rest goes on. Of a multi-label model they have
    the classes with a probability of at least `min_score`.
    """
    with model.as_baked():
        transform = evaluation_transform(model.preprocess)
        assert model.head is not None
        names = model.class_names or [str(number) for number in range(model.head.num_classes)]
        for group in groups(paths, batch_size):
            read: list[tuple[Path, torch.Tensor | str]] = []
            for path in group:
                try:
                    read.append((path, transform(read_image(path), 0)))
                except DataError as error:
                    read.append((path, str(error)))
            tensors = [image for _, image in read if isinstance(image, torch.Tensor)]
            rows: Iterator[torch.Tensor] = iter(
                model.predict(torch.stack(tensors).to(device), probabilities=probabilities).cpu()
                if tensors
                else []
            )
            for path, image in read:
                if isinstance(image, str):
                    yield Prediction(str(path), None, None, error=image)
                    continue
                row = next(rows)
                if not row.isfinite().all():
                    yield Prediction(str(path), None, None, error=NOT_FINITE)
                    continue
                ranked = _ranked(row, names)
                top = dict(ranked[:top_k])
                if model.multi_label:
                    likely = {name: value for name, value in ranked if value >= min_score}
                    yield Prediction(str(path), None, None, top=top, labels=likely)
                else:
                    yield Prediction(str(path), *ranked[0], top=top)


NOT_FINITE = "the model gives numbers that are not finite"
"""The error of an image whose prediction would be NaN, which is no number of JSON."""


def _ranked(row: torch.Tensor, names: list[str]) -> list[tuple[str, float]]:
    """Every class and its probability, best first."""
    values, indices = row.topk(len(names))
    return [(names[i], p) for p, i in zip(values.tolist(), indices.tolist(), strict=True)]


def groups(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    """Paths in lists of `size`, the last one of what is left."""
    group: list[Path] = []
    for path in paths:
        group.append(path)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
