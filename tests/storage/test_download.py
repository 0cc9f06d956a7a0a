from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from email.message import Message
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.storage.web import Page, Web, answering, serving
from vpt.errors import DownloadError
from vpt.storage import download as module
from vpt.storage.download import Remote, download, url_problem, verified

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@pytest.fixture
def web():
    with serving() as web:
        yield web


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "birds.tgz"


def fetch(path: Path, *urls: str, checksum: str | None = MD5, size: int | None = None, **given):
    return download(Remote(urls, checksum, size), path, pause=0.0, **{"timeout": 5.0, **given})


def refusal(path: Path, *urls: str, **given) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(path, *urls, **given)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


def test_a_file__is_fetched_verified_and_alone_in_its_folder(web, path):
    told: list[tuple[int, int | None]] = []
    url = web.add("/birds.tgz", BODY)
    assert fetch(path, url, progress=lambda *at: told.append(at)) == SHA256
    assert path.read_bytes() == BODY
    assert [other.name for other in path.parent.iterdir()] == ["birds.tgz"]
    assert told[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize("checksum", [None, MD5, f"sha256:{SHA256}"])
def test_a_file_that_is_there__is_verified_and_not_fetched(web, path, checksum):
    url = web.add("/birds.tgz", b"another")
    path.write_bytes(BODY)
    assert fetch(path, url, checksum=checksum) == SHA256
    assert web.requests == []


def test_a_wrong_file_that_is_there__is_named_and_kept(web, path):
    path.write_bytes(b"my own")
    with pytest.raises(DownloadError, match=r"birds.tgz has checksum md5:.* remove it"):
        fetch(path, web.add("/birds.tgz", BODY))
    assert path.read_bytes() == b"my own"
    path.write_bytes(b"<!DOCTYPE html><html>quota exceeded</html>")
    with pytest.raises(DownloadError, match="is a web page"):
        verified(path, Remote((), None))
    path.write_bytes(BODY)
    with pytest.raises(DownloadError, match="10,240 bytes, 9 are expected"):
        verified(path, Remote((), None, size=9))


def test_a_cut_connection__is_resumed_by_range(web, path):
    half = len(BODY) // 2
    assert fetch(path, web.add("/b", BODY, cut=half)) == SHA256
    assert web.ranges == [None, f"bytes={half}-"]


def test_a_later_call__goes_on_where_an_earlier_one_stopped(web, path):
    half = len(BODY) // 2
    url = web.add("/b", BODY, cut=half)
    web.pages["/b"].cuts = 1

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(path, url, progress=stop)
    assert not path.exists()
    there = path.with_name("birds.tgz.part").stat().st_size
    assert 0 < there <= half
    assert fetch(path, url) == SHA256
    assert web.ranges == [None, f"bytes={there}-"]


def test_without_ranges__it_starts_anew(web, path):
    assert fetch(path, web.add("/b", BODY, cut=100, ranges=False)) == SHA256
    assert web.ranges == [None, "bytes=100-"]


def test_without_checksum_and_validator__it_starts_anew(web, path):
    url = web.add("/b", BODY, cut=100, etag=None)
    assert fetch(path, url, checksum=None) == SHA256
    assert web.ranges == [None, None]


def test_a_file_that_changed_meanwhile__is_fetched_whole(web, path):
    url = web.add("/b", BODY)
    begin_with(path, b"old" * 100, url, validator='"zero"')
    assert fetch(path, url, checksum=None) == SHA256
    assert web.ranges == ["bytes=300-"]


def begin_with(path: Path, part: bytes, url: str, validator: str | None) -> None:
    path.with_name("birds.tgz.part").write_bytes(part)
    state = {"url": url, "validator": validator, "total": len(BODY)}
    path.with_name("birds.tgz.part.json").write_text(json.dumps(state))


def test_a_part_of_another_file__is_dropped_and_fetched_anew(web, path):
    url = web.add("/b", BODY)
    begin_with(path, b"x" * 100, "http://127.0.0.1:1/b", None)
    assert fetch(path, url) == SHA256
    assert web.ranges == ["bytes=100-", None]


def test_a_part_longer_than_the_file__is_dropped(web, path):
    url = web.add("/b", BODY)
    begin_with(path, BODY + b"more", url, '"one"')
    assert fetch(path, url) == SHA256
    assert web.ranges == [f"bytes={len(BODY) + 4}-", None]


def test_a_whole_part__only_takes_its_name(web, path):
    begin_with(path, BODY, "http://127.0.0.1:1/b", None)
    assert fetch(path, web.add("/b", BODY)) == SHA256
    assert web.requests == []


def test_a_damaged_state__does_no_harm(web, path):
    begin_with(path, BODY[:100], "u", None)
    path.with_name("birds.tgz.part.json").write_text("[")
    assert fetch(path, web.add("/b", BODY)) == SHA256


def test_other_bytes__are_refused_and_nothing_is_left(web, path):
    message = refusal(path, web.add("/b", BODY[::-1]))
    assert "has checksum md5:" in message
    assert f"{MD5} is expected" in message
    assert list(path.parent.iterdir()) == []
    assert len(web.requests) == 1


def test_mirrors__are_tried_in_turn(web, path):
    urls = [web.add("/gone", status=404), web.add("/wrong", b"x" * 50), web.add("/b", BODY)]
    assert fetch(path, *urls) == SHA256
    assert [asked for asked, _ in web.requests] == ["/gone", "/wrong", "/b"]


def test_a_mirror__goes_on_with_what_the_first_one_gave(web, path):
    first = web.add("/b", BODY, cut=1000, cuts=9)

    def gone(done: int, total: int | None) -> None:
        web.pages["/b"] = Page(status=404)

    assert fetch(path, first, web.add("/mirror", BODY), progress=gone) == SHA256
    assert web.requests[-1] == ("/mirror", "bytes=1000-")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 404}, "the server answered 404 Not Found (http"),
        ({"status": 403}, "the server answered 403"),
        ({"status": 503}, "the server answered 503"),
        ({"body": b"", "status": 302, "location": "https://a:b@c/d"}, "password"),
        ({"body": b"", "status": 302, "location": "ftp://c/d"}, "no https address"),
        (
            {"body": b"<html><title>Log\n in</title>", "content_type": "text/html"},
            "a web page came instead of the file: 'Log in'",
        ),
        ({"body": b"\n<!doctype HTML><p>quota"}, "a web page came instead"),
        ({"body": b""}, "an empty file came"),
    ],
)  # fmt: skip
def test_what_is_no_file__is_named_in_one_line(web, path, answer, message):
    assert message in refusal(path, web.add("/b", **answer))
    assert list(path.parent.iterdir()) == []


def test_passing_failures__are_tried_three_times(web, path):
    refusal(path, web.add("/b", status=503))
    assert len(web.requests) == 3


def test_another_size_than_published__is_refused_before_it_comes(web, path):
    message = refusal(path, web.add("/b", BODY), size=5)
    assert "10,240 bytes are offered, 5 are expected" in message


def test_no_length_and_nothing_to_verify__is_refused(web, path):
    url = web.add("/b", BODY, length=False)
    for checksum in (None, MD5):
        assert "give its `size` in bytes" in refusal(path, url, checksum=checksum)
    assert fetch(path, url, size=len(BODY)) == SHA256


def test_more_than_the_size__is_refused(web, path):
    message = refusal(path, web.add("/b", BODY, length=False), size=100)
    assert "more than the 100 bytes" in message


def test_a_dead_server__is_one_line(path):
    assert "no connection: Connection refused" in refusal(path, "http://127.0.0.1:1/b")


def test_no_address__is_said(path):
    assert "there is no address of birds.tgz" in refusal(path)


def test_a_silent_server__is_left_after_the_time_limit(web, path):
    began = time.monotonic()
    message = refusal(path, web.add("/b", BODY, delay=30), timeout=0.2)
    assert "no answer for 0.2 seconds" in message
    assert time.monotonic() - began < 10


def test_a_trickling_server__is_left_after_the_time_limit(web, path):
    message = refusal(path, web.add("/b", BODY, delay=0.02), timeout=0.3)
    assert "slower than 1 kB/s for 0.3 seconds" in message
    assert 0 < path.with_name("birds.tgz.part").stat().st_size < 300


class Endless:
    """The same bytes again and again, after some that come once."""

    def __init__(self, first: bytes, again: bytes):
        self.first, self.again = first, again

    def __iter__(self):
        return chain([self.first], repeat(self.again))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        Endless(b"HTTP/1.1", b" "),
        Endless(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        Endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        Endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        Endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"A: b\r\n"),
        Endless(b"HTTP/1.1 404 No\r\nContent-Type: text/html\r\nX: ", b"x"),
    ],
    ids=["status", "header", "continue", "chunk size", "trailers", "error page"],
)
def test_an_answer_that_trickles_on__is_left_after_the_time_limit(path, monkeypatch, answer):
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    with answering(answer, pause=0.002) as url:
        message = refusal(path, url, size=100, timeout=0.15)
    assert "no answer for 0.15 seconds" in message


def test_the_body_of_a_redirect__is_not_read(web, path):
    head = f"HTTP/1.1 302 Found\r\nLocation: {web.add('/b', BODY)}\r\n\r\n".encode()
    with answering(Endless(head, b"x" * 4096), pause=0.001) as url:
        assert fetch(path, url) == SHA256


@pytest.mark.parametrize(
    "location", ["http://[", "http://" + "a" * 100 + ".example/", "http://127.0.0.1:99999/"]
)
def test_a_redirect_to_nowhere__is_one_line(path, location):
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with answering([head]) as url:
        refusal(path, url)


def test_a_range_of_absurd_size__is_tried_again_and_then_refused(path):
    begin_with(path, b"x" * 10, "u", None)
    part = f"Content-Range: bytes 10-19/{'9' * 5000}\r\n\r\n".encode()
    with answering([b"HTTP/1.1 206 Partial Content\r\n" + part]) as url:
        assert "another part than was asked for" in refusal(path, url)


def test_no_space__is_said_before_anything_comes(web, path, monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda path: 100)
    assert "10,240 bytes are still to come, 100 are free" in refusal(path, web.add("/b", BODY))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "has_checksum", "message"),
    [
        ("https://example.org/a", False, None),
        ("http://example.org/a", True, None),
        ("http://127.0.0.1:80/a", False, None),
        ("http://example.org/a", False, "there is no checksum"),
        ("file:///etc/passwd", True, "no https address"),
        ("ftp://example.org/a", True, "no https address"),
        ("https://me:secret@example.org/a", True, "password"),
        ("example.org/a", True, "no https address"),
        ("https:///a", True, "no https address"),
        ("https://[::1", True, "is no address"),
    ],
)
def test_addresses(url, has_checksum, message):
    problem = url_problem(url, has_checksum=has_checksum)
    assert problem is None if message is None else message in problem
    assert "secret" not in (problem or "")


@pytest.mark.parametrize("checksum", [None, MD5])
def test_a_redirect_from_https_to_http__is_refused(checksum):
    """The handler itself: a test has no https server."""
    request = module.urllib.request.Request("https://example.org/a")
    handler = module._Redirects(Remote((), checksum))
    with pytest.raises(DownloadError, match=r"a redirect is refused: .*example.com"):
        handler.redirect_request(request, None, 302, "", Message(), "http://example.com/a")
    followed = handler.redirect_request(request, None, 302, "", Message(), "https://example.com/a")
    assert followed.full_url == "https://example.com/a"


def test_a_redirect__is_followed(web, path):
    url = web.add("/a", status=302, location=web.add("/b", BODY))
    assert fetch(path, url) == SHA256


SCRIPT = """
import sys
from pathlib import Path
from vpt.storage.download import Remote, download
download(Remote((sys.argv[1],), sys.argv[3]), Path(sys.argv[2]), timeout=30)
"""


def test_killed_in_the_middle__the_next_call_goes_on(web: Web, path):
    url = web.add("/b", BODY, delay=0.002)
    words = [sys.executable, "-c", SCRIPT, url, str(path), MD5]
    part = path.with_name("birds.tgz.part")
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(Path.cwd())}) as child:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 100):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    there = part.stat().st_size
    assert not path.exists()
    web.pages["/b"].delay = None
    assert fetch(path, url) == SHA256
    assert web.ranges == [None, f"bytes={there}-"]
