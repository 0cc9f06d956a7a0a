"""SIGTERM and SIGINT as a request: the loop stops at the next safe point."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
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


_SIGNALS = (signal.SIGTERM, signal.SIGINT)

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
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    request = StopRequest()

    def answer(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name

    # Known before its handlers are there: a signal between the two is not lost.
    _active.append(request)
    try:
        with _answered(dict.fromkeys(_SIGNALS, answer)):
            yield request
    finally:
        _active.remove(request)


@contextmanager
def exiting_at_once(code: int, message: str, *, on_sigint: bool) -> Iterator[None]:
    """Exit with a line on stderr where a signal comes, but for the time of a `stop_request` inside.

    For a command that takes seconds before its loop begins, and whose files survive a kill at any
    moment. An exception would do less: in the middle of an import a library may catch it, or fail
    on a half-made module. Outside the main thread no signal can be caught.

    Args:
        code: of the process.
        message: what the user reads, with {signal} for what came.
        on_sigint: at SIGINT as well, which else is a KeyboardInterrupt.
    """
    owner = os.getpid()

    def answer(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            os.write(2, f"{message.format(signal=signal.Signals(number).name)}\n".encode())
        os._exit(code)

    with _answered(dict.fromkeys(_SIGNALS if on_sigint else (signal.SIGTERM,), answer)):
        yield


@contextmanager
def interrupted_at_once(message: str) -> Iterator[None]:
    """Raise `Interrupted` wherever SIGTERM or SIGINT comes.

    For work that is safe to cut anywhere. Outside the main thread no signal can be caught.

    Args:
        message: what the user reads, with {signal} for what came.
    """

    def answer(number: int, frame: FrameType | None) -> None:
        raise Interrupted(message.format(signal=signal.Signals(number).name))

    with _answered(dict.fromkeys(_SIGNALS, answer)):
        yield


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM too, so that what is half done is cleaned up.

    For work that cannot be resumed. Outside the main thread no signal can be caught.
    """

    def answer(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _answered({signal.SIGTERM: answer}):
        yield


@contextmanager
def _answered(
    handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]],
) -> Iterator[None]:
    """Answer signals with functions, and as before afterwards; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, answer) for number, answer in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
