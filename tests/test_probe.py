"""The linear probe by L-BFGS: what it fits, leaves behind and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.fixtures import make_folder
from tests.test_cli import fails_in_one_line, run
from tests.training import make_config
from vpt.api import load_prompt
from vpt.config import dump
from vpt.errors import ConfigError, RunError
from vpt.runs import evaluate_prompt, probe
from vpt.runs.probing import _logistic


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
        assert evaluate_prompt(path, data, split=split, device="cpu", batch_size=4) == getattr(
            result, split
        )
    assert lines[0].startswith("C ")
    with pytest.raises(RunError, match="run_dir"):
        probe(config)
    assert probe(config, mode="overwrite").val == result.val


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head__is_the_logistic_regression__on_features_as_they_are(classes):
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5)).astype(np.float32)
    labels = random.integers(0, classes, 60)
    features[:, 0] += labels
    weight, bias = _logistic(features, labels, 1.0, classes=classes)
    assert weight.shape == (classes, 5)
    native = LogisticRegression(C=1.0, max_iter=2000).fit(features, labels)
    scores = torch.from_numpy(features.astype(np.float64) @ weight.T + bias)
    assert np.allclose(scores.softmax(dim=1), native.predict_proba(features), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "set prompt=none"),
        ({"prompt": "none", "tuning": "bias"}, "set tuning=frozen"),
        ({"prompt": "none", "head": "mlp"}, "set head=linear"),
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
