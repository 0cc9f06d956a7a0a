"""Runs apart: results in order, errors and deaths of a process, signals."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pytest

import vpt.protocols.workers
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


def _say_and_sleep(address: str, by_thread: bool) -> None:
    """Hold a connection as long as the process lives."""
    if by_thread:
        ctypes.CDLL(None).prctl(vpt.protocols.workers._PR_SET_PDEATHSIG, 0)
        vpt.protocols.workers._watch_owner()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(b"here")
        time.sleep(300)


OWNER = """
import sys
from functools import partial
from tests.protocols.test_workers import _say_and_sleep
from vpt.protocols.workers import run_apart

if __name__ == "__main__":
    jobs = {by_thread: partial(_say_and_sleep, sys.argv[1], by_thread) for by_thread in (0, 1)}
    run_apart(jobs, processes=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is undone in one process is Linux's own")
def test_an_owner_that_is_killed__takes_its_processes_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    (tmp_path / "owner.py").write_text(OWNER)
    command = [sys.executable, str(tmp_path / "owner.py"), str(tmp_path / "socket")]
    root = str(Path(__file__).parents[2])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        listener.settimeout(60)
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}) as owner:
            workers = [listener.accept()[0] for _ in range(2)]
            for worker in workers:
                worker.settimeout(60)
                assert worker.recv(4) == b"here"
            owner.kill()
        for worker in workers:
            with worker:
                assert worker.recv(1) == b""


def _nobody_is_left() -> None:
    for process in active_children():
        process.join(20)
    assert not active_children()
