"""Runs apart: results in order, errors and deaths of a process, signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from multiprocessing import active_children

import pytest

from vpt.engine.interrupt import Interrupted
from vpt.errors import DataError, RunError
from vpt.protocols.workers import run_apart


def _pid(number: int, seconds: float = 0.0) -> tuple[int, int]:
    time.sleep(seconds)
    return number, os.getpid()


def _fail() -> None:
    raise DataError("no such picture")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results__come_in_the_order_of_the_jobs__each_from_its_own_process():
    done: list[str] = []
    jobs = {"slow": partial(_pid, 1, 0.5), "b": partial(_pid, 2), "c": partial(_pid, 3)}
    results = run_apart(jobs, processes=2, done=lambda key, result: done.append(key))
    assert [number for number, _ in results.values()] == [1, 2, 3]
    assert list(results) == ["slow", "b", "c"]
    assert sorted(done) == ["b", "c", "slow"]
    assert len({pid for _, pid in results.values()} - {os.getpid()}) == 3


def test_no_process__runs_here():
    assert run_apart({1: partial(_pid, 7)}, processes=0) == {1: (7, os.getpid())}


@pytest.mark.parametrize(
    ("job", "error", "words"), [(_fail, DataError, "no such picture"), (_die, RunError, "memory")]
)
def test_an_error_or_a_death__ends_all(job, error, words):
    began = time.monotonic()
    with pytest.raises(error, match=words):
        run_apart({1: partial(_pid, 1, 300), 2: job}, processes=2)
    assert time.monotonic() - began < 60
    _nobody_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal__ends_all(number):
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    with pytest.raises(Interrupted, match=signal.Signals(number).name):
        run_apart({1: partial(_pid, 1, 300)}, processes=1)
    timer.join()
    _nobody_is_left()


def _nobody_is_left() -> None:
    for process in active_children():
        process.join(20)
    assert not active_children()
