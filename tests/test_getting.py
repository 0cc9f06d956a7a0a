"""`vpt data get`, from a descriptor to a data set that is read, on a server of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from tests.data.fine_grained_layouts import MAKERS
from tests.fixtures import make_folder
from tests.storage.web import Page, Web, serving
from tests.test_cli import fails_in_one_line, run
from vpt.config import dump
from vpt.data import load_descriptor
from vpt.data.descriptor import Counts, Descriptor
from vpt.engine.progress import bytes_progress
from vpt.errors import VptError
from vpt.runs import get_dataset
from vpt.runs.getting import FILES_JSON, find_descriptor

ROOT = Path(__file__).parents[1]


@pytest.fixture
def web():
    with serving() as web:
        yield web


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """The working directory, with a folder datasets/ of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets").mkdir()
    return tmp_path


def get(name: str, **given) -> list[str]:
    """What the command says."""
    lines: list[str] = []
    console = Console(file=io.StringIO())
    get_dataset(name, log=lines.append, console=console, pause=0.0, **{"timeout": 5.0, **given})
    return lines


def refusal(name: str, **given) -> str:
    with pytest.raises(VptError) as caught:
        get(name, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tarred(folder: Path, name: str) -> bytes:
    """A folder as a .tar.gz in which it has another name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(folder, name)
    return file.getvalue()


def describe(name: str, files: list[dict], **fields) -> Path:
    values = {
        "name": "Photos",
        "format": "folder",
        "root": "data/photos",
        "source": "https://a.org",
    }
    descriptor = Descriptor.model_validate({**values, "files": files, **fields})
    path = Path("datasets") / f"{name}.yaml"
    path.write_text(dump(descriptor))
    return path


def photos(web: Web, place: Path, *, checksum: bool = True, **fields) -> bytes:
    """A data set 'photos' in one archive on the server."""
    make_folder(place / "made")
    body = tarred(place / "made", "photos-v1")
    file = {"url": web.add("/photos.tar.gz", body), "take": "photos-v1"}
    if checksum:
        file["checksum"] = "sha256:" + hashlib.sha256(body).hexdigest()
    describe("photos", [file], **fields)
    return body


DOWNLOADED = Path("data/downloads/photos/photos.tar.gz")


def test_a_data_set__is_fetched_unpacked_read_and_told(web, place):
    photos(web, place)
    lines = get("photos")
    assert lines[-2] == "Photos is in data/photos: 2 classes; images: train 6, val 6, test 6"
    assert lines[-1] == "the downloads in data/downloads/photos/ may be removed"
    assert sorted(path.name for path in Path("data/photos").iterdir()) == [
        "test",
        "train",
        "val",
        FILES_JSON,
    ]
    record = json.loads((Path("data/photos") / FILES_JSON).read_text())
    assert record[0]["name"] == "photos.tar.gz"
    assert record[0]["verified"] == f"sha256:{record[0]['sha256']}"


def test_the_same_command_again__does_nothing_and_says_so(web, place):
    photos(web, place)
    get("photos")
    shutil.rmtree("data/downloads")
    web.requests.clear()
    before = sorted(Path("data").rglob("*"))
    assert get("photos") == [
        "nothing to fetch: Photos is in data/photos: 2 classes; images: train 6, val 6, test 6"
    ]
    assert web.requests == []
    assert sorted(Path("data").rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "cub_200_2011"])
def test_a_descriptor_of_the_project__is_got_from_its_files(name, web, place):
    """The shipped `files`, with addresses here and the checksums of what is made here."""
    shipped = load_descriptor(ROOT / "datasets" / f"{name}.yaml")
    MAKERS[name](place / "made")
    files = []
    rest = sorted((place / "made").iterdir())
    for file in shipped.files:
        if file.file_name.endswith(".mat"):
            body = (place / "made" / file.file_name).read_bytes()
        else:
            wanted = _content_of(file.file_name, rest, shipped.files)
            body = _packed(file.file_name, wanted, file.take)
        checksum = "md5:" + hashlib.md5(body).hexdigest()
        url = web.add(f"/{file.file_name}", body)
        files.append(file.model_copy(update={"url": url, "checksum": checksum, "size": len(body)}))
    changes = {"files": files, "counts": Counts()}
    (place / "datasets" / f"{name}.yaml").write_text(dump(shipped.model_copy(update=changes)))
    lines = get(name)
    assert f"{shipped.name} is in {shipped.root}: " in lines[-2]
    assert "images: train " in lines[-2]
    assert get(name)[0].startswith("nothing to fetch: ")


def _content_of(name: str, rest: list[Path], files: list) -> list[Path]:
    """What of the made data goes into which archive: by its beginning, or all of it."""
    folders = {"lists.tar": "mat", "images.tar": "Images", "102flowers.tgz": "jpg"}
    folders |= {"cars_train.tgz": "cars_train", "cars_test.tgz": "cars_test"}
    folders |= {"car_devkit.tgz": "devkit", "images.tar.gz": "images"}
    folders |= {"annotations.tar.gz": "annotations"}
    wanted = folders.get(name)
    if wanted is None:
        assert len(files) == 1
        return rest
    return [path for path in rest if path.name == wanted or path.suffix == f".{wanted}"]


def _packed(name: str, paths: list[Path], take: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w" if name.endswith(".tar") else "w:gz") as archive:
        for path in paths:
            archive.add(path, f"{take}/{path.name}" if take else path.name)
    return file.getvalue()


def test_the_folder_can_be_named(web, place):
    photos(web, place)
    lines = get("photos", to=Path("elsewhere/mine"))
    assert lines[-3].startswith("Photos is in elsewhere/mine: ")
    assert lines[-1] == "use them with data.root=elsewhere/mine"
    assert Path("elsewhere/downloads/mine/photos.tar.gz").is_file()
    assert not Path("data").exists()
    for name in (".", "..", "/"):
        assert "is no folder of its own; name one with --to" in refusal("photos", to=Path(name))


def test_a_file_put_there_by_hand__is_verified_and_taken(web, place):
    body = photos(web, place)
    DOWNLOADED.parent.mkdir(parents=True)
    DOWNLOADED.write_bytes(body)
    assert f"{DOWNLOADED} is there already, verifying it" in get("photos")
    assert web.requests == []


def test_a_wrong_file_put_there_by_hand__is_named_and_kept(web, place):
    photos(web, place)
    DOWNLOADED.parent.mkdir(parents=True)
    DOWNLOADED.write_bytes(b"something else")
    assert f"{DOWNLOADED} has checksum sha256:" in refusal("photos")
    assert DOWNLOADED.read_bytes() == b"something else"
    assert not Path("data/photos").exists()


def test_without_a_published_checksum__what_came_is_told_and_kept(web, place):
    sha256 = hashlib.sha256(photos(web, place, checksum=False)).hexdigest()
    assert f"no checksum of photos.tar.gz was published; it has sha256:{sha256}" in get("photos")
    record = json.loads((Path("data/photos") / FILES_JSON).read_text())
    assert (record[0]["sha256"], record[0]["verified"]) == (sha256, None)


def test_a_dead_source__is_one_line_with_what_to_do_by_hand(web, place):
    photos(web, place)
    web.pages.clear()
    message = refusal("photos")
    assert "photos.tar.gz: the server answered 404 Not Found" in message
    assert (
        "get photos.tar.gz by hand from https://a.org, put it into data/downloads/photos/, and run "
        "the same command again" in message
    )
    assert not Path("data/photos").exists()


def test_one_dead_file__does_not_keep_the_others_from_coming(web, place):
    make_folder(place / "made")
    body = tarred(place / "made", "")
    files = [
        {"url": web.add("/gone.zip", status=404), "page": "https://b.org"},
        {"url": web.add("/photos.tar.gz", body)},
    ]
    describe("photos", files)
    assert "get gone.zip by hand from https://b.org" in refusal("photos")
    assert DOWNLOADED.read_bytes() == body
    with zipfile.ZipFile(DOWNLOADED.with_name("gone.zip"), "w") as archive:
        archive.writestr("notes/a.txt", "by hand")
    get("photos")
    assert Path("data/photos/notes/a.txt").read_text() == "by hand"


def test_what_only_a_person_can_get__is_said_before_anything_comes(web, place):
    make_folder(place / "made")
    files = [
        {"url": web.add("/photos.tar.gz", tarred(place / "made", ""))},
        {"name": "a.mat", "page": "https://b.org (with consent)", "into": "labels"},
        {"name": "b.mat", "page": "https://b.org (with consent)"},
    ]
    describe("photos", files)
    assert (
        "'Photos' is not offered for download by programs; get a.mat, b.mat by hand from "
        "https://b.org (with consent), put them into data/downloads/photos/" in refusal("photos")
    )
    assert web.requests == []
    for name in ("a.mat", "b.mat"):
        DOWNLOADED.with_name(name).write_text(name)
    get("photos")
    assert Path("data/photos/labels/a.mat").read_text() == "a.mat"
    assert Path("data/photos/b.mat").read_text() == "b.mat"


def test_the_shipped_sets_without_an_address__say_where_a_person_finds_them(monkeypatch):
    for name, saying in (("nabirds", "it asks for your name"), ("stanford_cars", "page is gone")):
        message = refusal(name)
        assert saying in message
        assert f"data/downloads/{name}/" in message


def test_a_folder_that_is_not_complete__is_named_and_kept(web, place):
    photos(web, place, counts={"train": 6})
    Path("data/photos/train/class_0").mkdir(parents=True)
    message = refusal("photos")
    assert "'data/photos' is there but not complete: 'data/photos/train/class_0'" in message
    assert "move it away (or remove it) and run this again" in message
    assert Path("data/photos/train/class_0").is_dir()
    assert web.requests == []
    shutil.rmtree("data/photos")
    Path("data/photos").touch()
    assert "data/photos is a file" in refusal("photos")


def test_an_empty_folder__is_filled(web, place):
    photos(web, place)
    Path("data/photos").mkdir(parents=True)
    assert "Photos is in data/photos" in get("photos")[-2]


def test_data_that_are_not_as_described__get_no_name(web, place):
    photos(web, place, counts={"train": 7}, how_to_get="vpt data get photos")
    message = refusal("photos")
    assert (
        "what was fetched of 'Photos' is not as expected: 'Photos' has 6 images in train" in message
    )
    assert "to get them" not in message
    assert {path.name for path in Path("data").iterdir()} == {"downloads"}


def test_a_hostile_archive__leaves_nothing(web, place):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(make_folder(place / "made"), "photos-v1")
        archive.addfile(tarfile.TarInfo("../../../evil"))
    describe("photos", [{"url": web.add("/photos.tar.gz", file.getvalue())}])
    assert "photos.tar.gz: '../../../evil' leads outside; it is refused" in refusal("photos")
    assert {path.name for path in Path("data").iterdir()} == {"downloads"}
    assert not (place / "evil").exists()


def test_two_archives_with_one_file__are_refused(web, place):
    make_folder(place / "made")
    body = tarred(place / "made", "")
    describe("photos", [{"url": web.add(f"/{name}.tar.gz", body)} for name in "ab"])
    assert "is there already, from another archive" in refusal("photos")
    assert {path.name for path in Path("data").iterdir()} == {"downloads"}


def test_a_name__is_looked_up_in_datasets(place):
    assert find_descriptor("cub_200_2011") == ROOT / "datasets/cub_200_2011.yaml"
    assert find_descriptor("vtab/svhn") == ROOT / "datasets/vtab/svhn.yaml"
    assert find_descriptor("my/own.yaml") == Path("my/own.yaml")
    describe("svhn", [])
    assert find_descriptor("svhn") == Path("datasets/svhn.yaml")
    with pytest.raises(VptError, match=r"no descriptor 'cub_200' in datasets/, did you mean 'cub_"):
        find_descriptor("cub_200")


def test_what_cannot_be_fetched__says_how_to_get_it():
    assert "to get it: sign up at https://www.image-net.org" in refusal("imagenet")
    assert "comes with scikit-learn" in refusal("digits")
    describe("mine", [])
    assert "put the data into its folder" in refusal("mine")


def test_the_command__says_what_it_does_and_fails_in_one_line(web, place, capsys):
    photos(web, place)
    assert run("data", "get", "photos")[0] == 0
    assert "Photos is in data/photos" in capsys.readouterr().out
    fails_in_one_line("data", "get", "foto", saying="no descriptor 'foto'")
    fails_in_one_line("data", "get", "nabirds", saying="get nabirds.tar.gz by hand")
    fails_in_one_line("data", "get", "datasets/none.yaml", saying="none.yaml")
    for seconds in ("0", "inf", "nan", "1e9"):
        fails_in_one_line("data", "get", "photos", "--timeout", seconds, saying="timeout")


def wait_for(found) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def signalled(number: signal.Signals, when) -> Iterator[None]:
    """This process gets a signal once `when()` is true."""

    def send() -> None:
        wait_for(when)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_fetching__the_same_command_goes_on(number, web, place):
    body = photos(web, place)
    web.pages["/photos.tar.gz"] = Page(body, delay=0.002)
    part = DOWNLOADED.with_name("photos.tar.gz.part")
    handler = signal.getsignal(number)
    with signalled(number, lambda: part.exists() and part.stat().st_size > 100):
        code, told = run("data", "get", "photos")
    assert code == 75
    assert told == (
        f"vpt: stopped by {number.name}; what has come is kept, the same command goes on from "
        "there\n"
    )
    assert signal.getsignal(number) == handler
    there = part.stat().st_size
    web.pages["/photos.tar.gz"].delay = None
    assert "Photos is in data/photos" in get("photos")[-2]
    assert web.ranges == [None, f"bytes={there}-"]


def many(web: Web, place: Path) -> None:
    """A data set of many files, so that there is time to be stopped in."""
    with zipfile.ZipFile(place / "many.zip", "w") as archive:
        for name in make_folder(place / "made").rglob("*.png"):
            archive.write(name, name.relative_to(place / "made"))
        for index in range(4_000):
            archive.writestr(f"notes/{index}.txt", "")
    describe("photos", [{"url": web.add("/many.zip", (place / "many.zip").read_bytes())}])


def unpacking() -> list[Path]:
    return list(Path("data").glob(".photos.*/notes/9.txt"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stopped_while_unpacking__nothing_is_left_but_the_download(web, place):
    many(web, place)
    with signalled(signal.SIGTERM, unpacking):
        assert run("data", "get", "photos")[0] == 75
    assert {path.name for path in Path("data").iterdir()} == {"downloads"}
    assert "Photos is in data/photos" in get("photos")[-2]
    assert len(web.requests) == 1


def test_killed_while_unpacking__nothing_has_the_name__and_the_next_call_cleans_up(web, place):
    many(web, place)
    words = [sys.executable, str(ROOT / "tools/prepare_data.py"), "photos"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as child:
        wait_for(unpacking)
        assert "another command is fetching into data/downloads/photos" in refusal("photos")
        child.kill()
    assert not Path("data/photos").exists()
    assert unpacking()
    assert "Photos is in data/photos" in get("photos")[-2]
    assert {path.name for path in Path("data").iterdir()} == {"downloads", "photos"}
    assert len(web.requests) == 1


def test_progress__is_a_line_now_and_then_where_there_is_no_terminal():
    lines: list[str] = []
    console = Console(file=io.StringIO())
    with bytes_progress("a.zip", console, lines.append, line_seconds=0.0) as show:
        show(1_000_000, 5_000_000)
        time.sleep(0.01)
        show(2_500_000, 5_000_000)
        show(2_600_000, None)
    assert lines[1].startswith("a.zip: 2.5 MB of 5.0 MB, ")
    assert ", ETA " in lines[1]
    assert lines[2].startswith("a.zip: 2.6 MB, ")


def test_progress__is_a_bar_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with bytes_progress("a.zip", console, print) as show:
        show(2_500_000, 5_000_000)
    assert "2.5/5.0 MB" in file.getvalue()
