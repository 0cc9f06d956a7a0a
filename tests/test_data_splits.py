"""Folders as people have them, from the folder to the metrics of a prompt file."""

import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.fixtures import make_folder, make_image
from tests.training import make_config
from vpt.config import RunConfig
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, DataError, PromptFileError
from vpt.experiment.classification import load_splits
from vpt.runs import measure_prompt, probe, train


def flat(folder: Path, images: int = 6) -> Path:
    for label, name in enumerate(("ant", "bee", "cow")):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            make_image(100 * label + number).save(folder / name / f"{number}.png")
    return folder


def config(folder: Path, data: Path, **changes) -> RunConfig:
    return make_config(folder / "run", data, train__epochs=1, **changes)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> dict:
    """A backbone whose weights a prompt file finds again."""
    path = tmp_path_factory.mktemp("weights") / "body.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return {"name": "timm/test_vit", "weights": str(path), "image_size": 32}


@pytest.fixture
def measured(backbone):
    """The metrics of a prompt file with that backbone on the test images of a folder."""

    def measure(prompt: Path, data: Path, log=lambda line: None) -> dict[str, float]:
        weights = Path(backbone["weights"])
        given = {"device": "cpu", "num_workers": 0, "weights": weights, "log": log}
        return measure_prompt(prompt, data, **given)[0]

    return measure


def test_flat_folder__trains_and_is_evaluated_on_the_images_it_held_out(
    tmp_path, backbone, measured
):
    data, lines = flat(tmp_path / "photos"), list[str]()
    fractions = {"data__val_fraction": 0.34, "data__test_fraction": 0.17}
    settings = config(tmp_path, data, backbone=backbone, **fractions)
    result = train(settings, log=lines.append)
    assert f"'{data}' is read as folders of images by class, without splits" in lines
    assert any(line.startswith("val and test cut out of train by content") for line in lines)
    prompt = settings.run_dir / "prompt.safetensors"
    record = read_prompt_header(prompt).cut
    assert (record.val, record.test, record.seed) == (0.34, 0.17, 0)
    split = json.loads((settings.run_dir / "split.json").read_text())
    assert {name: len(split[name]) for name in ("train", "val", "test")} == record.images
    said: list[str] = []
    metrics = measured(prompt, data, log=said.append)
    assert metrics == pytest.approx(result.test)
    assert not any("warning" in line for line in said)
    # other data are cut alike, and it is said that they are others
    make_image(7).save(data / "ant" / "new.png")
    for number in range(8):
        make_image(200 + number).save(data / "bee" / f"new_{number}.png")
    measured(prompt, data, log=said.append)
    assert any(line.startswith("warning: 'test' has other images than in the run") for line in said)
    splits = make_folder(tmp_path / "splits", classes=3)
    for label, name in enumerate(("ant", "bee", "cow")):
        for part in splits.iterdir():
            (part / f"class_{label}").rename(part / name)
    measured(prompt, splits, log=said.append)
    assert any("have a 'test' split of their own" in line for line in said)


def test_cut_does_not_depend_on_the_runs_seed(tmp_path):
    data = flat(tmp_path / "photos")
    first, other = (load_splits(config(tmp_path, data, seed=seed))[1] for seed in (0, 1))
    assert first == other
    assert first.cut == other.cut


def test_seed_of_the_cut_without_a_cut__is_refused(tmp_path):
    data = make_folder(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"data.split_seed 1 has no effect"):
        load_splits(config(tmp_path, data, data__split_seed=1))


def test_fractions_that_leave_nothing__are_refused_by_the_config(tmp_path):
    with pytest.raises(ConfigError, match="leave no image for training"):
        config(tmp_path, tmp_path, data__val_fraction=0.5, data__test_fraction=0.5)


@pytest.mark.slow
def test_probe__records_the_cut_as_well(tmp_path):
    data = flat(tmp_path / "photos")
    settings = config(tmp_path, data, prompt={"name": "none"})
    probe(settings)
    assert read_prompt_header(settings.run_dir / "prompt.safetensors").cut.test == 0.2


# Classes


@pytest.mark.parametrize("start", [train, probe])
def test_one_class__is_refused_before_there_is_a_run_directory(tmp_path, start):
    data = make_folder(tmp_path / "photos", classes=1)
    settings = config(tmp_path, data, prompt={"name": "none"})
    with pytest.raises(DataError, match="'photos' has one class, 'class_0'"):
        start(settings)
    assert not settings.run_dir.exists()


def test_half_of_two_classes__is_refused(tmp_path):
    data = make_folder(tmp_path / "photos", classes=2)
    with pytest.raises(DataError, match=r"data.classes base of 'photos' are one, 'class_0'"):
        train(config(tmp_path, data, data__classes="base"))


def test_class_name_that_is_no_utf8__is_refused_before_there_is_a_run_directory(tmp_path):
    data = make_folder(tmp_path / "photos")
    for split in ("train", "val", "test"):
        folder = data / split
        (folder / "class_1").rename(folder / os.fsdecode(b"caf\xe9"))
    settings = config(tmp_path, data)
    with pytest.raises(DataError, match=r"photos/train/caf\\xe9' has a name that is not UTF-8"):
        train(settings)
    assert not settings.run_dir.exists()


def test_classes_missing_from_val_and_test__are_left_out_of_the_metrics(
    tmp_path, backbone, measured
):
    data = make_folder(tmp_path / "photos", classes=3)
    shutil.rmtree(data / "val" / "class_0")
    shutil.rmtree(data / "test" / "class_1")
    (data / "test" / "class_1").mkdir()
    settings, lines = config(tmp_path, data, backbone=backbone), list[str]()
    result = train(settings, log=lines.append)
    assert "'val' has no image of 1 of 3 classes (class_0); its metrics leave them out" in lines
    assert "'test' has no image of 1 of 3 classes (class_1); its metrics leave them out" in lines
    assert result.test_per_class["class_1"] is None
    shares = [value for value in result.test_per_class.values() if value is not None]
    assert result.test["mean_class_accuracy"] == pytest.approx(sum(shares) / 2)
    assert "NaN" not in (settings.run_dir / "result.json").read_text()
    metrics = measured(settings.run_dir / "prompt.safetensors", data)
    assert metrics == pytest.approx(result.test)
    # data of some of the classes alone: the file's labels, whatever the numbers of theirs
    only = tmp_path / "only"
    shutil.copytree(data / "test" / "class_2", only / "test" / "class_2")
    said: list[str] = []
    part = measured(settings.run_dir / "prompt.safetensors", only, log=said.append)
    assert part["top1"] == result.test_per_class["class_2"]
    assert any(
        line.startswith("the classes are the prompt file's: only in the file") for line in said
    )
    (only / "test" / "class_2").rename(only / "test" / "Class_2")
    with pytest.raises(PromptFileError, match=r"'Class_2', did you mean 'class_2'\?"):
        measured(settings.run_dir / "prompt.safetensors", only)


def test_class_that_train_lacks__is_named_with_the_near_one(tmp_path):
    data = make_folder(tmp_path / "photos")
    (data / "val" / "new").mkdir()
    make_image().save(data / "val" / "new" / "a.png")
    with pytest.raises(DataError, match=r"folder 'new' .*train'; give it images there too, or"):
        load_splits(config(tmp_path, data))
    shutil.rmtree(data / "val" / "new")
    (data / "val" / "class_1").rename(data / "val" / "Class_1")
    with pytest.raises(DataError, match=r"folder 'Class_1' that is no class of .*'class_1'\?"):
        load_splits(config(tmp_path, data))


def test_evaluate__of_data_without_test_images__names_its_own_option(tmp_path):
    data = make_folder(tmp_path / "photos", splits=("train", "val"))
    settings = config(tmp_path, data)
    train(settings)
    with pytest.raises(DataError, match=r"has: train, val\); choose another with --split, or"):
        measure_prompt(settings.run_dir / "prompt.safetensors", data, device="cpu", num_workers=0)
