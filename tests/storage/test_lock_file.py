"""Locks: one holder, no other file touched."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch

import vpt.engine.device
import vpt.storage.lock_file
from vpt.data.loading.decoded import _only_builder
from vpt.engine.run_dir import open_run_directory
from vpt.errors import RunError
from vpt.runs.getting import _alone
from vpt.storage.lock_file import lock, open_lock_file


def take_run_directory(folder):
    open_run_directory(folder, mode="resume").close()
    return folder / ".lock"


def take_downloads(folder):
    with _alone(folder):
        return folder / ".lock"


def take_decoded(folder):
    with _only_builder(folder / "images"):
        return folder / ".images.lock"


TAKERS = [take_run_directory, take_downloads, take_decoded]


def put_link(path, foreign):
    path.symlink_to(foreign)


def put_second_name(path, foreign):
    os.link(foreign, path)


def put_fifo(path, foreign):
    os.mkfifo(path)


def put_folder(path, foreign):
    path.mkdir()


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (put_link, "is a link"),
        (put_second_name, "has another name"),
        (put_fifo, "is no regular file"),
        (put_folder, "is no regular file"),
    ],
)
def test_something_else_in_the_locks_place__is_refused__and_nothing_is_changed(
    take, put, reason, tmp_path
):
    foreign = tmp_path / "thesis.txt"
    foreign.write_text("years of work")
    folder = tmp_path / "folder"
    folder.mkdir()
    name = take(folder).name
    (folder / name).unlink(missing_ok=True)
    put(folder / name, foreign)
    with pytest.raises(RunError, match=f"{name} {reason} and is not used as a lock; remove it"):
        take(folder)
    assert foreign.read_text() == "years of work"
    assert os.path.lexists(folder / name)


@pytest.mark.parametrize("take", TAKERS)
def test_a_link_to_nothing__makes_no_file(take, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    name = take(folder).name
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "new")
    with pytest.raises(RunError, match="is a link"):
        take(folder)
    assert not (tmp_path / "new").exists()


def test_a_lock__has_one_holder__until_it_is_closed(tmp_path):
    first, second = (open_lock_file(tmp_path / "a") for _ in range(2))
    lock(first, wait=False)
    with pytest.raises(BlockingIOError):
        lock(second, wait=False)
    os.close(first)
    lock(second, wait=True)
    os.close(second)


def loaded_again(module):
    """The module as another system would load it."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


def test_without_the_modules_of_unix__the_package_can_be_imported(monkeypatch):
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    assert loaded_again(vpt.storage.lock_file).fcntl is None
    assert loaded_again(vpt.engine.device).peak_memory_bytes(torch.device("cpu")) == 0
