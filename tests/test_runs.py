"""Runs: exact resume from any point, what stops one, what it leaves behind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import vpt.data.loading.loader
import vpt.data.loading.scans
import vpt.engine.fit
import vpt.runs
import vpt.runs.showing
import vpt.runs.training
import vpt.storage.atomic_file
from tests.fixtures import make_folder, make_image
from tests.training import (
    make_config,
    metrics_lines,
    newest_checkpoint,
    prompt_tensors,
    result_without_time,
    same_bits,
)
from vpt.api import load_prompt
from vpt.config import dump
from vpt.data import EpochBatches, read_image
from vpt.data.loading.workers import start_worker
from vpt.engine.interrupt import Interrupted
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, DataError, PromptFileError, RunError
from vpt.evaluation import ClassificationEvaluator
from vpt.experiment import build
from vpt.models import Classifier
from vpt.runs import make_plan, measure_prompt, predict_images, train
from vpt.runs.feeding import fit_data

pytestmark = pytest.mark.usefixtures("no_drawing")

ROOT = Path(__file__).parents[1]

ALL_AT_ONCE = {
    "prompt__dropout": 0.1,
    "loss__label_smoothing": 0.1,
    "loss__class_weights": "balanced",
    "optim__warmup_epochs": 1.5,
    "train__early_stopping": 3,
    "train__epochs": 3,
}
RECIPES = {
    "adamw": {**ALL_AT_ONCE, "optim__accumulation": 2},
    "sgd": {
        **ALL_AT_ONCE,
        "optim__name": "sgd",
        "optim__accumulation": 3,
        "train__log_every": 2,
        "tuning": "bias",
    },
    "bf16": {
        **ALL_AT_ONCE,
        "train__precision": "bf16",
        "optim__clip_grad_norm": 0.5,
        "train__select": "loss",
    },
    "patch": {
        "prompt": {"name": "pixels", "form": "patch", "width": 8, "random": True},
        "optim__accumulation": 2,
    },
    "mixed": {
        **ALL_AT_ONCE,
        "optim__accumulation": 2,
        "data__mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.7},
        "data__transform": {"name": "random_resized_crop", "rand_augment": {"magnitude": 20}},
    },
    "clip": {
        **ALL_AT_ONCE,
        "backbone": "bundled/glyph_clip",
        "head": {"name": "zero_shot", "context": {"num_tokens": 2}},
        "loss__consistency": {"image": 10, "text": 25, "logits": 1},
        "optim__schedule": "cosine_epochs",
        "optim__warmup_lr": 1e-5,
        "train__select": "last",
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """13 training images (5, 5, 3 per class): four batches, the last of one image."""
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, images=5)
    for index in (1, 3):
        (root / "train" / "class_2" / f"{index}.png").unlink()
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A local weight file of the tiny backbone."""
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    write_weights(path, seed=0)
    return str(path)


def write_weights(path, seed):
    torch.manual_seed(seed)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data):
    """recipe name -> the directory of a run that nothing stopped."""
    done: dict[str, Path] = {}

    def run(recipe):
        if recipe not in done:
            path = tmp_path_factory.mktemp("runs") / recipe
            train(make_config(path, data, **RECIPES[recipe]))
            done[recipe] = path
        return done[recipe]

    return run


def assert_same_run(one, other):
    assert metrics_lines(one) == metrics_lines(other)
    assert result_without_time(one) == result_without_time(other)
    for name in ("prompt.safetensors", "prompt_last.safetensors"):
        assert same_bits(prompt_tensors(one, name), prompt_tensors(other, name))
        assert read_prompt_header(one / name).metrics == read_prompt_header(other / name).metrics
    tensors, state = newest_checkpoint(one)
    other_tensors, other_state = newest_checkpoint(other)
    assert state == other_state
    assert same_bits(tensors, other_tensors)


def signal_in_training(monkeypatch, is_time, number=signal.SIGTERM):
    """Send a signal in each optimiser step (0-based) for which `is_time`."""
    original = vpt.engine.fit.set_learning_rates

    def signalling(optimizer, settings, step, total_steps):
        if is_time(step):
            signal.raise_signal(number)
        return original(optimizer, settings, step, total_steps)

    monkeypatch.setattr(vpt.engine.fit, "set_learning_rates", signalling)


def attempts_until_done(config, most=60):
    """How often a run was interrupted before it was done."""
    for attempt in range(most):
        try:
            train(config, mode="resume" if attempt else "new")
        except Interrupted:
            continue
        return attempt
    raise AssertionError(f"not done after {most} attempts")


# ---------------------------------------------------------------------------------- exact resume


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_after_every_step__ends_bit_identical(
    recipe, data, uninterrupted, tmp_path, monkeypatch
):
    expected = uninterrupted(recipe)
    signal_in_training(monkeypatch, lambda step: True)
    attempts = attempts_until_done(make_config(tmp_path / "run", data, **RECIPES[recipe]))
    monkeypatch.undo()
    assert attempts == result_without_time(expected)["steps"]
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_stopped_once__in_mid_epoch_or_before_validation__ends_bit_identical(
    step, data, uninterrupted, tmp_path, monkeypatch
):
    expected = uninterrupted("bf16")
    config = make_config(tmp_path / "run", data, **RECIPES["bf16"])
    with monkeypatch.context() as patch:
        signal_in_training(patch, lambda now: now == step, signal.SIGINT)
        with pytest.raises(Interrupted, match=f"SIGINT at step {step + 1}; go on with --resume"):
            train(config)
    assert newest_checkpoint(tmp_path / "run")[1]["fit"]["step"] == step + 1
    train(config, mode="resume")
    assert_same_run(tmp_path / "run", expected)


def test_stopped_in_every_validation_batch_and_while_testing__ends_bit_identical(
    data, uninterrupted, tmp_path, monkeypatch
):
    expected = uninterrupted("adamw")
    update, batches = ClassificationEvaluator.update, [0]

    def signalling(self, outputs, labels):
        update(self, outputs, labels)
        batches[0] += 1
        if batches[0] in (1, 3, 6, 10, 14, 18, 20, 23, 25):  # 4 batches; later each time
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ClassificationEvaluator, "update", signalling)
    attempts = attempts_until_done(make_config(tmp_path / "run", data, **RECIPES["adamw"]))
    monkeypatch.undo()
    assert attempts == 9
    assert_same_run(tmp_path / "run", expected)


def test_stopped_while_testing__says_so__and_the_finished_training_is_not_repeated(
    data, uninterrupted, tmp_path, monkeypatch
):
    expected = uninterrupted("adamw")
    config = make_config(tmp_path / "run", data, **RECIPES["adamw"])
    test_split = vpt.runs.training.measure
    with monkeypatch.context() as patch:

        def signalling(*args, **options):
            signal.raise_signal(signal.SIGTERM)
            return test_split(*args, **options)

        patch.setattr(vpt.runs.training, "measure", signalling)
        with pytest.raises(Interrupted, match="while testing"):
            train(config)
    assert not (tmp_path / "run" / "result.json").exists()
    signal_in_training(monkeypatch, lambda step: pytest.fail("trained again"))
    train(config, mode="resume")
    assert_same_run(tmp_path / "run", expected)


def test_other_worker_counts__between_the_attempts__end_bit_identical(
    data, uninterrupted, tmp_path, monkeypatch
):
    def config(workers):
        return make_config(tmp_path / "run", data, **RECIPES["sgd"], data__num_workers=workers)

    for step, mode, workers in ((1, "new", 2), (3, "resume", 0)):
        with monkeypatch.context() as patch:
            signal_in_training(patch, lambda now, stop=step: now == stop)
            with pytest.raises(Interrupted):
                train(config(workers), mode=mode)
    train(config(2), mode="resume")
    assert_same_run(tmp_path / "run", uninterrupted("sgd"))


def test_stopped_at_each_epochs_end__every_epoch_keeps_its_own_order(data, tmp_path, monkeypatch):
    loss, orders = Classifier.loss, []

    def noting(self, batch, **options):
        orders.append(tuple(batch.indices.tolist()))
        return loss(self, batch, **options)

    monkeypatch.setattr(Classifier, "loss", noting)
    signal_in_training(monkeypatch, lambda step: step % 4 == 3)
    config = make_config(tmp_path / "run", data, train__epochs=4)
    assert attempts_until_done(config) == 4
    epochs = [sum(orders[start : start + 4], ()) for start in range(0, 16, 4)]
    assert len(orders) == 16
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len(set(epochs)) == 4
    planned = [
        [index for batch in EpochBatches(13, 4, seed=0, epoch=epoch) for _, index in batch]
        for epoch in range(4)
    ]
    assert [list(epoch) for epoch in epochs] == planned


class _Killed(BaseException):
    """Passes through everything, as a kill does."""


def kill_at_file(monkeypatch, number, *, before):
    """End the run right before or after the file `number` takes its name; None counts files."""
    replace, count = Path.replace, [0]

    def killing(self, target):
        count[0] += 1
        if before and count[0] == number:
            raise _Killed
        replaced = replace(self, target)
        if not before and count[0] == number:
            raise _Killed
        return replaced

    monkeypatch.setattr(Path, "replace", killing)
    return count


def test_killed_before_and_after_every_file_that_it_writes__ends_bit_identical(
    data, uninterrupted, tmp_path, monkeypatch
):
    changes = RECIPES["adamw"] | {"train__epochs": 2, "prompt__num_tokens": 1}
    changes |= {"data__scan": False}  # whose record only the first run would write
    # Pictures are views: a run does not need them to go on.
    monkeypatch.setattr(vpt.runs.showing, "write_atomic", lambda path, chunks: None)
    with monkeypatch.context() as patch:
        count = kill_at_file(patch, None, before=True)
        train(make_config(tmp_path / "expected", data, **changes))
    assert count[0] >= 8
    for number in range(1, count[0] + 1):
        for before in (True, False):
            config = make_config(tmp_path / f"{number}_{before}", data, **changes)
            with monkeypatch.context() as patch:
                kill_at_file(patch, number, before=before)
                with pytest.raises(_Killed):
                    train(config)
            train(config, mode="resume")
            assert_same_run(config.run_dir, tmp_path / "expected")


# ------------------------------------------------------------------------------------- processes


def _train_in_child(config, mode):
    code = 0
    try:
        train(config, mode=mode)
    except Interrupted:
        code = 75
    os._exit(code)


def start(config, mode):
    """A process of its own that trains."""
    process = multiprocessing.get_context("fork").Process(
        target=_train_in_child, args=(config, mode)
    )
    process.start()
    return process


def kill_until_done(config, *, longest, seed):
    """Number of SIGKILLs at random moments before the run got through; delays grow slowly."""
    moments, kills = random.Random(seed), 0
    while True:
        process = start(config, "resume" if kills else "new")
        process.join(moments.uniform(0.02, longest))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills, longest = kills + 1, longest * 1.05
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            return kills


SAVES_EACH_STEP = {"train__checkpoint_seconds": 1e-6}


def test_sigkill_at_random_moments__resumed_until_done__ends_bit_identical(
    data, uninterrupted, tmp_path
):
    config = make_config(tmp_path / "run", data, **RECIPES["adamw"], **SAVES_EACH_STEP)
    assert kill_until_done(config, longest=0.2, seed=1) >= 2
    assert_same_run(tmp_path / "run", uninterrupted("adamw"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill_often__resumed_until_done__ends_bit_identical(
    seed, workers, data, uninterrupted, tmp_path
):
    changes = {**RECIPES["sgd"], **SAVES_EACH_STEP, "data__num_workers": workers}
    assert kill_until_done(make_config(tmp_path / "run", data, **changes), longest=0.4, seed=seed)
    assert_same_run(tmp_path / "run", uninterrupted("sgd"))


def wait_for_steps(run_dir, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        path = run_dir / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the run does not get on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal__ends_the_process_soon__with_a_checkpoint_of_the_last_step(
    number, data, tmp_path
):
    config = make_config(tmp_path / "run", data, train__epochs=5000)
    process = start(config, "new")
    wait_for_steps(tmp_path / "run", 6)
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 75
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert newest_checkpoint(tmp_path / "run")[1]["fit"]["step"] == last["step"]


def _train_in_own_group(config):
    os.setsid()
    _train_in_child(config, "new")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group__loader_workers_leave_the_answer_to_the_run(
    number, data, tmp_path
):
    config = make_config(tmp_path / "run", data, train__epochs=5000, data__num_workers=2)
    process = multiprocessing.get_context("fork").Process(
        target=_train_in_own_group, args=(config,)
    )
    process.start()
    wait_for_steps(tmp_path / "run", 6)
    os.killpg(process.pid, number)
    process.join(10)
    assert process.exitcode == 75


def test_a_loader_worker__whose_run_is_gone_already__ends():
    options = {"worker": 0, "owner": os.getpid() + 1}
    process = multiprocessing.get_context("fork").Process(target=start_worker, kwargs=options)
    process.start()
    process.join(10)
    assert process.exitcode == 1


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "SIGTERM"),
        pytest.param(signal.SIGINT, "SIGINT", marks=pytest.mark.slow),
    ],
)
def test_the_command__stopped_by_a_signal_to_its_group__exits_with_75_in_one_line(
    number, name, data, tmp_path
):
    config = make_config(tmp_path / "run", data, train__epochs=5000, data__num_workers=2)
    (tmp_path / "config.yaml").write_text(dump(config))
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(tmp_path / "config.yaml")]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    wait_for_steps(tmp_path / "run", 6)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75
    last = newest_checkpoint(tmp_path / "run")[1]["fit"]["step"]
    assert errors == f"vpt: stopped by {name} at step {last}; go on with --resume\n"


# ------------------------------------------------------------------------------ refusals, damage


def stop_at(monkeypatch, config, step):
    with monkeypatch.context() as patch:
        signal_in_training(patch, lambda now: now == step)
        with pytest.raises(Interrupted):
            train(config)


def test_a_damaged_newest_checkpoint__falls_back_and_says_so__and_ends_bit_identical(
    data, uninterrupted, tmp_path, monkeypatch
):
    config = make_config(tmp_path / "run", data, **RECIPES["adamw"], **SAVES_EACH_STEP)
    stop_at(monkeypatch, config, 4)
    newest = tmp_path / "run" / "checkpoints" / "step_00000005.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    said: list[str] = []
    train(config, mode="resume", log=said.append)
    assert any("step_00000004.safetensors instead of step_00000005" in line for line in said)
    assert "going on from step 4" in said
    assert_same_run(tmp_path / "run", uninterrupted("adamw"))


def test_resume__with_changed_keys__is_refused_by_name__free_keys_are_not(
    data, uninterrupted, tmp_path, monkeypatch
):
    recipe = RECIPES["adamw"]
    stop_at(monkeypatch, make_config(tmp_path / "run", data, **recipe), 1)
    before = newest_checkpoint(tmp_path / "run")
    for key, value, shown in (
        ("optim__lr", 0.5, "optim.lr 0.01 -> 0.5"),
        ("seed", 3, "seed 0 -> 3"),
        ("prompt__num_tokens", 9, "prompt.num_tokens 2 -> 9"),
    ):
        with pytest.raises(ConfigError, match=shown):
            train(make_config(tmp_path / "run", data, **{**recipe, key: value}), mode="resume")
    after = newest_checkpoint(tmp_path / "run")
    assert same_bits(before[0], after[0])
    free = {
        "data__num_workers": 2,
        "train__max_hours": 9.0,
        "train__checkpoint_seconds": 3.0,
        "train__keep_checkpoints": 5,
        "data__scan": False,
    }
    train(make_config(tmp_path / "run", data, **recipe, **free), mode="resume")
    assert_same_run(tmp_path / "run", uninterrupted("adamw"))


def test_resume__with_other_images__is_refused(tmp_path, monkeypatch):
    images = make_folder(tmp_path / "data")
    config = make_config(tmp_path / "run", images)
    stop_at(monkeypatch, config, 1)
    make_image(99).save(images / "train" / "class_0" / "new.png")
    with pytest.raises(DataError, match=r"'train': 1 differ, e\.g\. train/class_0/new.png"):
        train(config, mode="resume")


def test_resume__on_other_backbone_weights__is_refused(data, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    config = make_config(tmp_path / "run", data, backbone__weights=str(path))
    write_weights(path, seed=1)
    stop_at(monkeypatch, config, 1)
    write_weights(path, seed=2)
    with pytest.raises(RunError, match="other image_tower_sha256"):
        train(config, mode="resume")


def test_resume_of_a_finished_run__does_nothing__and_gives_the_same_result(
    data, tmp_path, monkeypatch
):
    config = make_config(tmp_path / "run", data)
    first = train(config)
    files = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    monkeypatch.setattr(
        vpt.data.loading.loader, "read_image", lambda path, **_: pytest.fail(f"read {path}")
    )
    said: list[str] = []
    assert train(config, mode="resume", log=said.append) == first
    assert said == [f"{tmp_path / 'run'} is finished; its result stands"]
    assert {p: p.read_bytes() for p in files if p.name != ".lock"} == {
        p: content for p, content in files.items() if p.name != ".lock"
    }
    with pytest.raises(RunError, match="use --resume or --overwrite"):
        train(config)


@pytest.mark.parametrize("moment", ["training", "validation"])
def test_a_loss_that_is_not_finite__names_step_and_rate__and_what_was_saved_stays(
    moment, data, tmp_path, monkeypatch
):
    config = make_config(tmp_path / "run", data)
    loss, steps = Classifier.loss, [0]

    def poisoned(self, batch, **options):
        steps[0] += 1
        if steps[0] == (6 if moment == "training" else 8):
            if moment == "training":
                batch.images[0, 0, 0, 0] = float("nan")
            else:
                with torch.no_grad():
                    self.head.weight.mul_(float("inf"))
                return loss(self, batch, **options) | {"loss": self.head.bias.sum() * 0 + 1.0}
        return loss(self, batch, **options)

    monkeypatch.setattr(Classifier, "loss", poisoned)
    what = "the loss is not finite at step 5" if moment == "training" else "the validation loss"
    with pytest.raises(RunError, match=what) as caught:
        train(config)
    assert "lr 0.0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert newest_checkpoint(tmp_path / "run")[1]["fit"]["step"] == 4
    assert all(t.isfinite().all() for t in prompt_tensors(tmp_path / "run").values())
    monkeypatch.undo()
    train(config, mode="resume")


def test_a_rate_far_too_high__ends_in_one_line(data, tmp_path):
    changes = {"optim__lr": 1e6, "optim__schedule": "constant", "optim__name": "sgd"}
    changes |= {"tuning": "full"}
    config = make_config(tmp_path / "run", data, **changes)
    with pytest.raises(RunError, match=r"not finite at step \d+ \(lr 1e\+06\); lower optim\.lr"):
        train(config)


def test_too_little_disk__is_said_before_the_first_image_is_read(data, tmp_path, monkeypatch):
    monkeypatch.setattr(vpt.runs.start, "free_bytes", lambda path: 2**20)
    monkeypatch.setattr(
        vpt.data.loading.loader, "read_image", lambda path, **_: pytest.fail(f"read {path}")
    )
    with pytest.raises(RunError, match=r"has 1 MB of free disk space, the run needs about \d+ MB"):
        train(make_config(tmp_path / "run", data))


@pytest.mark.parametrize("number", range(4, 9))
def test_a_disk_that_fills_up__is_one_line__and_the_run_goes_on_later(
    number, data, uninterrupted, tmp_path, monkeypatch
):
    config = make_config(tmp_path / "run", data, **RECIPES["adamw"])
    output, files = vpt.storage.atomic_file._Output, []

    class Full(output):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            files.append(self)

        def write(self, data):
            if len(files) == number:
                os.write(self.fileno(), b"half")
                error = OSError(errno.ENOSPC, "No space left on device")
                raise vpt.storage.atomic_file.write_error(self._path, error, len(data))
            return super().write(data)

    # Pictures are views: without room for them a run goes on.
    monkeypatch.setattr(vpt.runs.showing, "write_atomic", lambda path, chunks: None)
    with monkeypatch.context() as patch:
        patch.setattr(vpt.storage.atomic_file, "_Output", Full)
        with pytest.raises(RunError, match="no space left to write") as caught:
            train(config)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    train(config, mode="resume")
    assert_same_run(tmp_path / "run", uninterrupted("adamw"))


# --------------------------------------------------------------------------- what is read and when


def reads(monkeypatch):
    """Every image file that is decoded from now on."""
    read, paths = vpt.data.loading.loader.read_image, []

    def noting(path, **options):
        paths.append(path)
        return read(path, **options)

    monkeypatch.setattr(vpt.data.loading.loader, "read_image", noting)
    return paths


def test_the_test_split__is_read_once__after_all_training(data, tmp_path, monkeypatch):
    paths = reads(monkeypatch)
    train(make_config(tmp_path / "run", data, data__scan=False, train__epochs=3))
    parts = [path.relative_to(data).parts[0] for path in paths]
    assert parts.count("test") == 15
    assert parts.index("test") > max(parts.index("val"), len(parts) - 16)
    errors_shown = parts.count("val") - 15 * 3  # read again at best epochs
    assert 0 <= errors_shown <= 15 * 3


def test_without_the_test_split__no_image_of_it_is_read__and_the_result_stands(
    data, tmp_path, monkeypatch
):
    paths = reads(monkeypatch)
    config = make_config(tmp_path / "run", data)
    result = train(config, read_test=False)
    assert result.test is None
    assert result.val
    assert {path.relative_to(data).parts[0] for path in paths} == {"train", "val"}
    assert train(config, read_test=False, mode="resume") == result


def test_train_and_val__learns_from_both__keeps_the_last_epoch__and_resumes_exactly(
    data, tmp_path, monkeypatch
):
    both = {"data__train_on": "train_and_val", "train__select": "last"}
    paths = reads(monkeypatch)
    result = train(make_config(tmp_path / "whole", data, **both, data__scan=False))
    parts = Counter(path.relative_to(data).parts[0] for path in paths)
    assert parts["train"] + parts["val"] == 2 * (13 + 15) + 16  # 16 are shown at the start
    assert parts["val"] >= 2 * 15
    assert parts["test"] == 15
    assert (result.val, result.best_epoch, result.steps) == ({}, 1, 2 * 7)
    assert not any(
        key.startswith("val/") for line in metrics_lines(tmp_path / "whole") for key in line
    )
    last = prompt_tensors(tmp_path / "whole", "prompt_last.safetensors")
    assert same_bits(prompt_tensors(tmp_path / "whole"), last)

    class StopError(Exception):
        pass

    def stop(epoch, metrics):
        raise StopError

    config = make_config(tmp_path / "parts", data, **both)
    with pytest.raises(StopError):
        train(config, on_validation=stop)
    assert train(config, mode="resume").test == result.test
    assert same_bits(prompt_tensors(tmp_path / "parts"), prompt_tensors(tmp_path / "whole"))


def test_the_best_epoch__is_chosen_on_validation__and_its_prompt_is_tested(data, weights, tmp_path):
    changes = {"train__epochs": 6, "train__select": "loss", "data__transform": "none"}
    changes |= {"optim__lr": 0.05, "optim__schedule": "constant", "backbone__weights": weights}
    config = make_config(tmp_path / "run", data, **changes)
    result = train(config)
    losses = [line["val/loss"] for line in metrics_lines(tmp_path / "run") if "val/loss" in line]
    assert len(losses) == 6
    assert result.best_epoch == losses.index(min(losses)) < 5
    assert result.val["loss"] == min(losses)
    last = prompt_tensors(tmp_path / "run", "prompt_last.safetensors")
    assert not same_bits(prompt_tensors(tmp_path / "run"), last)
    measured, *_ = measure_prompt(
        tmp_path / "run" / "prompt.safetensors",
        data,
        batch_size=4,
        num_workers=0,
        device="cpu",
        weights=weights,
    )
    assert measured == result.test


def test_early_stopping__counts_epochs_without_a_better_one(data, tmp_path):
    result = train(
        make_config(
            tmp_path / "run", data, train__epochs=9, train__early_stopping=2, optim__lr=1e-30
        )
    )
    assert result.steps == 3 * 4
    assert result.finished == "no better top1 in 2 epochs"


def test_max_steps__ends_in_mid_epoch__with_a_validation(data, tmp_path):
    result = train(make_config(tmp_path / "run", data, train__max_steps=3))
    assert (result.steps, result.finished, result.best_epoch) == (3, "done", 0)
    assert result.test is not None


@pytest.mark.parametrize("batch_size", [4, 16])
def test_max_hours__ends_after_the_step_that_passes_them__and_says_so(batch_size, data, tmp_path):
    result = train(
        make_config(tmp_path / "run", data, train__max_hours=1e-9, data__batch_size=batch_size)
    )
    assert result.steps == 1
    assert "max_hours 1e-09 reached" in result.finished


def test_bad_images__are_all_listed_before_training(tmp_path):
    images = make_folder(tmp_path / "data", images=4)
    bad = [images / "train/class_0/1.png", images / "test/class_1/3.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="2 unreadable images") as caught:
        train(make_config(tmp_path / "run", images))
    assert all(str(path) in str(caught.value) for path in bad)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_class_without_any_readable_image__is_still_listed_whole(tmp_path):
    images = make_folder(tmp_path / "data", images=2)
    for index in range(2):
        (images / "train/class_0" / f"{index}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="2 unreadable images"):
        train(make_config(tmp_path / "run", images))


def test_bad_images__skipped__leave_out_exactly_those__and_weights_follow(tmp_path):
    images = make_folder(tmp_path / "data", images=4)
    for name in ("train/class_0/1.png", "train/class_0/2.png", "val/class_1/0.png"):
        (images / name).write_bytes(b"no image")
    said: list[str] = []
    config = make_config(
        tmp_path / "run",
        images,
        data__on_bad_image="skip",
        data__batch_size=2,
        optim__warmup_epochs=1.0,
        loss__class_weights="balanced",
    )
    train(config, log=said.append)
    assert sum(line.startswith("left out: ") for line in said) == 3
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert split["train"] == [
        *(f"train/class_0/{i}.png" for i in (0, 3)),
        *(f"train/class_1/{i}.png" for i in range(4)),
    ]
    assert split["val"] == [
        *(f"val/class_0/{i}.png" for i in range(4)),
        *(f"val/class_1/{i}.png" for i in (1, 2, 3)),
    ]
    experiment = vpt.runs.start.scanned(build(config), said.append)
    assert experiment.settings.class_weights == (6 / (2 * 2), 6 / (2 * 4))
    assert experiment.settings.optim.warmup_steps == 3


def test_split_json__is_an_indented_object_of_all_names(tmp_path):
    images = make_folder(tmp_path / "data", splits=("train", "val"))
    (images / "val/class_0/0.png").rename(images / "val/class_0/\u00fc\U0001f600.png")
    train(make_config(tmp_path / "run", images, train__epochs=1))
    text = (tmp_path / "run" / "split.json").read_text()
    split = json.loads(text)
    assert list(split) == ["class_names", "train", "val"]
    assert "val/class_0/\u00fc\U0001f600.png" in split["val"]
    assert text == json.dumps(split, indent=2) + "\n"


def test_a_second_run_and_a_resumed_one__scan_no_image_again(tmp_path, monkeypatch):
    images, scanned = make_folder(tmp_path / "data"), []

    def counted(path: Path, **options):
        scanned.append(path)
        return read_image(path, **options)

    monkeypatch.setattr(vpt.data.loading.scans, "read_source", counted)
    first = make_config(tmp_path / "first", images, train__epochs=1)
    train(first)
    assert len(scanned) == len(set(scanned)) == len(list(images.rglob("*.png")))
    scanned.clear()
    train(make_config(tmp_path / "second", images, train__epochs=1, seed=5))
    train(make_config(tmp_path / "few", images, train__epochs=1, data__shots=1, seed=6))
    train(first, mode="resume")
    assert scanned == []


def test_balance__draws_rare_classes_as_often__and_needs_no_weights(tmp_path):
    images = make_folder(tmp_path / "data", images=4)
    for number in (1, 2, 3):
        (images / f"train/class_0/{number}.png").unlink()
    values = {"data__balance": True, "data__batch_size": 5, "loss__class_weights": None}
    config = make_config(tmp_path / "run", images, **values)
    batches = fit_data(build(config), torch.device("cpu")).train(0, 0)
    labels = [label for batch in batches for label in batch.labels.tolist()]
    assert sorted(labels) in ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
    with pytest.raises(ConfigError, match="both even out the classes"):
        make_config(tmp_path / "run", images, data__balance=True, loss__class_weights="balanced")


def test_shots__train_on_so_many_images_of_each_class(data, tmp_path):
    config = make_config(tmp_path / "run", data, data__shots=2, train__epochs=1)
    train(config)
    keys = json.loads((tmp_path / "run" / "split.json").read_text())["train"]
    assert [sum(f"class_{label}" in key for key in keys) for label in range(3)] == [2, 2, 2]


# ------------------------------------------------------------------------------- where it begins


def test_init_from__the_same_classes__starts_with_all_tensors(data, uninterrupted, tmp_path):
    path = uninterrupted("adamw") / "prompt.safetensors"
    model = build(make_config(tmp_path / "run", data, train__init_from=str(path))).model
    assert same_bits(
        {n: t.detach() for n, t in model.trained_tensors()}, prompt_tensors(path.parent)
    )


def test_init_from__more_classes__keeps_the_prompt_and_the_rows_of_known_ones(
    uninterrupted, tmp_path
):
    path = uninterrupted("adamw") / "prompt.safetensors"
    images = make_folder(tmp_path / "data", classes=4)
    changes = {"prompt__init": "patches", "optim__lr": 1e-12}
    config = make_config(tmp_path / "run", images, train__init_from=str(path), **changes)
    fresh = build(make_config(tmp_path / "none", images, **changes)).model
    model = build(config).model
    assert model.head.weight.shape == (4, 64)
    known = prompt_tensors(path.parent)["head.weight"]
    assert torch.equal(model.head.weight[: len(known)], known)
    assert torch.equal(model.head.weight[len(known) :], fresh.head.weight[len(known) :])
    train(config)
    tokens = prompt_tensors(path.parent)["prompt.tokens"]
    assert torch.allclose(prompt_tensors(tmp_path / "run")["prompt.tokens"], tokens, atol=1e-6)


def test_init_from__a_prompt_of_other_weights_or_another_shape__is_refused(
    data, uninterrupted, tmp_path
):
    path = str(uninterrupted("adamw") / "prompt.safetensors")
    with pytest.raises(PromptFileError, match=r"init_from .* with other weights"):
        build(make_config(tmp_path / "run", data, train__init_from=path, seed=5))
    with pytest.raises(PromptFileError, match=r"init_from .* shape \(6, 2, 64\)"):
        build(make_config(tmp_path / "run", data, train__init_from=path, prompt__num_tokens=3))


# --------------------------------------------------------------------------- what a run tells


def test_tensorboard_and_metrics__tell_the_same__and_all_that_was_promised(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images = make_folder(tmp_path / "data", images=4)
    train(make_config(tmp_path / "run", images, data__batch_size=2))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = set(tags["scalars"])
    wanted = {"train/loss", "train/grad_norm", "train/images_per_second", "train/data_wait"}
    wanted |= {"lr/prompt", "lr/head", "val/top1", "val/loss", "best/top1"}
    wanted |= {f"prompt_norm/layer_{layer:02d}" for layer in range(6)}
    assert wanted <= scalars
    assert "test/confusion_matrix" in tags["images"]
    assert len([tag for tag in tags["images"] if tag.startswith("train/inputs")]) == 1
    assert "config/text_summary" in tags["tensors"]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    mirrored = [
        (key, line["step"], value)
        for line in lines
        for key, value in line.items()
        if key not in ("step", "time")
    ]
    tested = [each for each in mirrored if each[0].startswith("test/")]  # once: no curve
    assert "test/top1" in {key for key, _, _ in tested}
    mirrored = [each for each in mirrored if each not in tested]
    curves = [tag for tag in scalars if not tag.startswith("best/")]  # which follow from val/
    shown = [(tag, e.step, e.value) for tag in curves for e in events.Scalars(tag)]
    assert len(mirrored) == len(shown)
    for one, other in zip(sorted(mirrored), sorted(shown), strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], rel=1e-6)


def test_the_result__counts_parameters_bytes_and_images(data, uninterrupted):
    result = json.loads((uninterrupted("adamw") / "result.json").read_text())
    assert result["parameters"]["prompt"] == 6 * 2 * 64
    assert result["parameters"]["head"] == 3 * 64 + 3
    assert result["parameters"]["trained"] == 6 * 2 * 64 + 3 * 64 + 3
    size = (uninterrupted("adamw") / "prompt.safetensors").stat().st_size
    assert result["prompt_bytes"] == size
    assert result["images_per_second"] > 0


def test_a_plan__tells_steps_and_sizes__and_writes_nothing(data, tmp_path):
    config = make_config(tmp_path / "run", data, **RECIPES["adamw"])
    plan = make_plan(build(config))
    assert plan.images == {"train": 13, "val": 15, "test": 15}
    assert (plan.classes, plan.steps, plan.trained) == (3, 6, 6 * 2 * 64 + 195)
    assert plan.seconds > 0
    assert not (tmp_path / "run").exists()


def test_predictions__keep_their_order__and_name_what_cannot_be_read(data, uninterrupted, tmp_path):
    images = sorted((data / "test").rglob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = [*images[:3], broken, *images[3:]]
    experiment = build(make_config(tmp_path / "none", data))
    model = load_prompt(uninterrupted("adamw") / "prompt.safetensors", experiment.model.backbone)
    device = torch.device("cpu")
    found = list(predict_images(model, paths, device=device, batch_size=4, top_k=2))
    assert [prediction.image for prediction in found] == [str(path) for path in paths]
    assert "not an image" in found[3].error
    alone = next(iter(predict_images(model, [images[7]], device=device)))
    assert found[8].label == alone.label
    assert found[8].probability == pytest.approx(alone.probability, rel=1e-5)
    assert all(sum(p.top.values()) <= 1 and len(p.top) == 2 for p in found if p.error is None)


def test_evaluate__on_other_classes__is_refused(data, weights, tmp_path):
    images = make_folder(tmp_path / "data", classes=4)
    train(make_config(tmp_path / "run", images, train__max_steps=1, backbone__weights=weights))
    prompt = tmp_path / "run/prompt.safetensors"
    with pytest.raises(PromptFileError, match="other classes"):
        measure_prompt(prompt, data, device="cpu", num_workers=0, weights=weights)
