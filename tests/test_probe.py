"""The linear probe by L-BFGS: what it fits, leaves behind and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from tests.fixtures import make_folder
from tests.test_cli import fails_in_one_line, run
from tests.training import make_config
from vpt.api import load_prompt
from vpt.config import dump
from vpt.errors import ConfigError, DataError, RunError
from vpt.experiment import build
from vpt.runs import measure_prompt, probe
from vpt.runs.probing import STRENGTHS, Features, Rows, _fit_head, _logistic, _measured


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), classes=3, images=6)


def test_a_probe__leaves_a_result_and_a_file_that_measures_the_same(data, tmp_path):
    glyph = {"name": "bundled/glyph_vit", "image_size": 16}
    config = make_config(tmp_path / "run", data, prompt="none", backbone=glyph)
    lines: list[str] = []
    result = probe(config, log=lines.append)
    saved = json.loads((tmp_path / "run/result.json").read_text())
    assert saved["val"] == result.val
    assert saved["trained_parameters"] == {"prompt": 0, "head": 3 * 192 + 3, "backbone": 0}
    path = tmp_path / "run/prompt.safetensors"
    model = load_prompt(path)
    assert model.class_names == ["class_0", "class_1", "class_2"]
    for split in ("val", "test"):
        metrics, *_ = measure_prompt(path, data, split=split, device="cpu", batch_size=4)
        assert metrics == getattr(result, split)
    assert any(line.startswith("C ") for line in lines)
    with pytest.raises(RunError, match="run_dir"):
        probe(config)
    assert probe(config, mode="overwrite").val == result.val


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head__is_the_logistic_regression__on_features_as_they_are(classes):
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5)).astype(np.float32)
    labels = random.integers(0, classes, 60)
    features[:, 0] += labels
    rows = _logistic(features, labels, 1.0, classes=classes)
    assert rows.weight.shape == (classes, 5)
    native = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels)
    scores = torch.from_numpy(features.astype(np.float64) @ rows.weight.T + rows.bias)
    assert np.allclose(scores.softmax(dim=1), native.predict_proba(features), atol=1e-6)


@pytest.mark.parametrize(
    ("present", "classes"), [((0, 2), 3), ((1, 2), 3), ((0, 1), 4), ((0, 2, 4), 5), ((1, 3, 5), 7)]
)
def test_a_class_without_training_images__keeps_the_other_rows_in_their_places(present, classes):
    random = np.random.default_rng(1)
    labels = random.choice(present, 80)
    features = random.normal(size=(80, 6)).astype(np.float32)
    for place, label in enumerate(present):
        features[labels == label, place] += 8
    rows = _logistic(features, labels, 1.0, classes=classes)
    assert rows.weight.shape == (classes, 6)
    assert rows.bias.shape == (classes,)
    predicted = (features @ rows.weight.T + rows.bias).argmax(axis=1)
    assert (predicted == labels).mean() > 0.95
    far = random.normal(size=(5000, 6)) * 100  # nowhere is a class predicted that was never seen
    assert set((far @ rows.weight.T + rows.bias).argmax(axis=1)) <= set(present)


def sparse_data(root: Path, train_classes: tuple[int, ...]) -> Path:
    """Three classes of colours; only some have training images."""
    colours = ((220, 30, 30), (30, 220, 30), (30, 30, 220))
    lines = ["path,label,split"]
    for split in ("train", "val", "test"):
        for label, colour in enumerate(colours):
            if split == "train" and label not in train_classes:
                continue
            for number in range(4):
                noise = np.random.default_rng(number).integers(-20, 20, (16, 16, 3))
                name = f"{split}_{label}_{number}.png"
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / name)
                lines.append(f"{name},class_{label},{split}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    fields = {"name": "sparse", "format": "csv", "root": str(root), "file": "list.csv"}
    columns = {"path": "path", "label": "label", "split": "split"}
    descriptor = root / "sparse.yaml"
    more = {"columns": columns, "missing_classes": "allow"}
    descriptor.write_text(json.dumps({**fields, **more}))
    return descriptor


def test_a_probe__with_a_class_that_has_no_training_image__is_right_about_the_others(tmp_path):
    glyph = {"name": "bundled/glyph_vit", "image_size": 16}
    data = sparse_data(tmp_path, (0, 2))
    lines: list[str] = []
    config = make_config(tmp_path / "run", data, prompt="none", backbone=glyph)
    result = probe(config, log=lines.append)
    assert result.test_per_class == {"class_0": 1.0, "class_1": 0.0, "class_2": 1.0}
    assert any("1 of 3 classes have no training image ('class_1')" in line for line in lines)


def test_a_probe__of_one_class__is_refused_in_one_line(tmp_path):
    data = sparse_data(tmp_path, (1,))
    with pytest.raises(DataError, match="all 4 training images are of class 'class_1'"):
        probe(make_config(tmp_path / "run", data, prompt="none"))


def features_of(seed: int, count: int, shift: float) -> Features:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    values = random.normal(size=(count, 4)).astype(np.float32)
    values[:, 0] += shift * labels
    return Features(values, labels)


def fitted(tmp_path, data, select: str, *, shift: float) -> tuple[float, dict[float, dict]]:
    """The C that is chosen, and the metrics of each."""
    glyph = {"name": "bundled/glyph_vit", "image_size": 16}
    changes = {"prompt": "none", "train__select": select, "backbone": glyph}
    experiment = build(make_config(tmp_path / "run", data, **changes))
    head = experiment.model.head
    head.weight = torch.nn.Parameter(torch.zeros(2, 4))
    train, val = features_of(0, 60, shift), features_of(1, 60, shift)
    seen = {}
    mean, deviation = train.values.mean(0), train.values.std(0)
    for strength in STRENGTHS:
        rows = _logistic((train.values - mean) / deviation, train.labels, strength, classes=2)
        weight = rows.weight / deviation
        seen[strength] = _measured(Rows(weight, rows.bias - weight @ mean), val)
    return _fit_head(experiment, train, val, lambda line: None), seen


def test_equally_accurate_probes__are_chosen_between_by_the_loss(tmp_path):
    data = make_folder(tmp_path / "data", classes=2)
    chosen, seen = fitted(tmp_path, data, "top1", shift=9.0)
    best = max(metrics["top1"] for metrics in seen.values())
    equal = {c: metrics["loss"] for c, metrics in seen.items() if metrics["top1"] == best}
    assert len(equal) > 3
    assert chosen == min(equal, key=equal.get)
    assert chosen > min(equal)


@pytest.mark.parametrize("select", ["loss", "top1", "mean_class_accuracy"])
def test_train_select__chooses_the_c_of_a_probe(tmp_path, select):
    data = make_folder(tmp_path / "data", classes=2)
    chosen, seen = fitted(tmp_path, data, select, shift=1.0)
    values = [metrics[select] for metrics in seen.values()]
    assert seen[chosen][select] == (min(values) if select == "loss" else max(values))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "set prompt=none"),
        ({"prompt": "none", "tuning": "bias"}, "set tuning=frozen"),
        ({"prompt": "none", "head": "mlp"}, "set head=linear"),
        ({"prompt": "none", "train__select": "last"}, "set train.select=top1"),
    ],
)
def test_what_is_no_probe__is_refused(data, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        probe(make_config(tmp_path / "run", data, **changes))
    assert not (tmp_path / "run").exists()


def test_the_command__probes(data, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(dump(make_config(tmp_path / "run", data, prompt="none")))
    assert run("probe", path) == (0, "")
    assert "test: top1" in capsys.readouterr().out
    fails_in_one_line("probe", path, saying="run_dir")
