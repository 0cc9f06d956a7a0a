"""Several processes that train one run, as torchrun would start them, forked from the test."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from vpt.engine.distributed import joined
from vpt.engine.interrupt import Interrupted
from vpt.errors import VptError

SECONDS = 60  # that processes have, before a test calls them hung


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of `count` processes gets from `work(rank)`.

    It is its error, where that is a user's or a stop, or None where it was killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_one, args=(rank, count, port, work, pipes[rank][1]))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    results = [_received(ours) for ours, _ in pipes]
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{process} hangs")
    return results


def _one(rank: int, count: int, port: int, work: Callable[[int], Any], pipe: Connection) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with joined():
        try:
            pipe.send(work(rank))
        except (VptError, Interrupted) as error:
            pipe.send(error)


def _received(pipe: Connection) -> Any:
    with suppress(EOFError):
        if pipe.poll(SECONDS):
            return pipe.recv()
    return None
