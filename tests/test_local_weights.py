"""Backbones whose weights are a local file: the prompt file knows its name, never its place."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

import vpt
import vpt.api.prompt_files
from tests.fixtures import make_folder
from tests.training import make_config
from vpt.backbones.bundled import WEIGHTS
from vpt.cli import main
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import BackboneError, ConfigError, PromptFileError
from vpt.experiment import build
from vpt.runs import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights in a folder of their own, data, and a prompt file that was trained with them."""
    place = tmp_path_factory.mktemp("private")
    shutil.copy(WEIGHTS, place / "mine.safetensors")
    data = make_folder(place / "data")
    backbone = {"name": "bundled/glyph_vit", "weights": str(place / "mine.safetensors")}
    config = make_config(place / "run", data, backbone=backbone, train__epochs=1)
    train(config)
    return place


def test_the_file__says_their_name_and_hash_and_no_folder_of_this_machine(place):
    path = place / "run" / "prompt.safetensors"
    header = read_prompt_header(path)
    assert header.backbone.weights == "mine.safetensors"
    assert str(place).encode() not in path.read_bytes()
    assert header.config is not None
    assert header.config["backbone"]["weights"] == "mine.safetensors"
    assert header.config["run_dir"] == "run"


def test_without_them__the_way_out_is_said__and_with_them_it_is_the_same_model(place):
    path = place / "run" / "prompt.safetensors"
    with pytest.raises(PromptFileError, match=r"'mine\.safetensors' .* --weights FILE"):
        vpt.load_prompt(path)
    model = vpt.load_prompt(path, weights=place / "mine.safetensors")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), vpt.load_prompt(path, model.backbone)(images))


def code_of(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_predict_evaluate_and_show__take_them(place, capsys, tmp_path):
    path, weights = place / "run" / "prompt.safetensors", place / "mine.safetensors"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    commands = {
        "predict": ["predict", path, tmp_path / "a.png", "--device", "cpu"],
        "evaluate": ["evaluate", path, "--data", place / "data", "--num-workers", "0"],
    }
    for words in commands.values():
        assert code_of(*words) == 2
        assert "name it with --weights FILE" in capsys.readouterr().err
        assert code_of(*words, "--weights", weights) == 0
    capsys.readouterr()
    assert code_of("show", path) == 0
    assert code_of("show", path, "--weights", weights) == 0
    assert "holds the weights of the backbone" in capsys.readouterr().err
    assert code_of("show", path, "--weights", tmp_path / "none.safetensors") == 2


def test_other_weights__are_refused(place, tmp_path):
    state = vpt.create_model("bundled/glyph_vit").backbone.body.state_dict()
    from safetensors.torch import save_file

    save_file({name: tensor * 1.5 for name, tensor in state.items()}, tmp_path / "o.safetensors")
    path = place / "run" / "prompt.safetensors"
    with pytest.raises(PromptFileError, match="belongs to 'bundled/glyph_vit' with weights"):
        vpt.load_prompt(path, weights=tmp_path / "o.safetensors")
    with pytest.raises(BackboneError, match="no such file"):
        vpt.load_prompt(path, weights=tmp_path / "none.safetensors")


def test_a_run_whose_file_could_not_be_written__is_refused_before_it_starts(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr("vpt.engine.prompt_file.HEADER_LIMIT", 700)
    with pytest.raises(ConfigError, match=r"could not be written: its header takes .*'config'"):
        build(make_config(tmp_path / "run", place / "data", backbone="bundled/glyph_vit"))
