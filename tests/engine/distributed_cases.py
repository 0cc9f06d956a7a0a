"""Several processes: one run with the numbers of one process, however any of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vpt.engine.fit
import vpt.runs.showing
import vpt.runs.training
from tests.data.coco_files import make_coco
from tests.fixtures import make_folder
from tests.processes import together
from tests.test_detection_runs import make_config as make_detection_config
from tests.test_runs import assert_same_run
from tests.training import make_config, metrics_lines, result_without_time
from vpt.config import dump
from vpt.data import share_of
from vpt.engine.checkpoint import CheckpointStore
from vpt.engine.distributed import PARTNER_LOST
from vpt.engine.interrupt import Interrupted
from vpt.errors import ConfigError, DataError, RunError
from vpt.experiment import build
from vpt.runs import train
from vpt.runs.inference import measure

pytestmark = pytest.mark.usefixtures("no_drawing")

RECIPE = {
    "train__epochs": 7,
    "loss__class_weights": "balanced",
    "optim__clip_grad_norm": 2.0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """9 training images (4, 4, 1 per class): of batches of 4 the last has one image."""
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, images=4)
    for index in (1, 2, 3):
        (root / "train" / "class_2" / f"{index}.png").unlink()
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data):
    """The directory of a run of two processes that nothing stopped, with dropout."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    together(2, lambda rank: train(make_config(path, data, **RECIPE, prompt__dropout=0.1)))
    return path


def assert_equal_but_for_rounding(one, other):
    """The curves and results of two runs within 1e-5."""
    for line, other_line in zip(metrics_lines(one), metrics_lines(other), strict=True):
        assert line == pytest.approx(other_line, rel=1e-5, abs=1e-6)
    result, other_result = result_without_time(one), result_without_time(other)
    for split in ("val", "test"):
        assert result.pop(split) == pytest.approx(other_result.pop(split), rel=1e-5)
    assert result == other_result


def signal_at(step, number):
    """Send this process a signal in one optimiser step, 0-based."""
    rates = vpt.engine.fit.set_learning_rates

    def signalling(optimizer, settings, now, total_steps):
        if now == step:
            os.kill(os.getpid(), number)
        return rates(optimizer, settings, now, total_steps)

    vpt.engine.fit.set_learning_rates = signalling  # in a forked process, which ends with the run


# --------------------------------------------------------------------------------- the same numbers


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares__are_a_partition_of_the_batch__in_order__and_as_even_as_can_be(batch, processes):
    shares = [share_of(batch, rank, processes) for rank in range(processes)]
    assert [item for share in shares for item in share] == batch
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_two_processes__have_the_losses_and_metrics_of_one(data, tmp_path):
    train(make_config(tmp_path / "one", data, **RECIPE))
    results = together(2, lambda rank: train(make_config(tmp_path / "two", data, **RECIPE)))
    assert results[0] == results[1]
    losses = [line for line in metrics_lines(tmp_path / "one") if "train/loss" in line]
    assert len(losses) == 21
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "two")


MORE = {
    "full": {**RECIPE, "optim__accumulation": 2, "optim__name": "sgd", "tuning": "full"},
    "clip": {
        **RECIPE,
        "optim__accumulation": 2,
        "backbone": "bundled/glyph_clip",
        "head": {"name": "zero_shot", "context": {"num_tokens": 2}},
        "loss__consistency": {"image": 10, "text": 25, "logits": 1},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("recipe", MORE)
def test_several_processes__have_the_numbers_of_one__whatever_the_loss(
    recipe, processes, data, tmp_path
):
    train(make_config(tmp_path / "one", data, **MORE[recipe]))
    together(processes, lambda rank: train(make_config(tmp_path / "all", data, **MORE[recipe])))
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "all")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_detection__has_the_losses_of_one_process__by_the_positives_of_all(head, tmp_path):
    path = write_boxes(tmp_path)
    changes = {
        "head": {"name": head, "channels": 32, "num_convs": 1},
        "prompt": {"name": "vpt_deep", "num_tokens": 2},
        "data": {"dataset": str(path), "batch_size": 4, "num_workers": 0},
        "train": {"epochs": 5, "device": "cpu", "log_every": 1},
    }
    train(make_detection_config(tmp_path / "one", path, **changes))
    together(2, lambda rank: train(make_detection_config(tmp_path / "two", path, **changes)))
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "two")


def write_boxes(root):
    """A descriptor of 5 pictures with boxes per split; the last has none."""
    splits = ("train", "val", "test")
    make_coco(root / "boxes", splits=splits, images=5)
    lines = [f"  {name}: annotations/{name}.json" for name in splits]
    head = f"name: shapes\nformat: coco\nroot: {root / 'boxes'}\nimages: images\nsplits:\n"
    (root / "boxes.yaml").write_text(head + "\n".join(lines))
    return root / "boxes.yaml"


def test_measuring__gives_the_bits_of_one_process__and_sees_every_image_once(data):
    experiment = build(make_config(data / "unused", data))
    split, transform = experiment.splits.require("test"), experiment.eval_transform
    place = {"device": torch.device("cpu"), "batch_size": 5, "num_workers": 0}
    seen: list[int] = []

    def work(rank):
        metrics, evaluator = measure(
            experiment.model, split, transform, after_batch=seen.append, **place
        )
        return metrics, int(evaluator.confusion_matrix().sum()) if rank == 0 else 0, seen

    metrics, _ = measure(experiment.model, split, transform, **place)
    first, second = together(2, work)
    assert first == (metrics, 12, [10, 2])
    assert second == (metrics, 0, [0, 0])


# ----------------------------------------------------------------------------- how processes end


def test_one_is_killed__the_other_ends_in_one_line__and_the_run_goes_on_bit_identical(
    data, undisturbed, tmp_path
):
    config = make_config(
        tmp_path / "run", data, **RECIPE, prompt__dropout=0.1, train__checkpoint_seconds=1e-9
    )

    def until_killed(rank):
        if rank == 1:
            signal_at(7, signal.SIGKILL)
        return train(config)

    began = time.monotonic()
    first, second = together(2, until_killed)
    assert time.monotonic() - began < 20
    assert isinstance(first, RunError)
    assert str(first) == PARTNER_LOST
    assert second is None
    first, second = together(2, lambda rank: train(config, mode="resume"))
    assert first == second
    assert_same_run(config.run_dir, undisturbed)


def test_a_signal_to_one__stops_all_at_one_step__and_one_process_may_go_on(data, tmp_path):
    config = make_config(tmp_path / "run", data, **RECIPE)

    def until_stopped(rank):
        if rank == 1:
            signal_at(4, signal.SIGTERM)
        return train(config)

    stops = together(2, until_stopped)
    assert [type(stop) for stop in stops] == [Interrupted, Interrupted]
    assert {str(stop) for stop in stops} == {"stopped by SIGTERM at step 5; go on with --resume"}
    checkpoint = CheckpointStore(config.run_dir / "checkpoints").load_newest(lambda line: None)
    assert (checkpoint.step, checkpoint.state["processes"]) == (5, 2)
    lines: list[str] = []
    train(config, mode="resume", log=lines.append)
    assert len([line for line in lines if "had processes: 2, and has now: 1" in line]) == 1
    train(make_config(tmp_path / "one", data, **RECIPE))
    assert_equal_but_for_rounding(tmp_path / "one", config.run_dir)


@pytest.mark.slow
def test_three_processes__sum_in_the_same_order_after_a_stop(data, tmp_path):
    changes = {**RECIPE, "prompt__num_tokens": 50, "data__batch_size": 7}
    config = make_config(tmp_path / "run", data, **changes)

    def until_stopped(rank):
        if rank == 2:
            signal_at(4, signal.SIGINT)
        return train(config)

    together(3, lambda rank: train(make_config(tmp_path / "straight", data, **changes)))
    assert str(together(3, until_stopped)[0]).startswith("stopped by SIGINT at step 5")
    together(3, lambda rank: train(config, mode="resume"))
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_what_a_user_must_fix__is_the_same_on_all(data, tmp_path):
    bad = make_folder(tmp_path / "bad", classes=2, images=4)
    (bad / "train" / "class_1" / "3.png").write_bytes(b"no image")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")

    def work(rank):
        errors = []
        for config in (
            make_config(tmp_path / "run", bad),
            make_config(tmp_path / "full", data),
            make_config(tmp_path / "kept", data, data__cache="memory"),
        ):
            try:
                train(config)
            except (ConfigError, DataError, RunError) as error:
                errors.append(f"{type(error).__name__} {error}")
        return errors

    first, second = together(2, work)
    assert first == second
    assert [line.split()[0] for line in first] == ["DataError", "RunError", "ConfigError"]
    assert "1 unreadable images" in first[0]
    assert "2 processes train this run" in first[2]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_torchrun__trains_one_run__and_tells_a_mistake_once(data, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump(make_config(tmp_path / "run", data)))
    tool = str(vpt.runs.training.__file__).replace("vpt/runs/training.py", "tools/train.py")
    done = subprocess.run([*TORCHRUN, tool, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes share out every batch of 4 images") == 1
    assert done.stdout.count("test: top1") == 1
    done = subprocess.run(
        [*TORCHRUN, "-m", "vpt.cli", "train", path, "--resume", "optim.lr=-1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("vpt: ") == 1
    assert done.stderr.count("optim.lr") == 1


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read__ends_both_with_2__and_is_told_once(tmp_path):
    bad = make_folder(tmp_path / "bad", classes=2, images=6)
    (bad / "train" / "class_1" / "3.png").write_bytes(b"no image")
    path = tmp_path / "run.yaml"
    changes = {"data__num_workers": 2, "data__scan": False, "train__epochs": 99}
    path.write_text(dump(make_config(tmp_path / "run", bad, **changes)))
    told = subprocess.run(
        [*TORCHRUN, "-m", "vpt.cli", "train", path], capture_output=True, text=True, timeout=120
    ).stderr
    assert told.count("exitcode  : 2 ") == 2
    assert [line for line in told.splitlines() if line.startswith("vpt: ")] == [
        f"vpt: {bad}/train/class_1/3.png: not an image (JPEG, PNG, WEBP, BMP, TIFF, GIF are read)"
    ]
