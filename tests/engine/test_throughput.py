"""A run that waits for its data says so once, and what to change; another says nothing."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from tests.fixtures import make_folder
from tests.training import make_config
from vpt.data.images import read_image
from vpt.engine.fit import Outputs, fit
from vpt.engine.throughput import DataWatch, Meter
from vpt.experiment import build
from vpt.runs.feeding import faster_data, fit_data

CPU = torch.device("cpu")


def lines_of(watch: DataWatch, steps: int, *, waited: float, seconds: float = 1.0) -> list[str]:
    told = (watch.after_step(10, waited=waited, seconds=seconds) for _ in range(steps))
    return [line for line in told if line is not None]


def test_waiting_for_more_than_a_quarter__is_told_once():
    watch = DataWatch(lambda: ["data.num_workers=7", "data.decoded=disk"])
    assert lines_of(watch, 200, waited=0.6) == [
        "data are the bottleneck: 60% of the time goes into waiting for them, 10 images/s come "
        "where the step alone would take 25; what helps: data.num_workers=7, data.decoded=disk"
    ]


@pytest.mark.parametrize(
    ("steps", "waited", "seconds"),
    [
        (200, 0.24, 1.0),  # a share that is fine
        (39, 0.9, 1.0),  # the start, and less than a window after it
        (100, 0.9e-3, 1e-3),  # too short a time to tell
    ],
)
def test_less__is_told_by_no_line(steps, waited, seconds):
    assert lines_of(DataWatch(lambda: []), steps, waited=waited, seconds=seconds) == []


def test_the_start_of_a_run__does_not_count_and_a_later_wait_does():
    watch = DataWatch(lambda: [])
    assert lines_of(watch, 20, waited=1.0) == []
    assert lines_of(watch, 100, waited=0.0) == []
    (line,) = lines_of(watch, 40, waited=0.5)
    assert line.endswith("what helps: nothing in the config: more cores or a faster disk would")


def test_what_is_not_watched__says_nothing():
    assert lines_of(DataWatch(None), 200, waited=0.9) == []


@pytest.fixture
def data(tmp_path):
    return make_folder(tmp_path / "data", images=3)


def test_the_advice__is_what_the_config_has_not_done_yet(data, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    workers, decoded = "data.num_workers=7 (now 2, 8 cores here)", "data.decoded=disk"

    def advice(**changes):
        given = {"data__num_workers": 2, "prompt": "none", **changes}
        return faster_data(build(make_config(tmp_path / "run", data, **given)))

    assert advice() == [workers, decoded]
    assert advice(data__transform="none") == ["data.cache=auto", workers, decoded]
    assert advice(data__num_workers="auto") == [decoded]
    assert advice(data__decoded="auto", data__num_workers=8) == []


def test_images_that_the_cache_keeps__are_not_watched(data, tmp_path):
    for cache, watched in (("none", True), ("memory", False)):
        changes = {"data__cache": cache, "data__transform": "none", "prompt": "none"}
        fed = fit_data(build(make_config(tmp_path / "run", data, **changes)), CPU)
        assert (fed.advice is not None) == watched


def test_a_run_on_a_slow_disk__logs_the_line(data, tmp_path, monkeypatch):
    def slowly(path, **options):
        threading.Event().wait(0.03)
        return read_image(path, **options)

    monkeypatch.setattr("vpt.data.loading.loader.read_image", slowly)
    monkeypatch.setattr("vpt.engine.throughput._WINDOW_SECONDS", 0.1)
    changes = {"data__batch_size": 1, "train__epochs": 8, "train__evaluate_every": 8}
    experiment, lines = build(make_config(tmp_path / "run", data, prompt="none", **changes)), []
    fed, outputs = fit_data(experiment, CPU), Outputs(log=lines.append)
    fit(experiment.model, fed, experiment.settings, device=CPU, outputs=outputs)
    assert sum(line.startswith("data are the bottleneck: ") for line in lines) == 1


def test_what_follows_a_step__is_no_wait_for_data():
    meter = Meter()
    time.sleep(0.2)  # a checkpoint on a slow disk
    meter.ask()
    meter.wait([])
    assert meter.waited < 0.1
