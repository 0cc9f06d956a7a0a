"""Tunings of a detector side by side: the shipped config, a small comparison, wrong configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.protocols.comparisons import write_yaml
from vpt.config import load_yaml
from vpt.errors import ConfigError, RunError
from vpt.protocols.detector_comparison import compare_detectors, load_detector_comparison
from vpt.reports.detection_tables import write_detection

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "detection_quickstart.yaml"
SMALL = [
    "processes=0",
    "seeds=[0]",
    "scenes.counts={train: 24, val: 2, test: 2}",
    "base.train.epochs=1",
    "base.train.evaluate_every=1",
    "base.optim.warmup_epochs=0",
    "base.data.batch_size=2",
    "learning_rates={head_only: [1e-3, 2e-3], vpt_deep: [1e-3, 1e-2], last_2: [1e-4, 1e-3]}",
]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_shipped_comparison__differs_in_what_trains_only():
    config = load_detector_comparison(SHIPPED)
    runs = {
        name: config.run_config(name, lr=config.learning_rates[name][0], seed=0)
        for name in config.methods
    }
    assert {name: run.tuning for name, run in runs.items()} == {
        "head_only": "frozen",
        "vpt_deep": "frozen",
        "last_2": "last:2",
    }
    assert len({run.head["channels"] for run in runs.values()}) == 1
    assert len({(run.train.epochs, run.data.batch_size) for run in runs.values()}) == 1


def test_a_comparison__leaves_results_table_and_pictures(tmp_path):
    config = load_detector_comparison(SHIPPED, [*SMALL, f"run_dir={tmp_path / 'out'}"])
    result = compare_detectors(config)
    write_detection(result, config.run_dir)
    values = json.loads((config.run_dir / "result.json").read_text())
    assert list(values["methods"]) == ["head_only", "vpt_deep", "last_2"]
    for name, method in values["methods"].items():
        run = json.loads((config.run_dir / name / "seed_0" / "result.json").read_text())
        assert method["test_ap"] == [run["test"]["AP"]]
        assert method["test_ap50"] == [run["test"]["AP50"]]
        best = max(method["trials"], key=lambda trial: (trial["val"][0], -trial["lr"]))
        assert method["lr"] == best["lr"]
        assert method["peak_memory_bytes"] > 100e6
        with Image.open(config.run_dir / "pictures" / f"{name}_1.png") as picture:
            assert picture.size == (640, 320)
    table = (config.run_dir / "table.md").read_text()
    assert "| VPT-deep |" in table
    with pytest.raises(RunError, match="not empty"):
        compare_detectors(config)


def test_a_single_rate__is_taken_untried__as_the_table_says(tmp_path, monkeypatch):
    def refuse(config):
        raise AssertionError("tried out")

    monkeypatch.setattr("vpt.protocols.detector_comparison.try_with_cost", refuse)
    one = "learning_rates={head_only: [1e-3], vpt_deep: [1e-2], last_2: [1e-4]}"
    config = load_detector_comparison(SHIPPED, [*SMALL, one, f"run_dir={tmp_path / 'out'}"])
    result = compare_detectors(config)
    assert [method.lr for method in result.methods.values()] == [1e-3, 1e-2, 1e-4]
    assert not any(method.trials for method in result.methods.values())
    write_detection(result, config.run_dir)
    assert "Rates: the config's." in (config.run_dir / "table.md").read_text()
    # Stopped before the last run, it goes on with that alone.
    shutil.rmtree(config.run_dir / "last_2")
    done = config.run_dir / "vpt_deep/seed_0/checkpoints"
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    again = compare_detectors(config, mode="resume")
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before
    assert {name: method.test_ap for name, method in again.methods.items()} == {
        name: method.test_ap for name, method in result.methods.items()
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("scenes.heights=[50, 20]", "is above"),
        ("scenes.heights=[20, 95]", "do not fit"),
        ("scenes.counts={train: 3}", "give train, val and test"),
        ("base.run_dir=x", "is set by the comparison"),
        ("learning_rates.last_2=[1, 2, 3]", "equally many"),
        ("trial_seeds=[]", "trial_seeds are missing"),
        ("base.task=classification", "task"),
    ],
)
def test_a_wrong_config__is_one_line(tmp_path, override, problem):
    path = write_yaml(tmp_path / "own.yaml", load_yaml(SHIPPED, []))
    with pytest.raises(ConfigError, match=problem):
        load_detector_comparison(path, [*SMALL[-1:], override])
