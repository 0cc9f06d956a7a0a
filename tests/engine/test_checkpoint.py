import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from vpt.engine.checkpoint import CheckpointStore
from vpt.errors import RunError
from vpt.storage.sealed_file import SealedFileError, read_sealed

SAVE_FOR_EVER = """
import itertools, os, sys, time, random
import torch
from pathlib import Path
from vpt.engine.checkpoint import CheckpointStore

torch.set_num_threads(1)
def slowed(real):
    def call(*args):
        time.sleep(random.random() * 0.002)
        result = real(*args)
        time.sleep(random.random() * 0.002)
        return result
    return call
for name in ("fsync", "replace", "write", "unlink"):
    setattr(os, name, slowed(getattr(os, name)))
for folder in sys.stdin:
    store = CheckpointStore(Path(folder.strip()))
    if os.fork() == 0:
        for step in itertools.count(1):
            store.save(step, {"a": torch.full((2000,), float(step))}, {"step": step})
            sys.stdout.write(f"{os.getpid()} {step}\\n")
            sys.stdout.flush()
    os.wait()
    sys.stdout.write("dead\\n")
    sys.stdout.flush()
"""


def save(store, step):
    return store.save(step, {"a": torch.full((3,), float(step))}, {"seen": step, "best": None})


def names(store):
    return [path.name for path in store.paths()]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def log():
    return []


def test_checkpoint__saved_and_loaded__same_state(store, log):
    path = save(store, 123)
    loaded = store.load_newest(log.append)
    assert path.name == "step_00000123.safetensors"
    assert (loaded.step, loaded.path, loaded.state) == (123, path, {"seen": 123, "best": None})
    assert torch.equal(loaded.tensors["a"], torch.full((3,), 123.0))
    assert log == []


def test_checkpoint__empty_folder__none(store, log):
    assert store.load_newest(log.append) is None


def test_checkpoint__many_saves__newest_kept_in_order_of_steps(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (9, 10, 99_999_999, 100_000_000):
        save(store, step)
    assert names(store) == ["step_100000000.safetensors", "step_99999999.safetensors"]


def test_checkpoint__keep_one__refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointStore(tmp_path, keep=1)


def damage_by_cut(path):
    os.truncate(path, path.stat().st_size // 2)


def damage_by_flip(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def damage_by_wrong_name(path):
    path.write_bytes((path.parent / "step_00000001.safetensors").read_bytes())


def damage_by_emptying(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [damage_by_cut, damage_by_flip, damage_by_wrong_name, damage_by_emptying]
)
def test_checkpoint__newest_damaged__falls_back_and_says_so(store, log, damage):
    save(store, 1), save(store, 2)
    damage(save(store, 3))
    assert store.load_newest(log.append).step == 2
    assert len(log) == 1
    assert "step_00000002.safetensors" in log[0]
    assert "step_00000003.safetensors" in log[0]
    assert "\n" not in log[0]


def test_checkpoint__saves_after_a_fall_back__are_not_pruned_for_the_damaged_one(store, log):
    for step in (10, 20, 30):
        save(store, step)
    damage_by_cut(store.paths()[0])
    store.load_newest(log.append)
    for step in (21, 22, 23, 24):
        save(store, step)
    assert store.load_newest(log.append).step == 24
    assert len(store.paths()) == 3


def test_checkpoint__all_damaged__refused_and_nothing_moved(store, log):
    damage_by_cut(save(store, 1))
    damage_by_cut(save(store, 2))
    with pytest.raises(RunError, match=r"no checkpoint can be read .*--overwrite"):
        store.load_newest(log.append)
    assert len(store.paths()) == 2


def test_checkpoint__leftovers_of_killed_saves__ignored_and_removed(store, log):
    save(store, 1)
    leftover = store.paths()[0].with_name(".step_00000002.safetensors.0123abcd.tmp")
    leftover.write_bytes(b"half")
    assert store.load_newest(log.append).step == 1
    assert not leftover.exists()


def test_checkpoint__disk_full__older_ones_intact(store, log, monkeypatch):
    save(store, 1), save(store, 2)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left"):
        save(store, 3)
    monkeypatch.undo()
    assert names(store) == ["step_00000002.safetensors", "step_00000001.safetensors"]
    assert store.load_newest(log.append).step == 2
    assert len(list(store.paths()[0].parent.iterdir())) == 2


def test_checkpoint__nan_in_the_state__refused_and_older_ones_intact(store):
    save(store, 1)
    with pytest.raises(SealedFileError, match=r"header\.state\.loss is nan"):
        store.save(2, {}, {"loss": float("nan")})
    assert names(store) == ["step_00000001.safetensors"]


def test_checkpoint__killed_at_random_moments__at_most_one_save_is_lost(tmp_path, log):
    generator, in_a_save = random.Random(0), 0
    with subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as saver:
        for repeat in range(20):
            folder = tmp_path / str(repeat)
            saver.stdin.write(f"{folder}\n")
            saver.stdin.flush()
            child, told = map(int, saver.stdout.readline().split())
            time.sleep(generator.random() * 0.06)
            os.kill(child, signal.SIGKILL)
            while (line := saver.stdout.readline()) != "dead\n":
                told = int(line.split()[1])
            in_a_save += any(path.suffix == ".tmp" for path in folder.iterdir())
            store = CheckpointStore(folder)
            for path in store.paths():
                read_sealed(path)
            loaded = store.load_newest(log.append)
            assert loaded.step in (told, told + 1)
            assert loaded.state == {"step": loaded.step}
            assert torch.equal(loaded.tensors["a"], torch.full((2000,), float(loaded.step)))
        saver.stdin.close()
    assert log == []
    assert in_a_save >= 3
