"""Several processes that train one run: who is who, and what they tell each other.

torchrun starts them. Where there is one process, every function here is its own business: there is
no group, and nothing is sent. Messages (numbers, decisions, outputs) go over the CPU; only
gradients go from GPU to GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined] # torch does not list it
from torch.distributed.rendezvous import rendezvous

from vpt.engine.interrupt import Interrupted, StopRequest
from vpt.errors import ConfigError, RunError, VptError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""The longest that a process waits for another that is there and does not answer."""

PARTNER_LOST = (
    "another process of this run is gone, so this one ends too; go on with --resume from the last "
    "checkpoint"
)
_MEETING_SECONDS = 5.0  # that a process which ends with an error gives the others to do so too


@dataclass
class _Notes:
    """Where the processes of the joined group leave short notes.

    Attributes:
        store: of the notes.
        sockets: descriptors of the connections to the others.
        lost: whether another one is gone.
    """

    store: Store
    sockets: set[int]
    lost: bool = False


_notes: list[_Notes] = []
"""Of the joined group; empty outside of `joined`."""


@contextmanager
def joined() -> Iterator[bool]:
    """Be one of the processes that torchrun started; does nothing where it did not, or one alone.

    Yields:
        Whether there are several.

    Raises:
        ConfigError: the environment names processes, but not how to meet them.
        RunError: they cannot be reached.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdecimal():
        raise ConfigError(f"WORLD_SIZE '{given}' is no number of processes; start with torchrun")
    if int(given) == 1:
        yield False
        return
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    try:
        store, own_rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        before = _sockets()
        dist.init_process_group(
            backend, store=store, rank=own_rank, world_size=size, timeout=TIMEOUT
        )
    except ValueError as error:
        raise ConfigError(f"WORLD_SIZE is set, but {error}; start with torchrun") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the other processes cannot be reached: {reason}") from error
    notes = _Notes(store, _sockets() - before)
    _notes.append(notes)
    try:
        yield True
    finally:
        dist.destroy_process_group()
        if not notes.lost:
            _meet(store, own_rank, size)
        _notes.clear()


def _sockets() -> set[int]:
    """Descriptors of this process's sockets."""
    found = set()
    for path in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(path.name)).st_mode):
                found.add(int(path.name))
    return found


def _drop_inherited() -> None:
    """A forked child (a loader's worker) must not keep the connections of a parent that ends."""
    for notes in _notes:
        for descriptor in notes.sockets:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    _notes.clear()


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_drop_inherited)


def _meet(store: Store, own_rank: int, size: int) -> None:
    """Wait for the other processes' end, for a moment: torchrun kills those that are late.

    The first one, which may keep the notes, leaves last.
    """
    with contextlib.suppress(RuntimeError):
        end = time.monotonic() + _MEETING_SECONDS
        for note, own, all_of_them in (("ended", 1, size), ("left", int(own_rank > 0), size - 1)):
            count = store.add(f"vpt/{note}", own)
            while count < all_of_them and time.monotonic() < end and (note, own) != ("left", 1):
                time.sleep(0.02)
                count = store.add(f"vpt/{note}", 0)


def world_size() -> int:
    """How many processes train this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes, and speaks for all."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """The device of this process, where the run's is `device`: of several GPUs its own.

    Raises:
        ConfigError: the machine has none for it, or the run's is one device for all processes.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(
            f"train.device {device} is one device, and {world_size()} processes train this run; "
            "use auto, cuda or cpu"
        )
    place, count = int(os.environ.get("LOCAL_RANK", rank())), torch.cuda.device_count()
    if place >= count:
        raise ConfigError(
            f"process {place} of this machine has no GPU of its own, there are {count}; use "
            f"torchrun --nproc-per-node {count}"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes, each with the same bits on all of them; all call it together."""
    if world_size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def from_first(value: T) -> T:
    """The first process's value, on all of them; all call it together."""
    if world_size() == 1:
        return value
    sent = [value]
    dist.broadcast_object_list(sent, src=0)
    return sent[0]


def on_first(work: Callable[[], T]) -> T:
    """What `work` gives on the first process, on all of them; the others do not work.

    An error of a user, or a stop, is raised on all of them too.
    """
    if world_size() == 1:
        return work()
    value: T | None = None
    error: VptError | Interrupted | None = None
    if is_first():
        try:
            value = work()
        except (VptError, Interrupted) as raised:
            error = raised
    value, error = from_first((value, error))
    try:
        if error is not None:
            raise error
    finally:
        del error  # else it would hold the frame that holds it, and all that is alive in others
    return value  # type: ignore[return-value] # what work gave


def gathered(value: T) -> list[T]:
    """Every process's value in their order, on all of them; all call it together."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def rounds(items: Iterable[T]) -> Iterator[list[T]]:
    """One item of each process at a time, in their order, on the first process.

    On the others as many empty lists. All of them go through it together.

    Args:
        items: of this process; at most one fewer than the first one has.
    """
    if world_size() == 1:
        yield from ([item] for item in items)
        return
    own = iter(items)
    while True:
        item = list(_next(own))
        (count,) = summed([len(item)])
        if count:
            yield [each for one in _to_first(item) for each in one]
        if count < world_size():
            return


def _next(items: Iterator[T]) -> Iterator[T]:
    for item in items:
        yield item
        return


def _to_first(value: T) -> list[T]:
    if not is_first():
        dist.gather_object(value, None, dst=0)
        return []
    values: list[T] = [value] * world_size()
    dist.gather_object(value, values, dst=0)
    return values


def asked_to_stop(stop: StopRequest) -> bool:
    """Whether any process was asked to stop, the same answer on all; they ask together.

    Where it is so, the request of each of them names a signal.
    """
    if world_size() == 1:
        return bool(stop)
    names = ("SIGTERM", "SIGINT")
    counts = summed([float(stop.signal_name == name) for name in names])
    came = [name for name, count in zip(names, counts, strict=True) if count]
    if came and not stop:
        stop.signal_name = came[0]
    return bool(came)


@contextmanager
def reporting_lost_partners() -> Iterator[None]:
    """Turn the errors of sending, which come when another process is gone, into one line.

    Raises:
        RunError: instead of them.
    """
    try:
        yield
    except RuntimeError as error:
        sending = isinstance(error, dist.DistError) or "gloo" in str(error)
        if world_size() == 1 or not sending:
            raise
        for notes in _notes:
            notes.lost = True
        raise RunError(PARTNER_LOST) from error


def first_to_say(message: str) -> bool:
    """Whether no other process has printed this error; of `PARTNER_LOST`, whether any has at all.

    A process asks just before it ends with the error. So a mistake that all processes find is
    printed once, and one that a single process finds is printed by that process.
    """
    if not _notes:
        return True
    store, digest = _notes[-1].store, hashlib.blake2b(message.encode(), digest_size=8).hexdigest()
    try:
        if message == PARTNER_LOST and store.check(["vpt/said"]):
            return False
        store.add("vpt/said", 1)
        return bool(store.add(f"vpt/said/{digest}", 1) == 1)
    except RuntimeError:  # the process that keeps the notes is gone
        return True
