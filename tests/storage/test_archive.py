from __future__ import annotations

import bz2
import gzip
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpt.errors import DataError
from vpt.storage.archive import Limits, is_archive, new_folder, unpack

Entry = tuple[str, bytes | None]
"""Name and content; None: a folder."""

BIRDS: list[Entry] = [("birds", None), ("birds/a.txt", b"one"), ("birds/deep/b.txt", b"two")]


def make_tar(path: Path, entries: list[Entry], **fields) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def make_zip(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(f"{name}/" if content is None else name, content or b"")
    return path


def packed(folder: Path, suffix: str, entries: list[Entry]) -> Path:
    path = folder / f"birds{suffix}"
    if suffix == ".zip":
        return make_zip(path, entries)
    plain = make_tar(folder / "plain", entries).read_bytes()
    compress = {".tar": bytes, ".tar.bz2": bz2.compress}.get(suffix, gzip.compress)
    path.write_bytes(compress(plain))
    return path


def unpacked(archive: Path, **given) -> dict[str, bytes]:
    """What an archive holds, once it is in a folder of its own."""
    target = archive.parent / "target"
    with new_folder(target) as folder:
        unpack(archive, folder, **given)
    files = (path for path in target.rglob("*") if path.is_file())
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in files}


def refusal(archive: Path, **given) -> str:
    with pytest.raises(DataError) as caught:
        unpacked(archive, **given)
    assert "\n" not in str(caught.value)
    names = {path.name for path in archive.parent.iterdir()} - {"plain", archive.name}
    assert names == set(), "nothing may be left of it"
    return str(caught.value)


SUFFIXES = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive__is_unpacked_whole_or_one_folder_of_it(tmp_path, suffix):
    archive = packed(tmp_path, suffix, [*BIRDS, ("notes.txt", b"three")])
    assert unpacked(archive) == {
        "birds/a.txt": b"one",
        "birds/deep/b.txt": b"two",
        "notes.txt": b"three",
    }
    (tmp_path / "target").rename(tmp_path / "before")
    assert unpacked(archive, take="birds") == {"a.txt": b"one", "deep/b.txt": b"two"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.txt", "leads outside"),
        ("birds/../../evil.txt", "leads outside"),
        ("/etc/evil.txt", "is an absolute path"),
        ("C:evil.txt", "a drive"),
        ("birds\\..\\evil.txt", "a backslash"),
        ("evil\n.txt", "not printable"),
        ("birds/A.txt", "and 'birds/a.txt' differ in case alone"),
        ("Birds/c.txt", "and 'birds' differ in case alone"),
        ("birds/a.txt", "is there twice"),
        ("./birds//a.txt", "is there twice"),
        ("birds/a.txt/c.txt", "is both a file and a folder"),
        ("birds/deep", "is both a file and a folder"),
    ],
)
def test_a_name_that_is_no_place_inside__is_refused(tmp_path, suffix, name, message):
    if suffix == ".zip" and name == "birds/a.txt":
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive = packed(tmp_path, suffix, [*BIRDS, (name, b"evil")])
    else:
        archive = packed(tmp_path, suffix, [*BIRDS, (name, b"evil")])
    assert message in refusal(archive)
    assert not (tmp_path.parent / "evil.txt").exists()


def test_a_drive_of_one_letter_is_no_folder_called_so(tmp_path):
    assert unpacked(packed(tmp_path, ".tar", [("c/a.txt", b"1")])) == {"c/a.txt": b"1"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices__are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "a.tar", [("birds/link", b"")], type=kind, linkname="/etc/passwd")
    assert "'birds/link' is neither a file nor a folder" in refusal(archive)


def test_a_symbolic_link_in_a_zip__is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "'link' is neither a file nor a folder" in refusal(tmp_path / "a.zip")


def test_a_link_in_the_way__is_not_followed(tmp_path):
    """Whoever can write to the folder meanwhile gains nothing."""
    archive, outside = packed(tmp_path, ".tar", [("a.txt", b"new")]), tmp_path / "outside"
    outside.write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").symlink_to(outside)
    with pytest.raises(DataError, match="is there already"):
        unpack(archive, tmp_path / "folder")
    assert outside.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_too_many_entries__are_refused(tmp_path, suffix):
    archive = packed(tmp_path, suffix, [(f"{n}.txt", b"") for n in range(9)])
    assert "holds more than 8 files and folders" in refusal(archive, limits=Limits(entries=8))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz", ".tar.bz2"])
@pytest.mark.parametrize("take", ["", "elsewhere"])
def test_a_bomb__is_refused_at_the_limit(tmp_path, suffix, take):
    archive = packed(tmp_path, suffix, [("zeros", bytes(20_000_000)), ("elsewhere/a", b"1")])
    assert archive.stat().st_size < 50_000
    message = refusal(archive, take=take, limits=Limits(small=5_000_000))
    assert "unpacks to more than 5,000,000 bytes" in message


def test_limits__grow_with_the_archive():
    limits = Limits(size=1000, ratio=10, small=50)
    assert [limits.bytes_of(size) for size in (1, 20, 1000)] == [50, 200, 1000]


def test_a_header_of_many_bytes__is_refused_before_it_is_read(tmp_path):
    """A pax header is read into memory as a whole."""
    member = tarfile.TarInfo("h")
    member.type, member.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    assert "a header of 1,099,511,627,776 bytes" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_archive__is_damaged_wherever_it_was_cut(tmp_path, suffix):
    content = os.urandom(3000)
    archive = packed(tmp_path, suffix, [("a", content), ("b", content)])
    whole = archive.read_bytes()
    ends = [0, 1, 100, 512, 1024, 3000, 3584, 4096, len(whole) // 2]
    ends += [] if suffix == ".tar" else [len(whole) - 1]  # whose end is zeros to spare
    for end in ends:
        if end >= len(whole):
            continue
        archive.write_bytes(whole[:end])
        assert "damaged or no archive" in refusal(archive)


def test_a_damaged_entry_in_the_middle__is_no_end(tmp_path):
    archive = packed(tmp_path, ".tar", [("a", b"1"), ("b", b"2")])
    data = bytearray(archive.read_bytes())
    data[1024 + 5] ^= 1  # in the head of the second entry
    archive.write_bytes(data)
    assert "an entry is damaged" in refusal(archive)


def test_a_zip_with_a_password_or_other_bytes__is_refused(tmp_path):
    archive = packed(tmp_path, ".zip", [("a", b"123456789" * 9)])
    data = bytearray(archive.read_bytes())
    locked = bytearray(data)
    locked[6] |= 1
    locked[data.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(locked)
    assert "encrypted" in refusal(archive)
    data[34] ^= 255  # of the content
    archive.write_bytes(data)
    assert "damaged or no archive" in refusal(archive)


def test_no_archive_or_nothing_wanted__is_named(tmp_path):
    (tmp_path / "a.tgz").write_bytes(b"<html>")
    assert "damaged or no archive" in refusal(tmp_path / "a.tgz")
    (tmp_path / "a.tgz").unlink()
    archive = packed(tmp_path, ".tar", BIRDS)
    assert "holds no file in its folder 'cats'" in refusal(archive, take="cats")
    assert "holds no file" in refusal(archive, take="bird")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4),
    data=st.data(),
)
def test_any_damage__is_unpacked_inside_or_refused_in_one_line(tmp_path, flips, data):
    suffix = data.draw(st.sampled_from(SUFFIXES))
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    archive = packed(folder, suffix, BIRDS)
    content = bytearray(archive.read_bytes())
    for place, change in flips:
        content[place % len(content)] ^= change
    archive.write_bytes(content)
    message = ""
    try:
        unpacked(archive, limits=Limits(small=10**7))
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert {path.name for path in folder.iterdir()} <= {"plain", archive.name, "target"}


def test_names_of_archives():
    assert [is_archive(f"A{suffix.upper()}") for suffix in SUFFIXES] == [True] * 5
    assert not is_archive("labels.mat")
    assert not is_archive("a.gz")


# Folders that are there as a whole or not at all


def test_a_new_folder__has_its_name_only_at_the_end(tmp_path):
    target = tmp_path / "data" / "birds"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["birds"]


def test_an_error_on_the_way__leaves_nothing(tmp_path):
    def fill() -> None:
        with new_folder(tmp_path / "birds") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there__is_kept(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/mine").touch()
    with pytest.raises(DataError, match="birds is there already"), new_folder(tmp_path / "birds"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["birds", "mine"]


SCRIPT = """
import sys, time
from pathlib import Path
from vpt.storage.archive import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("1")
    time.sleep(600)
"""


def test_killed_in_the_middle__the_next_call_removes_what_was_left(tmp_path):
    target = tmp_path / "birds"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, target], env=environment) as child:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".birds.*/a")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert not target.exists()
    with new_folder(target) as folder:
        (folder / "b").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["birds", "b"]
