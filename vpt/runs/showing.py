"""What a run shows in TensorBoard of its model: the worst errors, its settings, its tokens.

TensorBoard is a view. Where one of these cannot be shown, a line says so and the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vpt.engine.progress import Log
from vpt.engine.projector import Points, write_projector
from vpt.engine.run_dir import RunDirectory
from vpt.evaluation import ClassificationEvaluator, Mistake
from vpt.experiment import AnyExperiment
from vpt.models import PromptedModel
from vpt.runs.feeding import dataset_of
from vpt.runs.start import flat

if TYPE_CHECKING:
    from vpt.engine.events import Events

WORST = 16
"""Errors that are shown."""

_SIDE, _BORDER = 96, 2  # most pixels of each; white ones around it


@contextmanager
def harmless(what: str, log: Log) -> Iterator[None]:
    """Whatever fails inside costs one line of the log, and not the run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log(f"TensorBoard shows no {what}, the run goes on: {reason}")


def show_errors(events: Events, experiment: AnyExperiment, evaluator: object) -> None:
    """'val/worst_errors': the validation images that are wrong with the highest confidence.

    One grid, row by row, and a table of the same order. They are those of the evaluator's last
    evaluation; the images are read again.
    """
    split = experiment.splits.get("val")
    if split is None or not isinstance(evaluator, ClassificationEvaluator):
        return
    mistakes = evaluator.worst_mistakes(WORST)
    if not mistakes:
        return
    dataset = dataset_of(split, experiment.eval_transform, seed=0)
    images = torch.stack([dataset[0, mistake.place][0] for mistake in mistakes])
    small = _shrunk(images / 255)
    events.images(events.step, "val/worst_errors", F.pad(small, [_BORDER] * 4, value=1.0))
    names = split.class_names
    rows = [
        [str(number), split.samples[mistake.place].key, *_told(mistake, names)]
        for number, mistake in enumerate(mistakes, 1)
    ]
    events.text("val/worst_errors", _aligned([_COLUMNS, *rows]), step=events.step)


def _shrunk(images: Tensor) -> Tensor:
    """Images small enough to be written at every best epoch."""
    scale = _SIDE / max(images.shape[-2:])
    if scale >= 1:
        return images
    size = [round(side * scale) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


_COLUMNS = ["", "image", "true", "predicted", "confidence", "loss"]


def _told(mistake: Mistake, names: tuple[str, ...]) -> list[str]:
    classes = [names[mistake.label], names[mistake.predicted]]
    return [*classes, f"{mistake.confidence:.3f}", f"{mistake.loss:.3f}"]


def _aligned(rows: list[list[str]]) -> str:
    """Rows of cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pairs = [zip(row, widths, strict=True) for row in rows]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in pairs)


def show_result(
    events: Events,
    experiment: AnyExperiment,
    val: Mapping[str, float],
    test: Mapping[str, float] | None,
) -> None:
    """The settings of a run beside what came of it, for TensorBoard's table of runs."""
    metrics = {f"best/val_{name}": value for name, value in val.items()}
    metrics |= {f"best/test_{name}": value for name, value in (test or {}).items()}
    settings = flat(experiment.config.model_dump(mode="json"))
    events.hparams(events.step, settings, metrics)


def write_points(run: RunDirectory, model: PromptedModel) -> None:
    """The prompt's tokens and the linear head's classes, for TensorBoard's projector."""
    clouds = {}
    prompt = {layer: model.prompt.rows(layer) for layer in model.prompt.layers}
    rows = {layer: row[0] for layer, row in prompt.items() if row is not None}
    if rows:
        names = [f"{layer}/{token}" for layer, row in rows.items() for token in range(len(row))]
        clouds["prompt_tokens"] = Points(torch.cat(list(rows.values())), names)
    weight = getattr(model.head, "weight", None)
    if isinstance(weight, Tensor) and model.class_names is not None:
        clouds["class_weights"] = Points(weight, model.class_names)
    if clouds and run.tensorboard.is_dir():
        write_projector(run.tensorboard, clouds)
