"""HTTP whose every answer has a deadline: status line, headers, chunk sizes, bodies, error pages.

The timeout of a socket is of one read. A server that sends a byte now and then, or headers without
an end, never meets it.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.request
from functools import partial
from typing import Any


class Pace:
    """By when the server must have sent more.

    Args:
        seconds: for each part of an answer.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._deadline = 0.0
        self.extend()

    def extend(self) -> None:
        """Give the server its time again, for the next part."""
        self._deadline = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds to the deadline.

        Raises:
            TimeoutError: it has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server is too slow")
        return left


def paced_handlers(pace: Pace) -> list[urllib.request.BaseHandler]:
    """The handlers of http and https for `urllib.request.build_opener`.

    Connecting, and each hop of a redirect, starts the pace's time again.
    """
    return [_Http(pace), _Https(pace)]


class _Http(urllib.request.HTTPHandler):
    def __init__(self, pace: Pace):
        super().__init__()
        self._pace = pace

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        self._pace.extend()
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._pace), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, pace: Pace):
        super().__init__()
        self._pace = pace

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        self._pace.extend()
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._pace), req)


def _connection(
    kind: type[http.client.HTTPConnection], pace: Pace, host: str, **options: Any
) -> http.client.HTTPConnection:
    connection = kind(host, **options)
    connection.response_class = partial(_answer, pace)  # type: ignore[assignment]
    return connection


def _answer(pace: Pace, sock: Any, *args: Any, **options: Any) -> http.client.HTTPResponse:
    """An answer of which everything is read through the pace."""
    response = http.client.HTTPResponse(sock, *args, **options)
    raw = response.fp.detach()
    response.fp = io.BufferedReader(_PacedReader(raw, sock, pace))
    return response


class _PacedReader(io.RawIOBase):
    """Reads from a socket; each read waits at most as long as the pace leaves."""

    def __init__(self, raw: io.RawIOBase, sock: Any, pace: Pace):
        super().__init__()
        self._raw, self._sock, self._pace = raw, sock, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._pace.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
