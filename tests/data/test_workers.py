"""How many processes load images, and that none of them takes more than its core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from tests.fixtures import make_image
from vpt.config import TransformConfig
from vpt.config.run import DataConfig
from vpt.data.loading.loader import each_of
from vpt.data.loading.workers import MOST_WORKERS, usable_cores, worker_count
from vpt.data.transforms.images import training_transform
from vpt.structures import Preprocess


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def there_are(count: int, processes: int | None = None) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(count))
        if processes is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return there_are


@pytest.mark.parametrize(
    ("count", "processes", "expected"),
    [(1, None, 0), (2, None, 1), (8, None, 7), (64, None, MOST_WORKERS), (64, 8, 7), (16, 16, 0)],
)
def test_auto__leaves_each_training_process_a_core(cores, count, processes, expected):
    cores(count, processes)
    assert worker_count("auto") == expected
    assert worker_count(3) == 3


def test_auto__counts_the_cores_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_config__may_leave_the_number_to_the_machine():
    config = DataConfig(dataset=Path("data"), batch_size=1, num_workers="auto")
    assert config.num_workers == "auto"
    with pytest.raises(ValueError, match="num_workers"):
        DataConfig(dataset=Path("data"), batch_size=1, num_workers="all")


class _Threads(Dataset[tuple[int, int]]):
    """What a worker takes, once it has augmented an image."""

    def __init__(self):
        options = TransformConfig(rotate=20.0, color_jitter=0.4, rand_augment={"num_ops": 3})
        unit = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.transform = training_transform(unit, options)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.transform(make_image(index, (300, 300)), index)
        return torch.get_num_threads(), len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_a_worker__has_one_thread_and_that_of_its_queue(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for of_torch, all_of_it in each_of(_Threads(), 1):
            assert of_torch == 1
            assert all_of_it <= 2
    finally:
        torch.set_num_threads(before)


SCRIPT = """
from tests.data.test_workers import _Threads
from vpt.data.loading.loader import each_of

def read():
    items = each_of(_Threads(), 2)
    raise RuntimeError(f"a bug after {len(next(items))}")

read()
"""


@pytest.mark.slow
def test_an_error_that_nothing_catches__ends_the_process_and_its_workers():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=40)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(b"RuntimeError: a bug after 2")
