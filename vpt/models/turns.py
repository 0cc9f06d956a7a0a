"""A lock for what many threads use and few change."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Turns:
    """Any number of threads use a thing at once, or one changes it.

    A change waits for the uses that have begun, and uses that begin later wait for the change. A
    use may hold others of the same thread. Copies and pickles are locks of their own.

    Attributes:
        using: `with turns.using:`; inside, nothing changes.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._users: Counter[int] = Counter()  # by thread
        self._changer: int | None = None
        self._waiting = 0
        self.using = _Use(self)

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Inside, nobody else uses or changes it.

        Raises:
            RuntimeError: this thread is using it, and would wait for itself.
        """
        me = threading.get_ident()
        with self._condition:
            if me in self._users or self._changer == me:
                raise RuntimeError("a change inside of a use, or of another change, cannot begin")
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: self._changer is None and not self._users.total())
                self._changer = me
            finally:
                self._waiting -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._changer = None
                self._condition.notify_all()

    def begin_use(self) -> None:
        """Wait until nothing changes; every call needs an `end_use` of the same thread."""
        me = threading.get_ident()
        with self._condition:
            if me not in self._users and self._changer != me:
                self._condition.wait_for(lambda: self._changer is None and not self._waiting)
            self._users[me] += 1

    def end_use(self) -> None:
        """Let changes begin, if this was the last use."""
        me = threading.get_ident()
        with self._condition:
            self._users[me] -= 1
            if not self._users[me]:
                del self._users[me]
            self._condition.notify_all()


class _Use:
    """The inside of `with turns.using`; a class, as torch.compile cannot pass over a generator."""

    def __init__(self, turns: Turns):
        self._turns = turns

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __enter__(self) -> None:
        self._turns.begin_use()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __exit__(self, *error: object) -> None:
        self._turns.end_use()
