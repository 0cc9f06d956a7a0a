import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vpt.data.loading.loader
import vpt.data.loading.scans
from tests.data.coco_files import coco_descriptor, make_coco
from tests.fixtures import make_folder
from vpt.data.images import read_image
from vpt.data.layouts import load_descriptor
from vpt.data.loading.scans import ScanMemory, drop_bad, scan_images
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.splits import Split
from vpt.errors import DataError


@pytest.fixture
def split(tmp_path) -> Split:
    return read_splits(load_descriptor(make_folder(tmp_path / "data", images=4))).require("train")


@pytest.fixture
def memory(tmp_path) -> ScanMemory:
    return ScanMemory(tmp_path / "scans")


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()

    def counted(path: Path, **options):
        counts[path.name] += 1
        return read_image(path, **options)

    monkeypatch.setattr(vpt.data.loading.loader, "read_image", counted)
    return counts


def reasons(bad) -> list[tuple[str, str]]:
    return [(image.path.as_posix(), image.reason) for image in bad]


def test_a_second_scan__decodes_nothing__and_knows_the_bad_images(split, memory, decoded):
    split.samples[1].source.write_bytes(b"")
    split.samples[3].source.write_bytes(b"no image at all")
    first = scan_images(split, memory=memory)
    assert decoded.total() == len(split) == 8
    again = ScanMemory(memory.folder)
    assert reasons(scan_images(split, memory=again)) == reasons(first)
    assert [image.path for image in first] == [split.samples[each].source for each in (1, 3)]
    assert decoded.total() == 8
    assert reasons(scan_images(split, memory=memory, again=True)) == reasons(first)
    assert decoded.total() == 16


def test_only_files_that_changed__are_decoded_again(split, memory, decoded):
    bad = split.samples[2].source
    whole, times = bad.read_bytes(), bad.stat()
    bad.write_bytes(b"\0" * len(whole))
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(scan_images(split, memory=memory)) == 1
    decoded.clear()
    # Restored: as long and as old as the damaged file, and yet another one.
    bad.write_bytes(whole)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.copy(split.samples[0].source, split.samples[5].source)
    assert scan_images(split, memory=memory) == []
    assert sum(decoded.values()) == 2


def test_another_choice_of_images__decodes_those_alone_that_are_new(split, memory, decoded):
    scan_images(split.with_samples(split.samples[:5]), memory=memory)
    decoded.clear()
    scan_images(split.with_samples(split.samples[3:]), memory=memory)
    assert decoded.total() == 3
    scan_images(split.with_samples(reversed(split.samples)), memory=memory)
    assert decoded.total() == 3


def test_boxes_of_another_size__are_scanned_anew(tmp_path, memory, decoded):
    split = read_detection(coco_descriptor(make_coco(tmp_path / "coco"))).require("train")
    assert scan_images(split, memory=memory) == []
    count = decoded.total()
    sizes = [replaced(sample, (1, 1)) for sample in split.samples]
    bad = scan_images(split.with_samples(sizes), memory=memory)
    assert len(bad) == len(split)
    assert decoded.total() == 2 * count
    assert scan_images(split, memory=memory) == []
    assert decoded.total() == 2 * count


def replaced(sample, size):
    values = {**sample.__dict__, "size": size}
    return type(sample)(**values)


def test_errors_of_the_moment__are_not_remembered(split, memory, monkeypatch):
    def failing(path: Path, **options):
        try:
            raise OSError(5, "Input/output error")
        except OSError as error:
            raise DataError(f"{path}: damaged or unsupported image ({error})") from error

    with monkeypatch.context() as patch:
        patch.setattr(vpt.data.loading.loader, "read_image", failing)
        assert len(scan_images(split, memory=memory)) == len(split)
    assert scan_images(split, memory=memory) == []


def test_a_missing_file__is_looked_for_each_time(split, memory, decoded):
    path = split.samples[0].source
    away = path.rename(path.with_suffix(".away"))
    for _ in range(2):
        (bad,) = scan_images(split, memory=memory)
        assert bad.reason == "no such file"
    away.rename(path)
    assert scan_images(split, memory=memory) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_a_damaged_memory__is_as_none(split, memory, decoded, damage):
    scan_images(split, memory=memory)
    (path,) = memory.folder.iterdir()
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        texts = {"cut": content[:-9], "flipped": flipped, "empty": b"", "text": b"hello\n"}
        path.write_bytes(texts[damage])
    assert scan_images(split, memory=memory) == []
    assert decoded.total() == 2 * len(split)
    assert scan_images(split, memory=memory) == []
    assert decoded.total() == 2 * len(split)


def test_a_memory_that_cannot_be_written__is_done_without(split, tmp_path, decoded):
    (tmp_path / "file").write_text("in the way")
    memory = ScanMemory(tmp_path / "file" / "scans")
    assert scan_images(split, memory=memory) == []
    assert scan_images(split, memory=memory) == []
    assert decoded.total() == 2 * len(split)


def test_scans_at_the_same_time__lose_nothing(split, memory, decoded, monkeypatch):
    monkeypatch.setattr(vpt.data.loading.scans, "_MOST_FILES", 3)
    parts = [split.with_samples([sample]) for sample in split.samples]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: scan_images(part, memory=memory), parts))
    for part in parts:
        scan_images(part, memory=memory)
    decoded.clear()
    assert scan_images(split, memory=memory) == []
    assert decoded.total() == 0
    assert len(list(memory.folder.iterdir())) <= 4


def test_many_files__are_merged__and_the_oldest_images_forgotten(split, memory, monkeypatch):
    monkeypatch.setattr(vpt.data.loading.scans, "_MOST_FILES", 4)
    monkeypatch.setattr(vpt.data.loading.scans, "_MOST_IMAGES", 3)
    for number, sample in enumerate(split.samples[:5]):
        sample.source.write_bytes(b"")
        scan_images(split.with_samples([sample]), memory=memory)
        newest = max(memory.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(0, 10**9 * (10**9 + number)))  # as if a second had passed
    assert len(list(memory.folder.iterdir())) == 1
    known, found = memory.recall(vpt.data.loading.scans._keys_of(split, None))
    assert known.tolist() == [False, False, True, True, True, False, False, False]
    assert found == dict.fromkeys((2, 3, 4), "empty file (0 bytes)")


def test_other_decoders__scan_anew(split, memory, decoded, monkeypatch):
    scan_images(split, memory=memory)
    monkeypatch.setattr(vpt.data.loading.scans, "decoder_versions", lambda: {"pil": "99"})
    scan_images(split, memory=ScanMemory(memory.folder))
    assert decoded.total() == 2 * len(split)


def test_drop_bad__of_what_is_remembered__is_as_at_first(split, memory):
    split.samples[1].source.write_bytes(b"")
    kept = [drop_bad(split, scan_images(split, memory=memory)) for _ in range(2)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 7
