"""Measuring a trained model on a split of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from vpt.api import load_prompt
from vpt.data import (
    LEFT_OUT,
    ScanMemory,
    Split,
    Transform,
    Workers,
    depth_warning,
    drop_bad,
    evaluation_transform,
    layout_lines,
    load_descriptor,
    read_splits,
    scan_images,
)
from vpt.data.cuts import cut_difference
from vpt.data.loading.scans import AnySplit as OneSplit
from vpt.data.splits import ContentCut
from vpt.engine.device import choose_device
from vpt.engine.evaluate import evaluate
from vpt.engine.progress import Log, images_progress
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import PromptFileError
from vpt.evaluation import (
    ClassificationEvaluator,
    CocoEval,
    Evaluator,
    MultiLabelEvaluator,
)
from vpt.models import Classifier, PromptedModel
from vpt.registry import nearest
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.feeding import AnySplit, evaluator_of, in_order
from vpt.runs.predicting import NOT_FINITE
from vpt.structures import Preprocess


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
    """Metrics of a model of either task on one split, and the evaluator for more.

    Args:
        model: on the device.
        split: is read whole, in its order.
        transform: of evaluation.
        device: of the model.
        batch_size: images per forward pass.
        num_workers: processes that decode images.
        precision: 'fp32', 'bf16' or 'fp16'.
        after_batch: called with the number of images of each batch.
        results: of a detector, a file for its detections as COCO results.
        coco_eval: of a detector, see `DetectionEvaluator`.
    """
    batches = in_order(
        split, transform, batch_size=batch_size, num_workers=num_workers, device=device
    )
    evaluator = evaluator_of(split, results=results, coco_eval=coco_eval)
    metrics = evaluate(
        model, batches, evaluator, device=device, precision=precision, after_batch=after_batch
    )
    return metrics, evaluator


def readable(
    split: OneSplit,
    *,
    num_workers: Workers = 2,
    value_range: tuple[float, float] | None = None,
    log: Log = lambda line: None,
) -> OneSplit:
    """The split without the images that do not decode, each of which is named.

    Args:
        split: its files are read whole.
        num_workers: processes; 0: this one.
        value_range: of the model, see `Preprocess`.
        log: takes a line for each image that is left out.

    Raises:
        DataError: what is left is not enough, see `drop_bad`.
    """
    memory = ScanMemory.of_user()
    bad = scan_images(split, num_workers, value_range=value_range, memory=memory)
    for image in bad:
        log(f"{LEFT_OUT}{image.path}: {image.reason}")
    return drop_bad(split, bad) if bad else split


def as_measured(
    split: OneSplit, preprocess: Preprocess, *, skip: bool, num_workers: Workers, log: Log
) -> OneSplit:
    """The split that a prompt file is measured on; a line warns of images that look too dark.

    Args:
        split: as it was read.
        preprocess: of the model.
        skip: leave out images that do not decode, see `readable`.
        num_workers: processes that decode images for that.
        log: takes plain lines.
    """
    if skip:
        value_range = preprocess.value_range
        split = readable(split, num_workers=num_workers, value_range=value_range, log=log)
    if warning := depth_warning(split, preprocess.value_range):
        log(f"warning: {warning}")
    return split


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
    """Metrics of a classifier on one split, and the evaluator for more; arguments of `measure`."""
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


def confusions_of(evaluator: Evaluator) -> torch.Tensor | None:
    """Counts by true and found class; of boxes with a last row and column for nothing.

    Of very many classes neighbours are counted together, as no picture could show them all. None
    where images may be of several classes: none is taken for another.
    """
    if isinstance(evaluator, MultiLabelEvaluator):
        return None
    if isinstance(evaluator, BoxEvaluator):
        return evaluator.coco.confusion_matrix()
    assert isinstance(evaluator, ClassificationEvaluator)
    return evaluator.confusions().matrix(most=_MOST_ROWS)


_MOST_ROWS = 1000
"""Of a matrix of confusions."""


def measure_prompt(
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
) -> tuple[dict[str, float], Evaluator, AnySplit]:
    """Metrics of a prompt file on a split of a data set, and the evaluator and split for more.

    They are computed in the precision of the file's run, so that they equal the run's own. For a
    multi-label file they include 'AP/<class>' of each class that occurs.

    Args:
        path: the prompt file.
        dataset: a descriptor, or a folder whose layout is recognised.
        root: where the images are; None takes the descriptor's.
        split: 'train', 'val' or 'test'.
        device: see `choose_device`.
        batch_size: images per forward pass.
        num_workers: processes that decode images.
        weights: local file of the backbone's weights.
        names: 'file' takes the classes of the prompt file; 'data' takes the data set's, where the
            file's classes are texts.
        on_bad_image: what an unreadable image does: 'error' raises, 'skip' leaves it out and logs
            it.
        log: takes plain lines.
        console: for a progress bar, if it is a terminal.

    Raises:
        PromptFileError: the file, or its classes, do not fit.
        DataError: the data are missing or unreadable.
    """
    where = choose_device(device)
    descriptor = load_descriptor(dataset)
    record = read_prompt_header(path).cut
    cut = None if record is None else ContentCut(**record.model_dump())
    splits = read_splits(descriptor, root, cut=cut)
    chosen = splits.require(split, way_out="choose another with --split")  # type: ignore[arg-type]
    for line in [*layout_lines(descriptor), *splits.notes]:
        log(line)
    if cut is not None and (differing := cut_difference(splits.cut, cut, chosen.name)):
        log(f"warning: {differing}")
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
    # A folder of test images alone may lack classes; training images say what the classes are.
    same, fewer = set(splits.class_names) == set(known), set(splits.class_names) <= set(known)
    if not (same or (fewer and splits.train is None)):
        raise PromptFileError(
            f"{path} has other classes than {dataset}: {difference(known, splits.class_names)}"
            + ("" if model.text is None else "; --names data takes the data set's")
        )
    if list(splits.class_names) != known:
        log(f"the classes are the prompt file's: {difference(known, splits.class_names)}")
        chosen = chosen.with_classes(known)
    skip = on_bad_image == "skip"
    chosen = as_measured(chosen, model.preprocess, skip=skip, num_workers=num_workers, log=log)
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
    return metrics, evaluator, chosen


def precision_of(path: Path) -> str:
    """The arithmetic that a prompt file's run had; fp32 where it does not say."""
    return read_prompt_header(path).precision


def difference(file: Iterable[str], data: Iterable[str]) -> str:
    """How a file's classes differ from a data set's, in a few words."""
    only_file, only_data = sorted(set(file) - set(data)), sorted(set(data) - set(file))
    if not only_file and not only_data:
        return "the same names in another order"
    sides = {"the file": only_file[:5], "the data": only_data[:5]}
    text = ", ".join(f"only in {side} {names}" for side, names in sides.items() if names)
    near = next((f"{each!r}{hint}" for each in only_data if (hint := nearest(each, only_file))), "")
    return f"{text} ({near})" if near else text
