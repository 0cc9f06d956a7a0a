"""Files from the web: resumed, verified, and under their name only when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from vpt.errors import DownloadError
from vpt.storage.atomic_file import free_bytes, write_atomic, write_error
from vpt.storage.paced_http import Pace, paced_handlers

CHECKSUM: Final = r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$"
"""How a published checksum is written."""

Progress = Callable[[int, int | None], None]
"""Takes the bytes that are there, and how many there will be; None: not known."""

_BLOCK = 1 << 20
_ATTEMPTS = 3
_SLOWEST = 1024
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WEB_PAGE = re.compile(
    rb"\s*(<!--|<!doctype\s+html|<html|<head|<\?xml[^>]*>\s*<!doctype\s+html)", re.I
)
_AGENT = "vpt (visual prompt tuning; data sets)"


@dataclass(frozen=True)
class Remote:
    """A file as it was published.

    Attributes:
        urls: where it is, the first preferred; see `url_problem`.
        checksum: see `CHECKSUM`; None: none was published.
        size: in bytes, where known.
    """

    urls: tuple[str, ...]
    checksum: str | None = None
    size: int | None = None


def url_problem(url: str, *, has_checksum: bool) -> str | None:
    """Why nothing is downloaded from an address, or None.

    https is taken, http only where a checksum tells whether the bytes were changed on their way,
    or from this machine itself.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"'{url}' is no address"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"'{url}' is no https address"
    if parts.username or parts.password:
        return f"'{parts.hostname}': an address with a password in it is not used"
    if parts.scheme == "http" and not has_checksum and parts.hostname not in _LOOPBACK:
        return f"'{url}' is http, and there is no checksum to verify what comes; use https"
    return None


def download(
    remote: Remote,
    path: Path,
    *,
    timeout: float = 60.0,
    pause: float = 2.0,
    progress: Progress = lambda done, total: None,
) -> str:
    """Fetch a file unless it is there, and give its SHA-256 (64 hex digits).

    The bytes go to `path` + '.part', which an interruption leaves for the next call to go on with;
    whole and verified it takes its name. A file that is there already is verified and kept.

    Args:
        remote: what to fetch.
        path: where it will be; its folder exists.
        timeout: seconds that a server has to connect, for its status and headers together, and for
            each piece of the file; and that it may be slower than 1 kB/s.
        pause: seconds before the second attempt at an address; doubled before the third.
        progress: is called after each piece.

    Raises:
        DownloadError: no address gives the file, or what is there is something else.
        RunError: it cannot be written.
    """
    if path.exists():
        return verified(path, remote)
    part = _Part(path)
    if part.size and part.size == (remote.size or part.state.get("total")):
        with suppress(DownloadError):  # stopped between the last byte and the new name
            return _finish(part, remote)
    reasons = []
    for url in remote.urls:
        try:
            return _from_url(url, remote, part, timeout=timeout, pause=pause, progress=progress)
        except DownloadError as error:
            reasons.append(str(error))
    raise DownloadError("; ".join(reasons) or f"there is no address of {path.name}")


def verified(path: Path, remote: Remote) -> str:
    """The SHA-256 of a file that is what was published; it is left as it is either way.

    Raises:
        DownloadError: it has another size or checksum, or is a web page.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
        if _WEB_PAGE.match(head) and path.suffix.lower() not in (".html", ".htm", ".xml"):
            raise DownloadError(f"{path} is a web page, not the file; remove it")
        sha256, found = _hashes(path, remote.checksum)
    except OSError as error:
        raise DownloadError(f"{path} cannot be read: {error.strerror or error}") from error
    if remote.checksum is not None and found != remote.checksum:
        raise DownloadError(
            f"{path} has checksum {found}, {remote.checksum} is expected: it is damaged or another "
            "version; remove it"
        )
    if remote.checksum is None and remote.size not in (None, size):
        raise DownloadError(f"{path} has {size:,} bytes, {remote.size:,} are expected; remove it")
    return sha256


def _hashes(path: Path, checksum: str | None) -> tuple[str, str]:
    """(SHA-256, the checksum of the kind that was published)."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum is None or checksum.startswith("sha256:"):
        return sha256, f"sha256:{sha256}"
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            md5.update(block)
    return sha256, f"md5:{md5.hexdigest()}"


class _Part:
    """The bytes so far, and beside them what tells whether a server still means the same file."""

    def __init__(self, path: Path):
        self.final = path
        self.path = path.with_name(path.name + ".part")
        self._state = path.with_name(path.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def begin(self, url: str, validator: str | None, total: int | None) -> None:
        """Forget the bytes so far; remember what comes."""
        self.drop()
        state = {"url": url, "validator": validator, "total": total}
        write_atomic(self._state, [json.dumps(state).encode()])

    def drop(self) -> None:
        for path in (self.path, self._state):
            path.unlink(missing_ok=True)

    def take_name(self) -> None:
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self.final)
        self._state.unlink(missing_ok=True)


class _Passing(Exception):  # noqa: N818 - a reason to try again, never seen outside
    """Something that may be gone the next time."""


def _from_url(
    url: str, remote: Remote, part: _Part, *, timeout: float, pause: float, progress: Progress
) -> str:
    problem = url_problem(url, has_checksum=remote.checksum is not None)
    if problem:
        raise DownloadError(problem)
    reason, failures = "", 0
    while failures < _ATTEMPTS:
        if failures:
            time.sleep(pause * 2 ** (failures - 1))
        before = part.size
        try:
            resumed = _transfer(url, remote, part, timeout, progress)
        except _Passing as passing:
            reason = str(passing)
            failures = 1 if part.size - before >= _BLOCK else failures + 1
            continue
        try:
            return _finish(part, remote)
        except DownloadError as error:
            if not resumed:  # all of it from one answer, and yet something else
                raise
            # Two versions may have met in it: once more, from the start.
            reason, failures = str(error), failures + 1
    raise DownloadError(f"{reason} ({url})")


def _finish(part: _Part, remote: Remote) -> str:
    """Verify the bytes, and give them their name; if they are others, they are dropped."""
    try:
        sha256 = verified(part.path, remote)
    except DownloadError as error:
        part.drop()
        raise DownloadError(str(error).removesuffix("; remove it")) from error
    part.take_name()
    return sha256


def _transfer(url: str, remote: Remote, part: _Part, timeout: float, progress: Progress) -> bool:
    """Bring the part to its full length; what came before a failure stays in it.

    Returns:
        Whether some of the bytes were there before.

    Raises:
        _Passing: a failure that another attempt may not meet.
        DownloadError: any other.
    """
    request, offset = _request(url, remote, part)
    pace = Pace(timeout)
    try:
        with _opener(remote, pace).open(request, timeout=timeout) as response:
            total = _begin(url, remote, part, response, offset)
            _receive(response, part, total, pace, progress)
            return bool(response.status == 206)
    except urllib.error.HTTPError as error:
        _refused(error, url, part)
    except urllib.error.URLError as error:
        reason = error.reason
        text = getattr(reason, "strerror", None) or str(reason)
        raise _Passing(f"no connection: {' '.join(text.split())}") from error
    except TimeoutError as error:
        raise _Passing(f"no answer for {timeout:g} seconds") from error
    except ValueError as error:  # an address, of a redirect too, that is none after all
        reason = " ".join(str(error).split())
        raise DownloadError(f"no address to ask: {reason:.200} ({url})") from error
    except (http.client.HTTPException, ConnectionError) as error:
        raise _Passing(f"the connection was cut ({type(error).__name__})") from error


def _request(url: str, remote: Remote, part: _Part) -> tuple[urllib.request.Request, int]:
    """A request for what is missing, and the bytes that are there."""
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    # Else a server might unpack the archive on its way, and no checksum would hold.
    request.add_header("Accept-Encoding", "identity")
    state, offset = part.state, part.size
    validator = state.get("validator") if state.get("url") == url else None
    if not offset or not (validator or remote.checksum):
        return request, 0
    request.add_header("Range", f"bytes={offset}-")
    if validator:
        request.add_header("If-Range", str(validator))
    return request, offset


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects are followed where they keep what the first address promised."""

    def __init__(self, remote: Remote):
        self._has_checksum = remote.checksum is not None

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        problem = url_problem(newurl, has_checksum=self._has_checksum)
        if problem is None and req.type == "https" and urlsplit(newurl).scheme != "https":
            problem = f"from https to http ({newurl})"
        if problem:
            raise DownloadError(f"a redirect is refused: {problem} ({req.full_url})")
        if fp is not None:  # else its body is read, which may have no end
            fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(remote: Remote, pace: Pace) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects(remote), *paced_handlers(pace))


def _begin(url: str, remote: Remote, part: _Part, response: Any, offset: int) -> int:
    """Make the part ready for the answer; its full length in bytes, of which no more is taken."""
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(f"a web page came instead of the file{_title(response)} ({url})")
    if response.status == 206:
        found = re.fullmatch(
            r"bytes (\d{1,18})-\d+/(\d{1,18})", response.headers.get("Content-Range", "")
        )
        if found is None or int(found[1]) != offset:
            part.drop()
            raise _Passing("the server answered with another part than was asked for")
        total: int | None = int(found[2])
    else:
        total = response.length
        offset = 0
    if total is None and remote.size is None:
        raise DownloadError(
            "the server does not say how long the file is, so it could go on for ever; give its "
            f"`size` in bytes ({url})"
        )
    if total is not None and remote.size is not None and total != remote.size:
        raise DownloadError(f"{total:,} bytes are offered, {remote.size:,} are expected ({url})")
    total = remote.size if total is None else total
    assert total is not None
    _check_space(part.path, total - offset)
    if response.status != 206:
        part.begin(url, _validator(response.headers), total)
    return total


def _validator(headers: Any) -> str | None:
    """A strong ETag, or the time of the last change: what If-Range may compare."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    changed = headers.get("Last-Modified")
    return None if changed is None else str(changed)


def _title(response: Any) -> str:
    with suppress(OSError, http.client.HTTPException):
        page = response.read(65536).decode("utf-8", errors="replace")
        found = re.search(r"<title[^>]*>(.*?)</title>", page, re.I | re.S)
        title = " ".join(re.sub(r"[^\x20-\x7e\s]", "?", found[1]).split()) if found else ""
        return f": '{title[:80]}'" if title else ""
    return ""


def _check_space(path: Path, need: int) -> None:
    free = free_bytes(path)
    if need > free:
        raise DownloadError(
            f"no space for {path}: {need:,} bytes are still to come, {free:,} are free"
        )


def _receive(response: Any, part: _Part, total: int, pace: Pace, progress: Progress) -> None:
    done, timeout = part.size, pace.seconds
    pace.extend()
    window_began, window_start = time.monotonic(), done
    try:
        with part.path.open("ab", buffering=0) as file:
            while block := response.read1(_BLOCK):
                if not done and _WEB_PAGE.match(block):
                    raise DownloadError("a web page came instead of the file")
                done += len(block)
                if done > total:
                    part.drop()
                    raise DownloadError(f"more than the {total:,} bytes of the file came")
                _write(file, block, part.path)
                progress(done, total)
                pace.extend()
                if time.monotonic() - window_began > timeout:
                    if done - window_start < _SLOWEST * timeout:
                        raise _Passing(f"slower than 1 kB/s for {timeout:g} seconds")
                    window_began, window_start = time.monotonic(), done
    finally:
        if not part.size:
            part.drop()
    if not done and not total:
        raise DownloadError("an empty file came")
    if done < total:
        raise _Passing(f"the connection was cut after {done:,} of {total:,} bytes")


def _write(file: Any, block: bytes, path: Path) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise write_error(path, error, len(block)) from error


def _refused(error: urllib.error.HTTPError, url: str, part: _Part) -> NoReturn:
    with error:
        if error.code == 416:  # longer than what is there now, or of another file
            part.drop()
            raise _Passing("the file is another than the one that was begun") from error
        text = f"the server answered {error.code} {error.reason:.200}".strip()
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Passing(text) from error
        raise DownloadError(f"{text} ({url})") from error


def file_name(urls: Sequence[str]) -> str:
    """The last part of the first address, without its query."""
    return urlsplit(urls[0]).path.rpartition("/")[2] if urls else ""
