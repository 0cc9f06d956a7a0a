"""Detectors as a user meets them: evaluate, rescore, predict, and what TensorBoard shows."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.data.coco_files import CATEGORIES, make_coco
from tests.fixtures import make_folder
from tests.test_cli import fails_in_one_line, run
from vpt import load_detector
from vpt.engine.run_dir import write_json_atomic
from vpt.runs import predict_boxes
from vpt.runs.drawing import draw_boxes

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "val", "test")


def describe(root: Path, **fields: object) -> Path:
    path = root / "boxes.yaml"
    splits = {name: f"annotations/{name}.json" for name in SPLITS}
    values = {"name": "shapes", "format": "coco", "root": str(root), "images": "images"}
    path.write_text(yaml.safe_dump({**values, "splits": splits, **fields}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A data set with boxes, a config, and the run that was trained from them."""
    place = tmp_path_factory.mktemp("detection_cli")
    make_coco(place / "data", splits=SPLITS, images=5)
    config = {
        "task": "detection",
        "run_dir": str(place / "run"),
        "backbone": {"name": "bundled/glyph_vit", "image_size": 64},
        "prompt": {"name": "vpt_deep", "num_tokens": 2},
        "neck": {"scales": [2, 1], "taps": 2},
        "head": {"name": "fcos", "channels": 32, "num_convs": 1},
        "data": {"dataset": str(describe(place / "data")), "batch_size": 2, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 1e-2, "head_lr": 3e-3},
        "train": {"epochs": 2, "device": "cpu"},
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("train", place / "config.yaml") == (0, "")
    return place


@pytest.fixture(scope="module")
def prompt(place) -> Path:
    return place / "run/prompt.safetensors"


def measured(place: Path, file: Path, *options: object) -> dict[str, float]:
    out = place / "metrics.json"
    data = ("--data", place / "data/boxes.yaml", "--output", out)
    assert run("evaluate", file, *data, *options) == (0, "")
    return json.loads(out.read_text())["metrics"]


def expected(place: Path) -> dict[str, float]:
    result = json.loads((place / "run/result.json").read_text())
    classes = result["test_per_class"].items()
    return {**result["test"], **{f"AP/{name}": ap for name, ap in classes if ap is not None}}


def test_evaluate__gives_the_runs_own_test_numbers_and_detections(place, prompt, capsys):
    results = place / "detections.json"
    found = measured(place, prompt, "--num-workers", 0, "--results", results)
    assert found == expected(place)
    assert {f"AP/{name}" for name in CATEGORIES.values()} <= set(found)
    assert f"AP50 {found['AP50']:.4f}\n" in capsys.readouterr().out
    written = json.loads(results.read_text())
    assert written
    assert written == json.loads((place / "run/test_results.json").read_text())


def test_evaluate__of_a_results_file__scores_it_anew(place, capsys):
    assert measured(place, place / "run/test_results.json") == expected(place)
    assert "\nred  " in capsys.readouterr().out


def test_outputs__never_replace_what_is_read(place, prompt, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(prompt.read_bytes())
    image, data = place / "data/images/test/000.png", place / "data/boxes.yaml"
    fails_in_one_line("predict", copy, image, "--output", copy, saying="is read here")
    words = ("evaluate", copy, "--data", data)
    fails_in_one_line(*words, "--results", copy, saying="is read here")
    fails_in_one_line(*words, "--output", data, saying="is read here")
    assert copy.read_bytes() == prompt.read_bytes()


def test_evaluate__of_results__needs_no_images(place, tmp_path):
    make_coco(tmp_path / "data", splits=SPLITS, images=5)
    shutil.rmtree(tmp_path / "data/images")
    out = tmp_path / "m.json"
    words = ("--data", describe(tmp_path / "data"), "--output", out)
    assert run("evaluate", place / "run/test_results.json", *words) == (0, "")
    assert json.loads(out.read_text())["metrics"] == expected(place)


def test_predict__any_file_name__has_its_row(place, prompt, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.png")
    odd.write_bytes((place / "data/images/test/000.png").read_bytes())
    out = tmp_path / "rows.csv"
    assert run("predict", prompt, tmp_path, "--output", out, "--min-score", 0.01) == (0, "")
    assert b"\xff.png" in out.read_bytes()


def test_evaluate__of_perfect_results__gives_1(place, tmp_path):
    truth = json.loads((place / "data/annotations/val.json").read_text())
    records = [{**box, "score": 0.9} for box in truth["annotations"]]
    write_json_atomic(tmp_path / "perfect.json", records)
    found = measured(place, tmp_path / "perfect.json", "--split", "val")
    assert found["AP"] == found["AP/green"] == pytest.approx(1.0)


def test_evaluate__output_holds_curves_and_confusions__by_either_evaluation(place):
    results, both = place / "run/test_results.json", []
    for each in ("pycocotools", "faster"):
        out = place / f"{each}.json"
        words = ("--data", place / "data/boxes.yaml", "--output", out, "--coco-eval", each)
        assert run("evaluate", results, *words) == (0, "")
        both.append(json.loads(out.read_text()))
    assert both[0]["metrics"] == pytest.approx(both[1]["metrics"], abs=1e-6)
    assert both[0]["confusion_matrix"] == both[1]["confusion_matrix"]
    curves = both[0]["precision_at_recall"]
    assert curves["iou"] == 0.5
    assert set(curves["precision"]) == set(both[0]["AP_per_class"]) == set(CATEGORIES.values())
    assert {len(curve) for curve in curves["precision"].values()} == {len(curves["recall"])}
    confusions = both[0]["confusion_matrix"]
    assert confusions["classes"][-1] == "nothing"
    boxes = len(json.loads((place / "data/annotations/test.json").read_text())["annotations"])
    assert sum(map(sum, confusions["counts"][:-1])) == boxes


def test_evaluate__leaves_bad_images_out__if_asked_to(prompt, tmp_path, capsys):
    make_coco(tmp_path / "data", splits=SPLITS, images=5)
    broken = tmp_path / "data/images/test/001.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / "data/images/test/002.png").unlink()
    words = ("evaluate", prompt, "--data", describe(tmp_path / "data"), "--num-workers", 0)
    fails_in_one_line(*words, saying="002.png")
    capsys.readouterr()
    found = tmp_path / "found.json"
    assert run(*words, "--on-bad-image", "skip", "--results", found) == (0, "")
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(told) == 2
    out = tmp_path / "new/metrics.json"
    again = ("evaluate", found, "--data", words[3], "--on-bad-image", "skip", "--output", out)
    assert run(*again) == (0, "")
    assert len(json.loads(out.read_text())["left_out"]) == 2
    assert "002.png" in told[0]
    assert f"{broken}: " in told[1]
    ids = {record["image_id"] for record in json.loads(found.read_text())}
    assert ids <= {100, 109, 112}


def test_predict__writes_rows_records_and_pictures(place, prompt, tmp_path, capsys):
    images = place / "data/images/test"
    originals = {path: path.read_bytes() for path in images.iterdir()}
    coco, pictures = tmp_path / "found.json", tmp_path / "new/pictures"
    options = ("--coco", coco, "--pictures", pictures, "--min-score", 0.02, "--batch-size", 3)
    assert run("predict", prompt, images, *options) == (0, "")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run("evaluate", coco, "--data", place / "data/boxes.yaml") == (0, "")  # by file names
    assert list(rows[0]) == ["image", "class", "score", "x1", "y1", "x2", "y2", "error"]
    assert {row["image"] for row in rows} == {str(path) for path in originals}
    boxes = [row for row in rows if row["class"]]
    assert boxes
    for row in boxes:
        with Image.open(row["image"]) as image:
            width, height = image.size
        assert 0 <= float(row["x1"]) < float(row["x2"]) <= width
        assert 0 <= float(row["y1"]) < float(row["y2"]) <= height
        assert 0.02 <= float(row["score"]) <= 1
    records = json.loads(coco.read_text())
    assert len(records) == len(boxes)
    assert [record["file_name"] for record in records] == [row["image"] for row in boxes]
    assert all(CATEGORIES[each["category_id"]] == each["category"] for each in records)
    assert records[0]["bbox"][0] == pytest.approx(float(boxes[0]["x1"]), abs=0.011)
    assert {path.name for path in pictures.iterdir()} == {f"{path.stem}.jpg" for path in originals}
    assert all(path.read_bytes() == content for path, content in originals.items())


def test_predict__as_jsonl__is_one_object_per_image(prompt, place, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    out, image = tmp_path / "found.jsonl", place / "data/images/test/000.png"
    words = ("--format", "jsonl", "--output", out, "--min-score", 0)
    broken = tmp_path / "broken.png"
    fails_in_one_line("predict", prompt, broken, image, *words, saying="1 of 2 images")
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["image"] == str(broken)
    assert "broken.png" in first["error"]
    assert second["image"] == str(image)
    assert set(second["boxes"][0]) == {"class", "score", "box"}


def test_predict__where_nothing_is_found__has_a_row_with_the_name_alone(prompt, place, capsys):
    image = place / "data/images/test/000.png"
    assert run("predict", prompt, image, "--min-score", 1) == (0, "")
    assert capsys.readouterr().out.splitlines()[1:] == [f"{image},,,,,,,"]


def test_pictures__never_replace_a_file(prompt, place, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30), "white").save(tmp_path / folder / "x.jpg")
    both = (tmp_path / "a/x.jpg", tmp_path / "b/x.jpg")
    before = [path.read_bytes() for path in both]
    words = ("predict", prompt, *both, "--output", tmp_path / "rows.csv")
    fails_in_one_line(*words, "--pictures", tmp_path / "a", saying="is not replaced")
    assert not (tmp_path / "rows.csv").exists()
    fails_in_one_line(*words, "--coco", both[0], saying="is read here")
    fails_in_one_line(*words, "--coco", tmp_path / "rows.csv", saying="cannot hold both")
    assert run(*words, "--pictures", tmp_path / "c") == (0, "")
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"x.jpg", "x_2.jpg"}
    assert [path.read_bytes() for path in both] == before


def test_predict_boxes__finds_the_same_whatever_the_batch(prompt, place):
    model, cpu = load_detector(prompt), torch.device("cpu")
    paths = sorted((place / "data/images/test").iterdir())
    together = predict_boxes(model, paths, device=cpu, batch_size=5)
    alone = predict_boxes(model, paths, device=cpu, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert one.image == other.image
        torch.testing.assert_close(one.detections.boxes[:3], other.detections.boxes[:3])


@pytest.mark.parametrize("background", ["black", "white", "red", (230, 75, 60)])
def test_draw_boxes__stands_out_from_any_background(background):
    image = Image.new("RGB", (200, 120), background)
    picture = draw_boxes(image, [(50, 40, 150, 110)], [0], ["thing 0.87"])
    changed = np.asarray(picture).astype(int) - np.asarray(image).astype(int)
    assert np.abs(changed[75, 48:53]).max() > 100  # the left edge
    assert np.abs(changed[75, 60:140]).max() == 0  # nothing inside
    assert np.abs(changed[25:39, 50:100]).max() > 100  # the caption


def test_training__shows_truth_beside_predictions(place):
    (events,) = (place / "run/tensorboard").glob("events.*")
    assert b"val/boxes" in events.read_bytes()
    assert b"test/precision_recall" in events.read_bytes()


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (("evaluate", "{prompt}", "--data", "{data}", "--names", "data"), "--names has no"),
        (("evaluate", "{results}", "--data", "{data}", "--weights", "x"), "--weights has no"),
        (("evaluate", "{results}", "--data", "{data}", "--batch-size", "3"), "--batch-size has no"),
        (("evaluate", "{results}", "--data", "{data}", "--split", "val"), "test_results.json: "),
        (("evaluate", "{config}", "--data", "{data}"), "config.yaml"),
        (("evaluate", "nowhere.json", "--data", "{data}"), "nowhere.json"),
        (("evaluate", "{prompt}", "--data", "{place}/data/images"), "no data set that is recognis"),
        (("evaluate", "{prompt}", "--data", "{photos}"), "of task classification, e.g. configs/f"),
        (("train", "{finetune}", "data.dataset={place}/data"), "configs/vpt_deep_custom_coco.yaml"),
        (("evaluate", "{place}", "--data", "{data}"), "is a folder without prompt.safetensors"),
        (("data", "check", "{place}/data/annotations/val.json"), "name it under 'splits'"),
        (("data", "check", "{data}", "--output", "{config}/out"), "cannot be made"),
        (("evaluate", "{prompt}", "--data", "{data}", "--output", "{config}/a"), "cannot be made"),
        (("evaluate", "{prompt}", "--data", "{data}", "--results", "{place}"), "is a folder"),
        (("evaluate", "{prompt}", "--data", "{other}"), "only in the file ['blue'"),
        (("predict", "{prompt}", "{image}", "--top-k", "3"), "--top-k has no"),
        (("predict", "{prompt}", "{image}", "--classes", "a"), "--classes has no"),
        (("predict", "{prompt}", "{image}", "--min-score", "2"), "min-score"),
        (("predict", "{prompt}", "{image}", "--draw", "all"), "no --pictures are drawn"),
        (("predict", "{prompt}", "{image}", "--captions", "all"), "no --pictures are drawn"),
    ],
)  # fmt: skip
def test_a_mistake__is_one_line(place, prompt, tmp_path, words, saying):
    make_coco(tmp_path / "other", splits=SPLITS, categories={1: "cat", 2: "dog"})
    known = {
        "prompt": prompt,
        "results": place / "run/test_results.json",
        "data": place / "data/boxes.yaml",
        "config": place / "config.yaml",
        "place": place,
        "other": describe(tmp_path / "other"),
        "image": place / "data/images/test/000.png",
        "photos": make_folder(tmp_path / "photos"),
        "finetune": ROOT / "configs/finetune.yaml",
    }
    if "val" in words:  # an image of another split
        known["results"] = tmp_path / "test_results.json"
        write_json_atomic(known["results"], [{"image_id": 1, "category_id": 3}])
    fails_in_one_line(*(word.format(**known) for word in words), saying=saying)
