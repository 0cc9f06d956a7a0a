import errno
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.storage.test_atomic_file import disk_of
from vpt.engine.events import Events
from vpt.errors import RunError


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [line["step"] for line in lines(folder)]


def write_steps(folder, first, last, *, resume_step, value=1.0):
    with Events(folder, resume_step=resume_step) as events:
        for step in range(first, last + 1):
            events.scalars(step, {"train/loss": value / step})


def test_events__scalars__one_line_with_step_and_time(tmp_path):
    with Events(tmp_path, resume_step=None) as events:
        events.scalars(3, {"train/loss": 1.25, "train/lr": 0.5})
        events.scalars(4, {"val/top1": math.nan})
    first, second = lines(tmp_path)
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {"step": 3, "train/loss": 1.25, "train/lr": 0.5}
    assert second["val/top1"] is None


def test_events__process_dies_without_closing__lines_are_there(tmp_path):
    events = Events(tmp_path, resume_step=None)
    events.scalars(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]
    events.close()
    events.close()


def test_events__scalar_named_step__refused(tmp_path):
    with Events(tmp_path, resume_step=None) as events, pytest.raises(ValueError, match="fields"):
        events.scalars(1, {"step": 1.0})


def test_events__resumed__lines_after_the_checkpoint_are_cut(tmp_path):
    write_steps(tmp_path, 1, 9, resume_step=None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('not json\n{"step": 4, "torn')
    write_steps(tmp_path, 6, 7, resume_step=5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_events__nothing_to_resume__earlier_attempt_is_dropped(tmp_path):
    write_steps(tmp_path, 1, 4, resume_step=None)
    write_steps(tmp_path, 1, 2, resume_step=None)
    assert steps(tmp_path) == [1, 2]


def test_events__images_matrix_and_text__shown_by_tensorboard(tmp_path):
    with Events(tmp_path, resume_step=None) as events:
        events.images(0, "inputs", torch.rand(4, 3, 8, 8))
        events.images(0, "bytes", torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
        events.picture(5, "val/confusion", np.zeros((6, 7, 3), np.uint8))
        events.text("config", "a: 1\nb: 2")
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert shown.Tags()["images"] == ["inputs", "bytes", "val/confusion"]
    assert [image.step for image in shown.Images("val/confusion")] == [5]
    assert (
        b"    a: 1\n    b: 2" in shown.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    )


def test_events__tensorboard_folder_unusable__one_warning_and_metrics_go_on(tmp_path):
    (tmp_path / "tensorboard").write_text("a file is in the way")
    log = []
    with Events(tmp_path, resume_step=None, log=log.append) as events:
        events.scalars(1, {"loss": 1.0})
        events.images(1, "inputs", torch.rand(1, 3, 2, 2))
        events.picture(1, "confusion", np.zeros((6, 7, 3), np.uint8))
        events.flush()
    assert steps(tmp_path) == [1]
    assert len(log) == 1
    assert "TensorBoard is off" in log[0]


def test_events__tensorboard_disk_full__one_warning_and_metrics_go_on(tmp_path, capfd):
    log, threads = [], threading.active_count()
    with Events(tmp_path, resume_step=None, log=log.append) as events:
        for step in range(1, 10):
            events.scalars(step, {"loss": 1.0})
        with disk_of(5000):
            events.images(9, "inputs", torch.rand(1, 3, 64, 64))
            for step in range(10, 40):
                events.scalars(step, {"loss": 1.0})
            events.flush()
        assert threading.active_count() == threads
    assert steps(tmp_path) == list(range(1, 40))
    assert log == ["TensorBoard is off for the rest of this run, the run goes on: File too large"]
    assert capfd.readouterr() == ("", "")
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [point.step for point in shown.Scalars("loss")] == list(range(1, 10))
    assert shown.Tags()["images"] == []


def test_events__measured_once__are_in_the_record_and_no_curve(tmp_path):
    with Events(tmp_path, resume_step=None) as events:
        events.record(4, {"test/top1": 0.5})
        events.curves(4, {"best/top1": 0.75})
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert shown.Tags()["scalars"] == ["best/top1"]
    (line,) = lines(tmp_path)
    assert line["test/top1"] == 0.5
    assert "best/top1" not in line


def test_events__metrics_disk_full__raised_and_no_half_line(tmp_path, monkeypatch):
    with Events(tmp_path, resume_step=None) as events:
        events.scalars(1, {"loss": 1.0})
        real = os.write

        def full(descriptor, data):
            real(descriptor, data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("vpt.engine.events.os.write", full)
        with pytest.raises(RunError, match=r"no space left to write .*metrics\.jsonl"):
            events.scalars(2, {"loss": 1.0})
        monkeypatch.undo()
        events.scalars(2, {"loss": 1.0})
    assert steps(tmp_path) == [1, 2]


def served_scalars(url, **query):
    """What a browser would ask TensorBoard for; None while it still reads the files."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"{url}data/plugin/scalars/scalars?{urllib.parse.urlencode(query)}"
    try:
        with opener.open(address, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return None


def test_tensorboard__real_server_after_a_resume__one_curve_without_zig_zag(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_steps(run, 1, 20, resume_step=None, value=1.0)
    write_steps(run, 13, 16, resume_step=12, value=2.0)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run / "tensorboard")]
    options = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as server:
        try:
            said = ""
            while (found := re.search(r"http://127\.0\.0\.1:\d+/", said)) is None:
                line = server.stderr.readline()
                assert line, said
                said += line
            deadline = time.monotonic() + 30
            points = None
            while not points and time.monotonic() < deadline:
                points = served_scalars(found[0], run=".", tag="train/loss")
                time.sleep(0 if points else 0.1)
        finally:
            server.kill()  # a request to end that comes amid an answer is lost
    assert [step for _, step, _ in points] == list(range(1, 17))
    expected = [1 / step for step in range(1, 13)] + [2 / step for step in range(13, 17)]
    assert [value for _, _, value in points] == pytest.approx(expected)
    assert steps(run) == list(range(1, 17))
