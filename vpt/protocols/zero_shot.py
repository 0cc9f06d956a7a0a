"""Zero-shot classification, and prompt files beside it."""

from __future__ import annotations

from pathlib import Path

from vpt.api import load_prompt
from vpt.data import Splits
from vpt.engine.prompt_file import read_prompt_header
from vpt.evaluation import Measured, PromptFileResult
from vpt.models import Classifier
from vpt.protocols.clip_setup import Bench
from vpt.runs import precision_of


def measure_zero_shot(bench: Bench, splits: Splits, classes: str = "all classes") -> Measured:
    """The model as it was published, on the test split: nothing is trained.

    Args:
        bench: of the evaluation.
        splits: with the classes to tell apart.
        classes: what they are, for the log.
    """
    model = bench.zero_shot_model(splits)
    test, precision = splits.require("test"), bench.run.train.precision
    measured = bench.measure(model, test, precision=precision)
    top1, images = measured.metrics["top1"], measured.images
    bench.log(f"zero-shot, {classes}: top-1 {top1:.1%}, {images} images")
    return measured


def load_for(bench: Bench, path: Path) -> Classifier:
    """The model of a prompt file, with the data set's class names where it has others.

    Raises:
        PromptFileError: it belongs to another tower, or cannot take other names.
    """
    splits = bench.splits
    differ = read_prompt_header(path).class_names != list(splits.class_names)
    return load_prompt(
        path,
        bench.backbone,
        class_names=splits.class_names if differ else None,
        text_names=splits.text_names if differ else None,
        text=bench.text,
    )


def measure_prompt_file(bench: Bench, path: Path) -> PromptFileResult:
    """A prompt file on the test split.

    Raises:
        PromptFileError: see `load_for`.
    """
    header, splits = read_prompt_header(path), bench.splits
    differ = header.class_names != list(splits.class_names)
    model = load_for(bench, path).to(bench.device)
    measured = bench.measure(model, splits.require("test"), precision=precision_of(path))
    bench.log(f"{path}: top-1 {measured.metrics['top1']:.1%}")
    return PromptFileResult(str(path), header.backbone.sha256, measured, differ)
