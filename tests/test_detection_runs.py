"""Detection runs: the same trainer, run directory, exact resume and prompt file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.data.coco_files import make_coco
from tests.test_runs import assert_same_run, attempts_until_done, signal_in_training
from vpt import load_detector
from vpt.config import DetectionRunConfig, load_config, validate
from vpt.data import load_descriptor, read_detection, to_coco_dict
from vpt.engine.interrupt import Interrupted
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, DataError
from vpt.evaluation import score_results
from vpt.experiment import build
from vpt.runs import make_plan, train
from vpt.runs.inference import measure

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
GLYPH = {"name": "bundled/glyph_vit"}
CONFIGS = ["vpt_deep_coco", "det_head_only_coco", "vpt_deep_custom_coco"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A descriptor of a few generated pictures with boxes."""
    root = tmp_path_factory.mktemp("boxes")
    make_coco(root, splits=("train", "val", "test"))
    path = root / "boxes.yaml"
    splits = {name: f"annotations/{name}.json" for name in ("train", "val", "test")}
    fields = {"name": "shapes", "format": "coco", "root": str(root), "images": "images"}
    path.write_text(yaml.safe_dump({**fields, "splits": splits}))
    return path


def make_config(run_dir, dataset, **changes) -> DetectionRunConfig:
    values = {
        "task": "detection",
        "run_dir": str(run_dir),
        "backbone": {"name": "bundled/glyph_vit", "image_size": 64},
        "prompt": {"name": "vpt_deep", "num_tokens": 2, "dropout": 0.1},
        "neck": {"scales": [2, 1], "taps": 2},
        "head": {"name": "fcos", "channels": 32, "num_convs": 1},
        "data": {"dataset": str(dataset), "batch_size": 2, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 1e-3, "accumulation": 2},
        "train": {"epochs": 2, "device": "cpu", "log_every": 1},
    } | changes
    return validate(DetectionRunConfig, values, "test")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(path, data))
    return path


def test_stopped_after_every_step__ends_bit_identical(data, uninterrupted, tmp_path, monkeypatch):
    signal_in_training(monkeypatch, lambda step: True)
    attempts = attempts_until_done(make_config(tmp_path / "run", data))
    monkeypatch.undo()
    assert attempts == json.loads((uninterrupted / "result.json").read_text())["steps"] == 4
    assert_same_run(tmp_path / "run", uninterrupted)
    one, other = (path / "test_results.json" for path in (tmp_path / "run", uninterrupted))
    assert one.read_bytes() == other.read_bytes()


def test_a_run__leaves_metrics_detections_and_a_file_that_finds_the_same(data, uninterrupted):
    result = json.loads((uninterrupted / "result.json").read_text())
    splits = read_detection(load_descriptor(data))
    test = splits.require("test")
    assert set(result["test_per_class"]) == set(splits.class_names)
    assert set(result["parameters"]) == {"prompt", "neck", "head", "backbone", "trained"}
    assert result["parameters"]["prompt"] == 6 * 2 * 192
    scored = score_results(uninterrupted / "test_results.json", to_coco_dict(test))
    assert scored.compute() == pytest.approx(result["test"])
    text = (uninterrupted / "val_results.json").read_text()
    assert text == json.dumps(json.loads(text), separators=(",", ":")) + "\n"
    file = uninterrupted / "prompt.safetensors"
    header = read_prompt_header(file)
    assert (header.task, tuple(header.category_ids or ())) == ("detection", splits.category_ids)
    experiment = build(make_config(uninterrupted, data))
    metrics, _ = measure(
        load_detector(file), test, experiment.eval_transform, device=CPU, num_workers=0
    )
    assert metrics == pytest.approx(result["test"], abs=1e-6)


@pytest.mark.parametrize(
    ("prompt", "tuning"),
    [
        ("none", "frozen"),
        ({"name": "vpt_shallow", "num_tokens": 2}, "frozen"),
        ("none", "last:1"),
        ("none", "full"),
    ],
)
@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_every_way_of_tuning__trains_and_saves(data, tmp_path, prompt, tuning, head):
    config = make_config(
        tmp_path / "run",
        data,
        prompt=prompt,
        tuning=tuning,
        head={"name": head, "channels": 32, "num_convs": 1},
        train={"epochs": 1, "device": "cpu", "max_steps": 1},
    )
    result = train(config)
    assert result.test is not None
    assert result.parameters["trained"] >= result.parameters["neck"] + result.parameters["head"]
    loaded = load_detector(tmp_path / "run/prompt.safetensors")
    assert loaded.tuning == tuning


def test_a_plan__is_made_from_a_few_steps(data, tmp_path):
    plan = make_plan(build(make_config(tmp_path / "run", data)))
    assert plan.images == {"train": 6, "val": 6, "test": 6}
    assert plan.parameters["neck"] > 0


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"backbone": {**GLYPH, "image_size": [64, 32]}}, ConfigError, "square"),
        ({"neck": {"scales": [0.25]}, "backbone": {**GLYPH, "image_size": 72}},
         ConfigError, "coarsest stride"),
        ({"neck": {"tapz": 3}}, ConfigError, "taps"),
        ({"train": {"epochs": 1, "init_from": "nowhere.safetensors"}}, Exception, "nowhere"),
        ({"data": {"dataset": "datasets/digits.yaml", "batch_size": 2}}, DataError, "coco"),
    ],
)  # fmt: skip
def test_what_does_not_fit__is_refused_before_an_image_is_read(
    data, tmp_path, monkeypatch, changes, error, says
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(error, match=says):
        build(make_config(tmp_path / "run", data, **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "detecting"}, "detection"),
        ({"head": {"name": "fcoss"}}, "fcos"),
        ({"train": {"epochs": 1, "select": "top1"}}, "AP"),
        ({"loss": {"label_smoothing": 0.1}}, "loss"),
    ],
)
def test_a_mistake_in_the_config__is_named(data, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        make_config(tmp_path / "run", data, **changes)


def test_init_from__starts_with_all_tensors_of_the_same_kind_of_detector(
    data, uninterrupted, tmp_path
):
    file = uninterrupted / "prompt.safetensors"
    given = {"epochs": 1, "device": "cpu", "init_from": str(file)}
    model = build(make_config(tmp_path / "run", data, train=given)).model
    trained = load_detector(file)
    for (name, one), (_, other) in zip(
        model.trained_tensors(), trained.trained_tensors(), strict=True
    ):
        assert torch.equal(one, other), name
    other_neck = {"scales": [1], "taps": 2}
    with pytest.raises(Exception, match="another neck"):
        build(make_config(tmp_path / "run", data, train=given, neck=other_neck))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shipped_configs__are_valid_and_tell_their_command(name):
    path = ROOT / "configs" / f"{name}.yaml"
    assert isinstance(load_config(path), DetectionRunConfig)
    assert f"configs/{name}.yaml" in path.read_text().split("\ntask:")[0]


def test_validation_without_a_box__is_refused_before_training(tmp_path):
    root = make_coco(tmp_path, change={"val": lambda content: content.update(annotations=[])})
    path = tmp_path / "boxes.yaml"
    fields = {"name": "s", "format": "coco", "root": str(root), "images": "images"}
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(DataError, match=r"no box in split 'val'.*AP cannot choose"):
        train(make_config(tmp_path / "run", path))
    schedule = {"epochs": 1, "device": "cpu", "select": "last"}
    assert train(make_config(tmp_path / "run", path, train=schedule)).val == {}


def test_a_run__goes_on_with_its_own_boxes_only(tmp_path, monkeypatch):
    root = make_coco(tmp_path / "data")
    path = tmp_path / "boxes.yaml"
    fields = {"name": "s", "format": "coco", "root": str(root), "images": "images"}
    path.write_text(yaml.safe_dump(fields))
    signal_in_training(monkeypatch, lambda step: step == 1)
    with pytest.raises(Interrupted):
        train(make_config(tmp_path / "run", path))
    monkeypatch.undo()
    file = root / "annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="began with other boxes or categories in 'train'"):
        train(make_config(tmp_path / "run", path), mode="resume")


def test_what_is_left_out_or_mended__is_told(tmp_path):
    def spoil(content):
        content["annotations"][0]["bbox"] = [0, 0, -5, 5]
        for annotation in content["annotations"]:
            del annotation["area"]

    root = make_coco(tmp_path, splits=("train", "val"), change={"train": spoil})
    path = tmp_path / "boxes.yaml"
    fields = {"name": "s", "format": "coco", "root": str(root), "images": "images"}
    path.write_text(yaml.safe_dump(fields))
    data = {"dataset": str(path), "batch_size": 2, "num_workers": 0}
    with pytest.raises(DataError, match="negative"):
        train(make_config(tmp_path / "run", path, data=data))
    lines: list[str] = []
    config = make_config(tmp_path / "run", path, data={**data, "on_bad_image": "skip"})
    train(config, log=lines.append)
    assert any(line.startswith("left out: ") and "annotation 1" in line for line in lines)
    assert any("repaired or odd" in line and "area_missing" in line for line in lines)
