"""Naming the class or classes of images with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from vpt.data import evaluation_transform, read_image
from vpt.errors import DataError

if TYPE_CHECKING:
    from vpt.models import Classifier


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

    An unreadable image gives its error, and the rest goes on.

    Args:
        model: on the device.
        paths: of the images.
        device: of the model.
        batch_size: images per forward pass.
        top_k: classes in `Prediction.top`.
        probabilities: see `Classifier.predict`.
        min_score: of a multi-label model, the least probability of a class in `Prediction.labels`.
    """
    with model.as_baked():
        transform = evaluation_transform(model.preprocess)
        scaled = model.preprocess.value_range
        assert model.head is not None
        names = model.class_names or [str(number) for number in range(model.head.num_classes)]
        for group in groups(paths, batch_size):
            read: list[tuple[Path, torch.Tensor | str]] = []
            for path in group:
                try:
                    read.append((path, transform(read_image(path, value_range=scaled), 0)))
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
