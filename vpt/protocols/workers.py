"""Runs that do not depend on each other, several at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from vpt.engine.interrupt import Interrupted, StopRequest, stop_request
from vpt.errors import RunError

_LOOK_SECONDS = 0.5  # between looks for a signal
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)
_END_SECONDS = 10  # until a process that was asked to end is made to

Key = TypeVar("Key")
Result = TypeVar("Result")


def run_apart(
    jobs: Mapping[Key, Callable[[], Result]],
    *,
    processes: int,
    done: Callable[[Key, Result], None] = lambda key, result: None,
    lost: Callable[[Key], None] | None = None,
) -> dict[Key, Result]:
    """The results of all jobs, in their order.

    Each has a process of its own, so that its peak memory is its own. A job's error ends the
    others and is raised here. The processes end when this one is gone, however it ended.

    Args:
        jobs: functions that can be pickled, by a name of any kind.
        processes: at once; 0: one after another, in this process.
        done: is called here with every result, as they come.
        lost: is called with every job whose process ended without a word, and the others go on;
            None: that is an error.

    Raises:
        RunError: a process ended without a word, as one does that takes too much memory.
        Interrupted: a signal; the processes are ended.
    """
    results: dict[Key, Result] = {}

    def keep(key: Key, result: Result) -> None:
        results[key] = result
        done(key, result)

    def keep_next() -> None:
        key, outcome = running.next_result(stop)
        if outcome:
            keep(key, *outcome)
        elif lost is None:
            raise RunError(
                "a run's process ended without a word, perhaps for want of memory; try fewer "
                "processes at once"
            )
        else:
            lost(key)

    if processes == 0:
        for key, job in jobs.items():
            keep(key, job())
    else:
        with stop_request() as stop, _Running() as running:
            for key, job in jobs.items():
                if len(running) == processes:
                    keep_next()
                running.start(key, job)
            while running:
                keep_next()
    return {key: results[key] for key in jobs if key in results}


class _Running:
    """The processes that have not ended yet; leaving the context ends them."""

    def __init__(self) -> None:
        self._by_pipe: dict[Connection, tuple[Any, SpawnProcess]] = {}

    def __len__(self) -> int:
        return len(self._by_pipe)

    def start(self, key: Any, job: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, there))
        with _ignoring_interrupts():
            process.start()
        there.close()
        self._by_pipe[here] = (key, process)

    def next_result(self, stop: StopRequest) -> tuple[Any, tuple[Any, ...]]:
        """Key of the job that ends first and (its result,); or (), if it ended without a word."""
        while not stop:
            ready = wait(self._by_pipe, timeout=_LOOK_SECONDS)
            if ready and not stop:
                assert isinstance(ready[0], Connection)
                return self._take(ready[0])
        raise Interrupted(f"stopped by {stop.signal_name}")

    def _take(self, pipe: Connection) -> tuple[Any, tuple[Any, ...]]:
        try:
            error, result = pipe.recv()
        except EOFError:
            key, process = self._by_pipe.pop(pipe)
            process.join()
            return key, ()
        if isinstance(error, Interrupted):  # its own words are about its run alone
            raise Interrupted("stopped by a signal")
        if error is not None:
            raise error
        key, process = self._by_pipe.pop(pipe)
        process.join()
        return key, (result,)

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *error: object) -> None:
        processes = [process for _, process in self._by_pipe.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_END_SECONDS)
            process.kill()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process that starts here never sees Ctrl-C: its owner gets it too, and ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(job: Callable[[], Any], pipe: Connection) -> None:
    if not _ends_with_owner():
        _watch_owner()
    outcome: tuple[Exception | None, Any]
    try:
        outcome = (None, job())
    except Exception as error:  # noqa: BLE001 - the owner raises it
        outcome = (error, None)
    with contextlib.suppress(BrokenPipeError):  # the owner is gone
        pipe.send(outcome)


def _ends_with_owner() -> bool:
    """Have Linux send SIGTERM when the process, or the thread, that started this one is gone.

    False where the system cannot do that. A run that gets the signal saves its state and stops.
    """
    owner = multiprocessing.parent_process()
    if sys.platform != "linux" or owner is None:
        return False
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        return False
    if os.getppid() != owner.pid:  # it was gone before
        os._exit(1)
    return True


def _watch_owner() -> None:
    """The same with a thread that waits for the end of the owner's pipe."""

    def wait_and_stop() -> None:
        owner = multiprocessing.parent_process()
        if owner is not None:
            owner.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_stop, daemon=True).start()
