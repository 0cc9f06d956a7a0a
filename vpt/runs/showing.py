"""What a run shows of its model, in TensorBoard and as pictures: errors, settings, tokens.

These are views. Where one of them cannot be shown, a line says so and the run goes on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vpt.data import Split
from vpt.engine.figures import draw_confusion_matrix
from vpt.engine.fit import best_curves
from vpt.engine.progress import Log
from vpt.engine.projector import Points, write_projector
from vpt.engine.run_dir import RunDirectory
from vpt.evaluation import NOTHING, ClassificationEvaluator, Evaluator, Mistake
from vpt.experiment import AnyExperiment
from vpt.models import PromptedModel
from vpt.runs.boxes import BoxEvaluator
from vpt.runs.drawing import draw_tiles
from vpt.runs.feeding import AnySplit, dataset_of
from vpt.runs.inference import confusions_of
from vpt.runs.start import FREE_ON_RESUME, flat
from vpt.storage.atomic_file import write_atomic

if TYPE_CHECKING:
    from vpt.engine.events import Events

WORST = 16
"""Errors that are shown."""

_TILE = 160
"""Pixels of the longer side of each."""

_ALWAYS_SHOWN = (
    *("seed", "data.dataset", "data.batch_size", "train.epochs", "tuning"),
    *("backbone.name", "prompt.name", "head.name", "optim.name", "optim.lr"),
)
"""Settings that say what a run is, also where they are the defaults."""


@contextmanager
def harmless(what: str, log: Log) -> Iterator[None]:
    """Whatever fails inside costs one line of the log, and not the run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log(f"the run shows no {what} and goes on: {reason}")


def show_errors(
    events: Events, experiment: AnyExperiment, evaluator: object, *, file: Path | None = None
) -> None:
    """'val/worst_errors': the validation images that are wrong with the highest confidence.

    A picture, and a table of the same order. They are those of the evaluator's last evaluation;
    the images are read again. Those of the test split are not shown: nobody is to choose by them.

    Args:
        events: of the run.
        experiment: of the run.
        evaluator: of the validation images.
        file: for the picture as PNG, removed where no image is wrong.

    Raises:
        RunError: the file cannot be written.
    """
    split = experiment.splits.get("val")
    if not isinstance(split, Split) or not isinstance(evaluator, ClassificationEvaluator):
        return
    if file is not None:
        file.unlink(missing_ok=True)
    mistakes = evaluator.worst_mistakes(WORST)
    if not mistakes:
        return
    pixels = _picture_of(mistakes, split, experiment)
    events.picture(events.step, "val/worst_errors", pixels)
    names = split.class_names
    rows = [
        [str(number), split.samples[mistake.place].key, *_cells(mistake, names)]
        for number, mistake in enumerate(mistakes, 1)
    ]
    events.text("val/worst_errors", _aligned([_COLUMNS, *rows]), step=events.step)
    if file is not None:
        write_atomic(file, [_png(pixels)])


def write_confusions(
    run: RunDirectory, events: Events, split: AnySplit, evaluator: Evaluator
) -> None:
    """`confusion_matrix.png` of a split, and the same in TensorBoard.

    Where images may be of several classes there is none.

    Args:
        run: whose file is replaced, or removed.
        events: of the run.
        split: that was evaluated.
        evaluator: of that.

    Raises:
        RunError: it cannot be written.
    """
    run.confusions.unlink(missing_ok=True)
    counts = confusions_of(evaluator)
    if counts is None:
        return
    names = list(split.class_names)
    if isinstance(evaluator, BoxEvaluator):
        names.append(NOTHING)
    what = "objects" if isinstance(evaluator, BoxEvaluator) else "images"
    title = f"{split.name}: {what} by true and predicted class"
    pixels = draw_confusion_matrix(counts, names, title=title)
    events.picture(events.step, f"{split.name}/confusion_matrix", pixels)
    write_atomic(run.confusions, [_png(pixels)])


def _picture_of(
    mistakes: Sequence[Mistake], split: Split, experiment: AnyExperiment
) -> NDArray[np.uint8]:
    """(H, W, 3): the images as the model sees them, with names and confidence below."""
    dataset = dataset_of(split, experiment.eval_transform, seed=0)
    tiles = []
    for mistake in mistakes:
        pixels = dataset[0, mistake.place][0].permute(1, 2, 0).contiguous().numpy()
        true, found = (split.class_names[label] for label in (mistake.label, mistake.predicted))
        lines = [
            f"true: {true}",
            f"predicted: {found} {mistake.confidence:.0%}",
            PurePath(split.samples[mistake.place].key).name,
        ]
        tiles.append((Image.fromarray(pixels), lines))
    title = f"{split.name}: the wrong images of highest confidence"
    return np.asarray(draw_tiles(tiles, side=_TILE, title=title))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


_COLUMNS = ["", "image", "true", "predicted", "confidence", "loss"]


def _cells(mistake: Mistake, names: tuple[str, ...]) -> list[str]:
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
    *,
    headline: Sequence[str],
) -> None:
    """What came of a run: a table of its metrics, and its settings in TensorBoard's table of runs.

    That table holds what differs from the defaults, and validation alone, for settings are chosen
    on it and not on the test split.

    Args:
        events: of the run.
        experiment: of the run.
        val: metrics of the best epoch.
        test: of the test split, if there is one.
        headline: the metrics that stand beside the settings; none: all.
    """
    rows = [["", *val], ["val", *(f"{value:.4f}" for value in val.values())]]
    if test is not None:
        rows.append(["test", *(f"{test[name]:.4f}" if name in test else "" for name in val)])
    if not val and test is not None:
        rows = [["", *test], ["test", *(f"{value:.4f}" for value in test.values())]]
    events.text("result", _aligned(rows), step=events.step)
    events.hparams(events.step, telling_settings(experiment), list(best_curves(val, headline)))


def telling_settings(experiment: AnyExperiment) -> dict[str, Any]:
    """The settings that differ from their defaults and change a run's numbers, by dotted keys.

    With them are a few that say what the run is. No folder or machine of the run is among them.
    """
    config = experiment.config
    every = flat(config.model_dump(mode="json"))
    other = flat(config.model_dump(mode="json", exclude_defaults=True))
    return {
        key: value
        for key, value in every.items()
        if key not in FREE_ON_RESUME and (key in other or key in _ALWAYS_SHOWN)
    }


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
