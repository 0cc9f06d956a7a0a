"""A server on this machine that misbehaves on demand, and remembers what it was asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """How one path is answered.

    Attributes:
        body: all bytes of the file.
        status: 200 gives the file; others an empty answer.
        cut: close the connection after so many bytes of an answer, as often as `cuts` says.
        ranges: whether Range is understood.
        length: whether Content-Length is sent.
        delay: seconds between bytes of the answer; None: all at once.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "application/octet-stream"
    etag: str | None = '"one"'
    location: str | None = None
    cut: int | None = None
    cuts: int = 1
    ranges: bool = True
    length: bool = True
    delay: float | None = None


@dataclass
class Web:
    """The server: what it has, and what was asked of it."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, path: str, body: bytes = b"", **answer) -> str:
        self.pages[path] = Page(body, **answer)
        return f"{self.address}{path}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range of each request."""
        return [asked for _, asked in self.requests]


@contextmanager
def answering(pieces: Iterable[bytes], *, pause: float = 0.0) -> Iterator[str]:
    """The address of a server that sends these pieces to whoever asks, whatever HTTP says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def serving() -> Iterator[Web]:
    web: Web

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            web.requests.append((self.path, asked))
            page = web.pages.get(self.path, Page(status=404))
            unchanged = self.headers.get("If-Range") in (None, page.etag)
            start = int(asked[6:-1]) if asked and page.ranges and unchanged else 0
            body = page.body[start:] if page.status == 200 else b""
            if page.status == 200 and start and start >= len(page.body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            partly = page.status == 200 and start > 0
            self.send_response(206 if partly else page.status)
            if partly:
                total = len(page.body)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if page.location:
                self.send_header("Location", page.location)
            if page.etag:
                self.send_header("ETag", page.etag)
            self.send_header("Content-Type", page.content_type)
            if page.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if page.cut is not None and page.cuts > 0:
                page.cuts -= 1
                body = body[: page.cut]
            self._send(body, page.delay)

        def _send(self, body: bytes, delay: float | None) -> None:
            try:
                if delay is None:
                    self.wfile.write(body)
                for byte in body if delay is not None else b"":
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(delay)
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = Web(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
