"""Files that are read whole are regular ones, and not too large."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpt.config import load_yaml
from vpt.data import load_descriptor, read_splits
from vpt.data.readers.parts import read_json, text_rows
from vpt.errors import VptError
from vpt.storage.whole_file import open_regular, read_whole, read_whole_text
from vpt.text import resolve_templates


def test_a_file_or_a_link_to_it__is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf\xc3\xa4b")
    (tmp_path / "link").symlink_to("a")
    assert read_whole(tmp_path / "link", most=6) == b"\xef\xbb\xbf\xc3\xa4b"
    assert read_whole_text(tmp_path / "a") == "äb"


def test_a_file_of_the_kernel_that_says_it_is_empty__is_read_and_bounded():
    path = Path("/proc/self/status")
    assert b"Name:" in read_whole(path, most=100_000)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_whole(path, most=10)


def test_a_file_of_more_bytes__is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_whole(tmp_path / "sparse", most=1_000)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file__is_refused_and_not_waited_for(kind, tmp_path):
    path = {"device": Path("/dev/zero"), "pipe": tmp_path / "pipe", "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match="not a file"):
        open_regular(path)
    for read in (load_yaml, read_json, resolve_templates):
        with pytest.raises(VptError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(VptError):
        text_rows(path, fields=1, what="path")


@pytest.mark.parametrize("layout", ["format: csv", "format: split_zhou"])
def test_a_device_that_a_descriptor_names__is_refused(layout, tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text(f"name: d\nroot: {tmp_path}\nfile: /dev/zero\n{layout}\n")
    with pytest.raises(VptError, match="/dev/zero"):
        read_splits(load_descriptor(path))


def test_a_path_with_a_nul__is_one_line(tmp_path):
    with pytest.raises(ValueError, match="null"):
        read_whole(Path("a\0b"), most=9)
    with pytest.raises(VptError):
        read_json(Path("a\0b"))
