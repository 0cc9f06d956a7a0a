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
from vpt.data.scans import AnySplit as OneSplit
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


def evaluate_prompt(path: Path, dataset: Path, **options: Any) -> dict[str, float]:
    """The metrics of `measure_prompt`, which has the same options."""
    return measure_prompt(path, dataset, **options)[0]


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

    Its classes are the file's; with `names='data'` a file whose classes are texts takes the data
    set's own, whatever it was trained with. Computed in the precision of the file's run, so that
    they equal the run's own. With `on_bad_image='skip'` unreadable images are left out and told.
    Of a multi-label file they hold 'AP/<class>' of each class that occurs, too.

    Raises:
        PromptFileError: the file, or its classes, do not fit.
        DataError: the data are missing or unreadable.
    """
    where = choose_device(device)
    descriptor = load_descriptor(dataset)
    record = read_prompt_header(path).cut
    cut = None if record is None else ContentCut(**record.model_dump())
    splits = read_splits(descriptor, root, cut=cut)
    chosen = splits.require(split, "--split names one to measure on")  # type: ignore[arg-type]
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
    if on_bad_image == "skip":
        chosen = readable(
            chosen,
            num_workers=num_workers,
            value_range=model.preprocess.value_range,
            log=log,
        )
    if warning := depth_warning(chosen, model.preprocess.value_range):
        log(f"warning: {warning}")
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
