"""Files that have their name only when they are whole."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from contextlib import contextmanager

import pytest

import vpt.storage.atomic_file
from vpt.errors import RunError
from vpt.storage.atomic_file import atomic_stream, is_leftover, write_atomic, write_new


@contextmanager
def disk_of(size):
    """No file may grow beyond so many bytes; Python makes an error of the system's refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_stream(path, content):
    with atomic_stream(path) as stream:
        for start in range(0, len(content), 1000):
            stream.write(content[start : start + 1000])


WRITERS = {
    "write_atomic": lambda path, content: write_atomic(path, [content[:7], content[7:]]),
    "atomic_stream": write_stream,
    "write_new": write_new,
}
REPLACING = ("write_atomic", "atomic_stream")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 5, 100_000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file__holds_all_that_was_written(writer, size, tmp_path):
    content = os.urandom(size)
    WRITERS[writer](tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == content
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("room", [0, 10, 50_000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk__leaves_what_was_there__and_is_one_line(writer, room, tmp_path):
    if writer in REPLACING:
        (tmp_path / "a").write_bytes(b"old")
    before = names(tmp_path)
    with disk_of(room), pytest.raises(RunError, match=r"cannot write .*a: File too large") as error:
        WRITERS[writer](tmp_path / "a", bytes(100_000))
    assert "\n" not in str(error.value)
    assert names(tmp_path) == before
    assert not before or (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, BrokenPipeError])
def test_an_error_while_a_stream_is_open__is_raised_as_it_is__and_writes_nothing(error, tmp_path):
    def fail():
        with atomic_stream(tmp_path / "a") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def _killed(path):
    with atomic_stream(path) as stream:
        stream.write(bytes(50_000))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer__leaves_the_old_bytes__and_a_file_that_is_known_as_left_over(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert (tmp_path / "a").read_bytes() == b"old"
    leftover, _ = names(tmp_path)
    assert is_leftover(leftover)


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("kind", ["a file", "a link", "a link to nothing", "a folder"])
def test_what_exists__is_never_replaced_by_a_new_file(kind, has_links, tmp_path, monkeypatch):
    if not has_links:
        monkeypatch.setattr(vpt.storage.atomic_file.os, "link", _refusing)
    other, path = tmp_path / "other", tmp_path / "a"
    other.write_bytes(b"other")
    {
        "a file": lambda: path.write_bytes(b"old"),
        "a link": lambda: path.symlink_to(other),
        "a link to nothing": lambda: path.symlink_to(tmp_path / "nothing"),
        "a folder": path.mkdir,
    }[kind]()
    before = path.lstat()
    with pytest.raises(FileExistsError):
        write_new(path, b"new")
    assert path.lstat() == before
    assert names(tmp_path) == ["a", "other"]
    write_new(tmp_path / "b", b"new")
    assert (tmp_path / "b").read_bytes() == b"new"


def _refusing(*args, **options):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("writer", REPLACING)
def test_a_pipe__is_written_to_and_not_replaced(writer, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    WRITERS[writer](tmp_path / "pipe", b"x" * 3000)
    reader.join()
    assert read == [b"x" * 3000]
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("letter", ["n", "ü", "名"])
def test_the_longest_name__has_room_for_a_temporary_one(letter, writer, tmp_path):
    name = letter * (255 // len(letter.encode()))
    WRITERS[writer](tmp_path / name, b"x")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_missing_folder__is_named(writer, tmp_path):
    with pytest.raises(RunError, match=r"its folder .*nowhere does not exist"):
        WRITERS[writer](tmp_path / "nowhere/a", b"x")
