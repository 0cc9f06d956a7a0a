"""What is said, and what is not, when weights cannot be loaded."""

from __future__ import annotations

import logging

import pytest

import vpt.backbones.downloads as downloads
import vpt.backbones.open_clip_models as clip_models
import vpt.backbones.timm_models as timm_models
from vpt.backbones import create_backbone, list_backbones
from vpt.backbones.downloads import impatient, quiet, reason_of
from vpt.errors import BackboneError

LONG = "Max retries exceeded: failed to establish a new connection to huggingface.co " * 9


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("open_clip/ViT-B-32:openai", clip_models.open_clip, "create_model"),
        ("timm/test_vit.r160_in1k", timm_models.timm, "create_model"),
    ],
)
def test_without_a_connection__one_short_line_says_what_to_do(monkeypatch, name, module, function):
    original = getattr(module, function)

    def failing(*words, pretrained=False, **options):
        if pretrained:
            logging.getLogger("huggingface_hub").warning("Retrying in 1s")
            raise RuntimeError(LONG)
        return original(*words, pretrained=pretrained, **options)

    monkeypatch.setattr(module, function, failing)
    name = name.replace("ViT-B-32", "ViT-B-32-quickgelu")
    with pytest.raises(BackboneError) as error:
        create_backbone(name)
    assert "https://huggingface.co cannot be reached; give a local file" in str(error.value)
    assert len(str(error.value)) < 300


def test_another_reason__is_cut_between_words():
    text = reason_of(RuntimeError("tensor mismatch " * 60), source=None)
    assert text.endswith("mismatch ...") or text.endswith("tensor ...")
    assert len(text) <= 304


def test_quiet__silences_logging_and_puts_it_back(capfd):
    with quiet():
        logging.warning("to the root logger")
    assert not capfd.readouterr().err
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    "pattern", ["open_clip/ViT-B-16-quickgelu:openai", "ViT-B-16-quickgelu:open*", "bundled/*clip"]
)
def test_names_are_listed__by_the_whole_name_or_its_part(pattern):
    assert len(list_backbones(pattern)) == 1


class Hub:
    """Stands for the hub's client: answers, or does not, and counts how often it is asked."""

    def __init__(self, *, answers: bool):
        self.answers, self.asked = answers, []

    def head(self, url: str, timeout: float) -> None:
        self.asked.append((url, timeout))
        if not self.answers:
            raise OSError("no route")


@pytest.fixture
def online(monkeypatch):
    """As if the environment had not turned the hub off, which all tests do."""
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(("answers", "asked"), [(False, 2), (True, 1)])
def test_a_hub_that_does_not_answer__is_asked_twice_for_seconds_and_left_alone(
    monkeypatch, online, answers, asked
):
    hub = Hub(answers=answers)
    monkeypatch.setattr(downloads, "get_session", lambda: hub)
    with impatient():
        assert downloads.constants.HF_HUB_OFFLINE is not answers
    assert downloads.constants.HF_HUB_OFFLINE is False
    assert hub.asked == [("https://huggingface.co", 5.0)] * asked


def test_where_nothing_is_downloaded__the_hub_is_not_asked(monkeypatch, online):
    monkeypatch.setattr(downloads, "get_session", lambda: pytest.fail("it was asked"))
    create_backbone("bundled/glyph_vit")
    create_backbone("timm/test_vit", pretrained=False)
    create_backbone("bundled/glyph_clip")


def test_a_hub_that_is_off__is_not_asked_either(monkeypatch):
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(downloads, "get_session", lambda: pytest.fail("it was asked"))
    with impatient():
        pass
    assert downloads.constants.HF_HUB_OFFLINE is True
