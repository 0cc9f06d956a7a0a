"""`backbone.pool` from the config to the prompt file, the log and an evaluation."""

from __future__ import annotations

import pytest

from tests.fixtures import make_folder
from tests.test_detection_runs import make_config as make_detection_config
from tests.training import make_config
from vpt.api import load_prompt
from vpt.errors import BackboneError, ConfigError
from vpt.experiment import build
from vpt.runs import measure_prompt, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), classes=2)


@pytest.mark.parametrize(
    ("pool", "line"),
    [
        (
            None,
            "features: token pooling (the backbone's own, avg or avgmax or max by backbone.pool)",
        ),
        ("avg", "features: avg pooling (by backbone.pool; its own is token)"),
    ],
)
def test_a_run__says_and_keeps_how_its_feature_is_pooled(data, tmp_path, pool, line):
    lines: list[str] = []
    config = make_config(
        tmp_path / "run", data, backbone={"name": "bundled/glyph_vit", "pool": pool}
    )
    result = train(config, log=lines.append)
    assert line in lines
    path = tmp_path / "run/prompt.safetensors"
    model = load_prompt(path)
    assert model.pooling == (pool or "token")
    metrics, *_ = measure_prompt(path, data, device="cpu", batch_size=4, num_workers=0)
    assert metrics == result.test


def test_a_pooling_that_is_none__is_refused_by_name(data, tmp_path):
    config = make_config(tmp_path / "run", data, backbone__pool="cls")
    with pytest.raises(BackboneError, match="cannot pool 'cls': it can pool token, avg"):
        build(config)


def test_a_detector__pools_nothing(tmp_path):
    backbone = {"name": "bundled/glyph_vit", "image_size": 64, "pool": "avg"}
    config = make_detection_config(tmp_path / "run", tmp_path / "d.yaml", backbone=backbone)
    with pytest.raises(ConfigError, match=r"backbone\.pool avg: a detector reads patch tokens"):
        build(config)
