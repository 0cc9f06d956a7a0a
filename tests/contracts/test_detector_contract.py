"""Detectors by name, and their prompt files, over backbones and both heads."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.kinds import make
from vpt import create_detector, load_detector, load_prompt, save_prompt
from vpt.api import create_model
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, PromptFileError
from vpt.structures import Letterbox

NAMES, IDS = ["cat", "dog"], [3, 18]
SMALL = {"fcos": {"channels": 32, "num_convs": 1}, "retinanet": {"channels": 32, "num_convs": 1}}


def build(kind="test_vit", head="fcos", prompt="vpt_deep", **options):
    torch.manual_seed(0)
    given = {"class_names": NAMES, "category_ids": IDS, "neck": {"scales": [2, 1], "taps": 2}}
    return create_detector(
        make(kind), prompt, head={"name": head, **SMALL[head]}, **given | options
    )


def images(model):
    return torch.randn(2, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["test_vit", "siglip", "dinov3", "clip_tok", "glyph_vit"])
@pytest.mark.parametrize("head", SMALL)
@pytest.mark.parametrize("tuning", ["frozen", "last:1"])
def test_a_detector__saved_and_loaded__finds_the_same(kind, head, tuning, tmp_path):
    model = build(kind, head, tuning=tuning).eval()
    path = tmp_path / "detector.safetensors"
    save_prompt(model, path)
    header = read_prompt_header(path)
    assert (header.task, header.category_ids, header.requires) == ("detection", IDS, ["detection"])
    loaded = load_detector(path, make(kind))
    size = model.preprocess.size
    boxes = [Letterbox.fit((20, 30), min(size))] * 2
    for one, other in zip(
        model.predict(images(model), boxes), loaded.predict(images(model), boxes), strict=True
    ):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
    assert loaded.class_names == NAMES
    assert not loaded.training


def test_files_of_detectors_and_of_classifiers__are_not_taken_for_each_other(tmp_path):
    save_prompt(build(), tmp_path / "detector.safetensors")
    save_prompt(create_model(make("test_vit"), num_classes=2), tmp_path / "classifier.safetensors")
    with pytest.raises(PromptFileError, match="use load_detector"):
        load_prompt(tmp_path / "detector.safetensors", make("test_vit"))
    with pytest.raises(PromptFileError, match="use load_prompt"):
        load_detector(tmp_path / "classifier.safetensors", make("test_vit"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_names": None, "category_ids": None}, "num_classes or class_names"),
        ({"category_ids": [1]}, "1 category_ids for a head of 2 classes"),
        ({"num_classes": 3}, "for a head of 3 classes"),
        ({"head": {"name": "fcos", "chanels": 64}}, "channels"),
        ({"head": "focs"}, "fcos"),
        ({"neck": {"scales": [3]}}, "0.25"),
        ({"neck": {"tap": 2}}, "taps"),
        ({"neck": {"scales": [0.25]}}, "no multiple of the coarsest stride"),
    ],
)
def test_a_mistake__is_one_line(options, says):
    given = {"head": {"name": "fcos", **SMALL["fcos"]}, "class_names": NAMES, **options}
    with pytest.raises(ConfigError, match=says) as error:
        create_detector(make("test_vit"), **given)
    assert "\n" not in str(error.value)
