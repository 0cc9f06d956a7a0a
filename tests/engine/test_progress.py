"""What is said while something takes its time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vpt.engine.progress import loading_line, said_if_slow


def test_what_is_quick__is_not_said():
    said: list[str] = []
    with said_if_slow("loading", said.append, seconds=30):
        pass
    assert said == []
    assert not [each for each in threading.enumerate() if isinstance(each, threading.Timer)][1:]


def test_what_is_slow__is_said_once():
    said, heard = [], threading.Event()

    def log(line: str) -> None:
        said.append(line)
        heard.set()

    with said_if_slow("loading backbone x ...", log, seconds=0):
        assert heard.wait(30)
    assert said == ["loading backbone x ..."]


def test_an_error__silences_the_line_too():
    said: list[str] = []
    with pytest.raises(KeyError), said_if_slow("loading", said.append, seconds=30):
        raise KeyError
    assert said == []


@pytest.mark.parametrize(
    ("name", "weights", "pretrained", "line"),
    [
        ("bundled/glyph_vit", None, True, "loading backbone bundled/glyph_vit ..."),
        (
            "timm/x",
            None,
            True,
            "loading backbone timm/x (weights: Hugging Face's cache, or "
            "https://huggingface.co) ...",
        ),
        ("timm/x", None, False, "loading backbone timm/x ..."),
        ("timm/x", Path("w.st"), True, "loading backbone timm/x (weights: w.st) ..."),
    ],
)
def test_a_backbone__is_named_with_the_place_of_its_weights(name, weights, pretrained, line):
    assert loading_line(name, weights, pretrained=pretrained) == line
