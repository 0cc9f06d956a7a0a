"""The commands as a user types them: exit codes, one-line errors, files in and out."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import vpt
from tests.fixtures import make_folder
from vpt.cli import main
from vpt.cli.predicting import find_images
from vpt.errors import DataError

ROOT = Path(__file__).parents[1]
NEW = "run_dir={place}/x"
CLASSES = ["class_0", "class_1", "class_2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of images, a weight file, a config, and the run that was trained from them."""
    place = tmp_path_factory.mktemp("cli")
    make_folder(place / "photos", classes=3, images=6)
    torch.manual_seed(0)
    body = timm.create_model("test_vit", num_classes=0)
    save_file(body.state_dict(), place / "body.safetensors")
    (place / "config.yaml").write_text(
        f"""
run_dir: {place}/run
backbone: {{name: timm/test_vit, weights: {place}/body.safetensors, image_size: 32}}
prompt: {{name: vpt_deep, num_tokens: 2}}
data: {{dataset: {place}/photos, batch_size: 6, num_workers: 0}}
optim: {{lr: 1e-2}}
train: {{epochs: 1, device: cpu}}
"""
    )
    assert run("train", place / "config.yaml")[0] == 0
    return place


def run(*words: object) -> tuple[int, str]:
    """The exit code of a command and its stderr."""
    stderr, before = io.StringIO(), sys.stderr
    sys.stderr = stderr
    try:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
    finally:
        sys.stderr = before
    lines = stderr.getvalue().splitlines(keepends=True)
    # On a busy machine anything may take longer than a moment.
    said = [line for line in lines if not line.startswith("loading ")]
    return int(stop.value.code or 0), "".join(said)


def of_weights(place: Path) -> tuple[object, ...]:
    """The option that names the backbone's weights, of which the prompt file knows the name."""
    return ("--weights", place / "body.safetensors")


def fails_in_one_line(*words: object, saying: str) -> None:
    code, stderr = run(*words)
    assert code == 2
    assert stderr.startswith("vpt: ")
    assert stderr.count("\n") == 1
    assert saying in stderr


def test_train__leaves_a_whole_run_directory(place):
    names = {path.name for path in (place / "run").iterdir()}
    assert names >= {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "tensorboard",
        "prompt.safetensors", "prompt_last.safetensors", "result.json", "split.json",
    }  # fmt: skip
    result = json.loads((place / "run" / "result.json").read_text())
    assert result["parameters"]["prompt"] == 6 * 2 * 64
    assert 0 <= result["test"]["top1"] <= 1
    assert result["seconds"] > 0
    assert result["peak_memory_bytes"] > 0


def test_train__in_a_used_directory__is_refused_but_not_with_overwrite(place):
    config = place / "config.yaml"
    fails_in_one_line("train", config, saying="use --resume or --overwrite")
    other = f"run_dir={place}/other"
    assert run("train", config, other)[0] == 0
    assert run("train", config, other, "--overwrite")[0] == 0
    assert run("train", config, other, "--resume")[0] == 0


def test_dry_run__prints_the_plan_and_writes_nothing(place, capsys):
    assert run("train", place / "config.yaml", f"run_dir={place}/dry", "--dry-run")[0] == 0
    plan = capsys.readouterr().out
    assert "prompt 768, head 195" in plan
    assert "train 18, val 18, test 18" in plan
    assert not (place / "dry").exists()


def test_train__ends_with_answers__and_the_next_commands(place, capsys):
    assert run("train", place / "config.yaml", "--resume")[0] == 0  # finished: told once more
    *table, nexts, evaluate, predict, curves = capsys.readouterr().out.splitlines()
    assert "epoch 1 of 1 is kept, by validation" in table
    assert [line.split()[0] for line in table[-5:]] == ["class", *CLASSES, "most"]
    assert nexts == "next:"
    weights = f"--weights {place}/body.safetensors"
    prompt = f"{place}/run/prompt.safetensors"
    assert evaluate == f"  vpt evaluate {prompt} --data {place}/photos {weights}"
    assert predict == f"  vpt predict {prompt} {weights} IMAGE_OR_FOLDER"
    assert curves == f"  tensorboard --logdir {place}/run/tensorboard"


def test_result__counts_the_best_epoch_both_ways(place):
    result = json.loads((place / "run" / "result.json").read_text())
    assert (result["best_epoch"], result["best_epoch_number"]) == (0, 1)
    assert result["test_counts"] == dict.fromkeys(CLASSES, 6)


def test_predict__top_k__is_for_csv_too(place, capsys):
    prompt, one = place / "run/prompt.safetensors", place / "photos/test/class_0/0.png"
    assert run("predict", prompt, one, "--top-k", 2, *of_weights(place))[0] == 0
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["image", "class", "probability", "class_2", "probability_2", "error"]
    assert row[1] != row[3]
    assert float(row[2]) >= float(row[4]) > 0
    assert run("predict", prompt, one, "--top-k", 9, *of_weights(place))[0] == 0
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header[-3:] == ["class_3", "probability_3", "error"]
    assert sum(float(share) for share in row[2:-1:2]) == pytest.approx(1.0, abs=1e-5)
    to = ("--format", "jsonl", "--top-k", 2)
    assert run("predict", prompt, one, *to, *of_weights(place))[0] == 0
    assert len(json.loads(capsys.readouterr().out)["top"]) == 2


def test_evaluate__gives_the_runs_own_test_metrics(place, capsys):
    prompt, out = place / "run/prompt.safetensors", place / "metrics.json"
    data = ("--data", place / "photos", "--num-workers", 0, "--output", out)
    assert run("evaluate", prompt, *data, *of_weights(place))[0] == 0
    written = json.loads(out.read_text())
    result = json.loads((place / "run" / "result.json").read_text())
    expected = result["test"]
    assert written["metrics"] == pytest.approx(expected, abs=1e-6)
    shown = capsys.readouterr().out
    assert f"top1 {expected['top1']:.4f}" in shown
    assert written["accuracy_per_class"] == result["test_per_class"]
    matrix = written["confusion_matrix"]
    assert matrix["classes"] == ["class_0", "class_1", "class_2"]
    assert [sum(row) for row in matrix["counts"]] == [6, 6, 6]
    right = sum(matrix["counts"][place][place] for place in range(3))
    assert right / 18 == pytest.approx(expected["top1"])
    assert "class     right  images\nclass_0" in shown
    worst = result["test_confused"][0]
    assert f"most confused: {worst['count']} of 6 '{worst['true']}' taken for" in shown


def test_evaluate__on_other_classes__is_refused(place, tmp_path):
    make_folder(tmp_path / "four", classes=4)
    prompt = place / "run/prompt.safetensors"
    words = ("evaluate", prompt, "--data", tmp_path / "four", *of_weights(place))
    fails_in_one_line(*words, saying="only in the data ['class_3']")


def test_predict__writes_a_row_per_image(place, capsys, monkeypatch):
    prompt, photos = place / "run/prompt.safetensors", place / "photos/test"
    one = photos / "class_0/0.png"
    assert run("predict", prompt, photos, *of_weights(place))[0] == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert all(row["class"].startswith("class_") for row in rows)
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{one}\n"))
    to = ("--format", "jsonl", "--output", place / "one.jsonl")
    assert run("predict", prompt, "-", *to, *of_weights(place))[0] == 0
    row = json.loads((place / "one.jsonl").read_text())
    assert row["image"] == str(one)
    assert sum(row["top"].values()) == pytest.approx(1.0, abs=1e-5)
    assert row["class"] == max(row["top"], key=row["top"].get)


def test_predict__tells_of_an_unreadable_image_and_does_the_others(place, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    good = place / "photos/test/class_0/0.png"
    prompt = place / "run/prompt.safetensors"
    words = ("predict", prompt, tmp_path / "broken.png", good, *of_weights(place))
    fails_in_one_line(*words, saying="1 of 2 images")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert "broken.png" in rows[0]["error"]
    assert rows[0]["class"] == ""
    assert rows[1]["class"] != ""


def test_images__are_found_in_folders_globs_and_as_named(place):
    photos = place / "photos/test"
    assert len(list(find_images([str(photos)]))) == 18
    assert len(list(find_images([f"{photos}/class_1/*.png"]))) == 6
    with pytest.raises(DataError, match=r"'nowhere\.png': no such file"):
        list(find_images(["nowhere.png"]))
    with pytest.raises(DataError, match="no image found"):
        list(find_images([f"{photos}/*.jpg"]))


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (("train", "nowhere.yaml"), "nowhere.yaml"),
        (("train", "{config}", "optim.lrr=1"), "did you mean 'optim.lr'?"),
        (("train", "{config}", "prompt.num_token=1"), "did you mean 'prompt.num_tokens'?"),
        (("train", "{config}", "prompt=vpt_dep", NEW), "vpt_deep"),
        (("train", "{config}", "optim.lr=fast"), "optim.lr"),
        (("train", "{config}", "backbone.name=timm/test_vitt", NEW), "timm/test_vit"),
        (("train", "{config}", "backbone.name=timm/resnet18", NEW), "ResNet"),
        (("train", "{config}", "backbone.image_size=30", NEW), "patch size"),
        (("train", "{config}", "prompt={{name: vpt_deep, layers: [9]}}", NEW), "0..5"),
        (("train", "{config}", "data.dataset=nowhere", NEW), "nowhere"),
        (("train", "{config}", "train.device=cuda:7", NEW), "cuda:7"),
        (("train", "{config}", "--resume", "--overwrite"), "not both"),
        (("train",), "CONFIG"),
        (("trian",), "train"),
        (("predict", "{config}", "x.png"), "config.yaml"),
        (("show", "nowhere.safetensors"), "nowhere.safetensors"),
        (("list", "backbones", "open_klip*"), "no name matches"),
        (("evaluate", "{place}/run/prompt.safetensors", "--data", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_a_mistake__is_one_line_and_exit_code_2(place, words, saying):
    named = [word.format(config=place / "config.yaml", place=place) for word in words]
    fails_in_one_line(*named, saying=saying)


def test_traceback__is_shown_on_demand(place):
    code, stderr = run("train", "nowhere.yaml", "--traceback")
    assert code == 2
    assert "Traceback" not in run("train", "nowhere.yaml")[1]
    assert stderr.endswith("vpt: nowhere.yaml: no such file; name a config (YAML)\n")


def test_a_prompt_file_of_local_weights__asks_for_them__and_takes_them_from_anywhere(
    place, tmp_path
):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((place / "body.safetensors").read_bytes())
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    body = timm.create_model("test_vit", num_classes=0)
    save_file(body.state_dict(), other)
    prompt, image = place / "run/prompt.safetensors", place / "photos/test/class_0/0.png"
    fails_in_one_line("predict", prompt, image, saying="name it with --weights FILE")
    fails_in_one_line("predict", prompt, image, "--weights", other, saying="belongs to")
    assert run("predict", prompt, image, "--weights", moved)[0] == 0


def test_schema_show_list_and_doctor__print(place, capsys):
    assert run("schema")[0] == 0
    assert json.loads(capsys.readouterr().out)["properties"]["prompt"]["oneOf"]
    assert run("show", place / "run/prompt.safetensors")[0] == 0
    assert json.loads(capsys.readouterr().out)["class_names"] == ["class_0", "class_1", "class_2"]
    assert run("list", "backbones", "*dinov3*")[0] == 0
    assert "timm/vit_small_patch16_dinov3" in capsys.readouterr().out
    assert run("list", "prompts")[0] == 0
    assert capsys.readouterr().out.split() == [
        *(
            "adapter",
            "kv",
            "kv_bias",
            "lora",
            "none",
            "pixels",
            "vpt_deep",
            "vpt_gated",
            "vpt_shallow",
        )
    ]
    assert run("doctor")[0] == 0
    assert "bundled model    runs" in capsys.readouterr().out


def test_the_scripts__are_the_same_commands():
    scripts = {"train": "--dry-run", "evaluate": "--split", "predict": "--top-k"}
    for name, option in scripts.items():
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / f"{name}.py", "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"},
        )  # fmt: skip
        assert option in done.stdout


def test_pretrain_bundled__renders_trains_and_exports_a_loadable_backbone(tmp_path):
    checkpoint = tmp_path / "new" / "run.safetensors"
    config = ROOT / "configs/pretrain/glyph_vit.yaml"
    small = ("steps=2", "decay_steps=1", "warmup_steps=1", "threads=1", "log_every=1")
    sizes = "sizes=[{size: 32, batch_size: 8, probability: 1.0}]"
    assert run("pretrain-bundled", config, checkpoint, *small, sizes)[0] == 0
    model = vpt.create_model(
        "bundled/glyph_vit", weights=checkpoint.with_name("glyph_vit.safetensors"), num_classes=2
    )
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
    fails_in_one_line("pretrain-bundled", config, checkpoint, "stepz=2", saying="stepz")
