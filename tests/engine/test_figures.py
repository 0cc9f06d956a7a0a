"""Pictures of numbers: of any size, and with what can be read in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from vpt.engine.figures import draw_confusion_matrix, draw_precision_recall


def drawn_texts(monkeypatch):
    """Every text that is placed in a cell from now on, as (column, row, text)."""
    real, texts = Axes.text, []

    def noting(self, x, y, text, **options):
        texts.append((x, y, text))
        return real(self, x, y, text, **options)

    monkeypatch.setattr(Axes, "text", noting)
    return texts


@pytest.mark.parametrize("classes", [1, 2, 30, 31, 200])
def test_a_confusion_matrix__of_any_number_of_classes__is_a_picture(classes):
    counts = torch.eye(classes, dtype=torch.int64) * 3
    counts[0] = 0
    counts[-1, -1] = 3
    names = [f"$class_{number}" + "x" * 40 for number in range(classes)]
    pixels = draw_confusion_matrix(counts, names, title="$a_b: 5 % of images")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert min(pixels.shape[:2]) >= 600
    assert pixels.std() > 1


def test_a_confusion_matrix__has_its_counts_in_the_cells(monkeypatch):
    texts = drawn_texts(monkeypatch)
    draw_confusion_matrix(torch.tensor([[7, 0], [2, 12345]]), ["a", "b"])
    assert texts == [(0, 0, "7"), (0, 1, "2"), (1, 1, "12345")]


def test_a_large_confusion_matrix__has_colours_alone(monkeypatch):
    texts = drawn_texts(monkeypatch)
    draw_confusion_matrix(torch.ones(31, 31), [str(number) for number in range(31)])
    assert texts == []


def test_names_of_another_number__as_where_neighbours_share_a_row__are_left_out():
    pixels = draw_confusion_matrix(torch.ones(3, 3), ["a", "b"])
    assert np.array_equal(pixels, draw_confusion_matrix(torch.ones(3, 3)))


@pytest.mark.parametrize("classes", [0, 3, 200])
def test_precision_recall__of_any_number_of_classes__is_a_picture(classes):
    curves = {f"_{i}$": [1.0, 0.5, i / 200] for i in range(classes)}
    pixels = draw_precision_recall(curves)
    assert pixels.shape == (600, 700, 3)
    assert pixels.std() > 1
