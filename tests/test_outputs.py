"""Files that predictions are written to, and inputs that are no files."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.fixtures import make_image
from tests.storage.test_atomic_file import disk_of
from vpt.api import create_detector, create_model, save_prompt
from vpt.cli import main
from vpt.data import read_image
from vpt.errors import DataError, RunError
from vpt.runs import opened, write_predictions


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a classifier's prompt file, a detector's, and twenty images."""
    folder = tmp_path_factory.mktemp("place")
    model = create_model("bundled/glyph_vit", "vpt_deep", num_classes=3)
    save_prompt(model, folder / "prompt.safetensors")
    detector = create_detector("bundled/glyph_vit", "vpt_deep", num_classes=2, image_size=64)
    save_prompt(detector, folder / "detector.safetensors")
    (folder / "images").mkdir()
    for number in range(20):
        make_image(number).save(folder / f"images/{number:02}.png")
    return folder


def predict(*words):
    with pytest.raises(SystemExit) as left:
        main(["predict", *map(str, words)])
    return left.value.code


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [(), ("--format", "jsonl")])
def test_rows_for_which_the_disk_has_no_room__leave_the_file_before(
    options, place, tmp_path, capsys
):
    output = tmp_path / "rows"
    output.write_text("old")
    with disk_of(500):
        code = predict(place / "prompt.safetensors", place / "images", "--output", output, *options)
    assert code == 2
    # A slow machine is told before what it waits for.
    assert capsys.readouterr().err.endswith(f"vpt: cannot write {output}: File too large\n")
    assert output.read_text() == "old"
    assert names(tmp_path) == ["rows"]


def test_pictures_and_records_for_which_the_disk_has_no_room__are_whole_or_not_there(
    place, tmp_path
):
    images = sorted((place / "images").iterdir())
    whole = tmp_path / "whole"
    write_predictions(place / "detector.safetensors", images[:3], min_score=0,
                      output=tmp_path / "rows", pictures=whole)  # fmt: skip
    sizes = [path.stat().st_size for path in sorted(whole.iterdir())]
    with disk_of(min(sizes) - 1), pytest.raises(RunError, match=r"cut/00\.jpg: File too large"):
        write_predictions(place / "detector.safetensors", images[:3], min_score=0,
                          output=tmp_path / "other", pictures=tmp_path / "cut")  # fmt: skip
    assert names(tmp_path / "cut") == []
    room = (tmp_path / "rows").stat().st_size + 1
    with disk_of(room), pytest.raises(RunError, match=r"coco\.json: File too large"):
        write_predictions(place / "detector.safetensors", images[:3], min_score=0,
                          output=tmp_path / "other", coco=tmp_path / "coco.json")  # fmt: skip
    assert names(tmp_path) == ["cut", "other", "rows", "whole"]


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_full_standard_output__is_one_line(rows, capfd, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        refused = pytest.raises(RunError, match="standard output cannot be written: No space left")
        with refused, opened(None) as stream:
            stream.write("a row\n" * rows)
        # It is /dev/null from here on, so that the end of the process has nothing to say.
        monkeypatch.undo()
    assert capfd.readouterr() == ("", "")


def _ask_to_end(output):
    try:
        with opened(output) as stream:
            stream.write("half")
            os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        os._exit(130)


def test_a_signal__leaves_neither_the_file_nor_its_beginning(tmp_path):
    work = multiprocessing.get_context("fork").Process(
        target=_ask_to_end, args=(tmp_path / "rows",)
    )
    work.start()
    work.join(30)
    assert work.exitcode == 130
    assert names(tmp_path) == []


def test_a_link__is_written_through__to_the_file_that_it_names(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with opened(tmp_path / "link") as stream:
        stream.write("né\udce9w")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"n\xc3\xa9\xe9w"


@pytest.fixture
def odd(tmp_path):
    """name -> what is no regular file."""
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(tmp_path)  # the address of a socket is short
        listener.bind("socket.png")
        os.chdir(before)
        (tmp_path / "device.png").symlink_to("/dev/zero")
        (tmp_path / "terminal.png").symlink_to("/dev/ptmx")
        (tmp_path / "lost.png").symlink_to("nowhere.png")
        yield tmp_path


REASONS = {
    "pipe.png": "a pipe, socket or device, not an image",
    "socket.png": "a pipe, socket or device, not an image",
    "device.png": "a pipe, socket or device, not an image",
    "terminal.png": "a pipe, socket or device, not an image",
    "lost.png": "a link to a file that is not there",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_file__is_not_read__and_never_waited_for(name, odd):
    with pytest.raises(DataError, match=f"{name}: {REASONS[name]}"):
        read_image(odd / name)


@pytest.mark.timeout(30)
def test_what_is_no_file__has_its_row(odd, place, tmp_path, capsys):
    paths = [place / "images/00.png", *(odd / name for name in REASONS)]
    assert predict(place / "prompt.safetensors", *paths, "--output", tmp_path / "rows") == 2
    rows = (tmp_path / "rows").read_text().splitlines()[1:]
    assert len(rows) == len(paths)
    for row, path in zip(rows[1:], paths[1:], strict=True):
        assert row.startswith(f"{path},,")
        assert REASONS[path.name] in row
    assert "5 of 6 images could not be read" in capsys.readouterr().err


@pytest.mark.timeout(30)
def test_a_folder__gives_a_row_for_a_link_to_nothing(odd, place, tmp_path, capsys):
    make_image(0).save(odd / "good.png")
    assert predict(place / "prompt.safetensors", odd, "--output", tmp_path / "rows.csv") == 2
    listed = [row.split(",")[0] for row in (tmp_path / "rows.csv").read_text().splitlines()[1:]]
    assert [Path(path).name for path in listed] == ["good.png", "lost.png"]
