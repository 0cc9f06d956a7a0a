"""How many processes load images, and what each of them may take of the machine."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader

Workers = int | Literal["auto"]
"""Loader processes; 0: the main process loads; 'auto': see `worker_count`."""

MOST_WORKERS = 8
"""That 'auto' takes; beyond, the disk is usually what is waited for."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(wanted: Workers) -> int:
    """The number itself; for 'auto' one process a core, but one core is left to the main process.

    At most `MOST_WORKERS`. Of several training processes on this machine (LOCAL_WORLD_SIZE, as
    torchrun sets it) each counts its share of the cores.
    """
    if wanted != "auto":
        return wanted
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(0, min(usable_cores() // processes - 1, MOST_WORKERS))


def start_worker(worker: int, *, owner: int) -> None:
    """One thread per worker; a signal to the whole group is the main process's to answer.

    It saves first. A worker that died of the signal would be an error in the middle of a step.
    """
    by_server = multiprocessing.get_start_method() == "forkserver"  # whose child each worker is
    if os.getppid() != owner and not by_server:
        # Killed meanwhile: torch would watch over the wrong process, and this one never end.
        os._exit(1)
    torch.set_num_threads(1)
    if (cv2 := sys.modules.get("cv2")) is not None:  # of the augmentation, where there is any
        cv2.setNumThreads(0)
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


_STOPS = (signal.SIGINT, signal.SIGTERM)
_running: WeakSet[Any] = WeakSet()


def begin(loader: DataLoader[Any]) -> Iterator[Any]:
    """An iterator over a loader of such workers, which end with this process, however it ends.

    After an exception that nothing caught, the iterator is still there when the interpreter exits;
    torch and multiprocessing then ask the workers to end by a signal, which they ignore. No stop
    comes while workers start, of which one that does not ignore it yet would die.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _running.add(iterator)
    return iterator


@atexit.register
def _end_workers() -> None:
    for iterator in list(_running):
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
