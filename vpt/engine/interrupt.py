"""SIGTERM and SIGINT as a request: the loop stops at the next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - no error: the run is saved and can go on
    """A signal asked the run to stop; what was done is saved."""


class StopRequest:
    """Whether a signal has come, and which.

    Attributes:
        signal_name: 'SIGTERM' or 'SIGINT' once one has come, else None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None


_active: list[StopRequest] = []
"""The request that this process answers signals with, if any."""


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGTERM and the first SIGINT into a `StopRequest`; a second SIGINT interrupts at once.

    Inside another one it yields that one's request, so that no signal falls between the two.
    Outside the main thread no signal can be caught, and the request never comes.
    """
    if _active:
        yield _active[-1]
        return
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def answer(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, answer) for number in (signal.SIGTERM, signal.SIGINT)}
    _active.append(request)
    try:
        yield request
    finally:
        _active.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_at_once(message: str) -> Iterator[None]:
    """Raise `Interrupted` wherever SIGTERM or SIGINT comes.

    For work that is safe to cut anywhere. Outside the main thread no signal can be caught.

    Args:
        message: what the user is told, with {signal} for what came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def answer(number: int, frame: FrameType | None) -> None:
        raise Interrupted(message.format(signal=signal.Signals(number).name))

    before = {number: signal.signal(number, answer) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
