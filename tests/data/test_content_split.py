"""Splits by what images hold: shares of each class, copies together, nothing moves."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.coco_files import make_coco
from tests.fixtures import make_image
from vpt.data import content
from vpt.data.content import file_hashes
from vpt.data.content_split import content_split
from vpt.data.cuts import with_cuts
from vpt.data.descriptor import Cut, Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.splits import Split, Splits
from vpt.errors import ConfigError, DataError


def hashes(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(start, count)]


@pytest.mark.parametrize("images", [3, 5, 10, 40, 200])
def test_each_class_gives_its_share(images):
    contents = hashes(3 * images)
    classes = [number % 3 for number in range(3 * images)]
    splits = content_split(contents, classes, test=0.2, val=0.2, seed=0)
    for label in range(3):
        counts = Counter(split for split, of in zip(splits, classes, strict=True) if of == label)
        assert counts["train"] >= 1
        assert max(1, 0.7 * 0.2 * images - 1) <= counts["test"] <= 1.3 * 0.2 * images + 1
        assert max(1, 0.7 * 0.2 * images - 1) <= counts["val"] <= 1.3 * 0.2 * images + 1


def test_a_class_of_one_or_two_images__is_learned_from():
    for images in (1, 2):
        splits = content_split(hashes(images), [0] * images, test=0.2, val=0.2, seed=0)
        assert "train" in splits


def test_two_images_of_each_class__give_one_to_validate_on():
    splits = content_split(hashes(6), [0, 0, 1, 1, 2, 2], test=0.0, val=0.2, seed=0)
    assert splits.count("val") == splits.count("train") == 3


def test_another_seed__cuts_otherwise__and_the_same_one_alike():
    contents = hashes(100)
    cut = {
        seed: content_split(contents, [0] * 100, test=0.2, val=0.2, seed=seed) for seed in (0, 1)
    }
    assert cut[0] != cut[1]
    assert cut[0] == content_split(contents, [0] * 100, test=0.2, val=0.2, seed=0)


def test_order_does_not_matter():
    contents = hashes(60)
    one = content_split(contents, [0] * 60, test=0.2, val=0.2, seed=0)
    other = content_split(contents[::-1], [0] * 60, test=0.2, val=0.2, seed=0)
    assert one == other[::-1]


def test_images_that_are_added__move_next_to_nothing():
    moved = leaked = tested = 0
    for start in range(0, 20_000, 200):
        contents = hashes(start + 40, start)
        more = contents + hashes(start + 44, start + 40)
        before = content_split(contents, [0] * 40, test=0.2, val=0.2, seed=0)
        after = content_split(more, [0] * 44, test=0.2, val=0.2, seed=0)
        pairs = list(zip(before, after, strict=False))
        tested += before.count("test")
        moved += sum(old == "test" != new for old, new in pairs)
        leaked += sum((old, new) == ("test", "train") for old, new in pairs)
    assert moved < 0.03 * tested
    assert leaked == 0


LABELS = st.integers(0, 3)


@given(st.lists(st.tuples(st.integers(0, 15), LABELS), min_size=1, max_size=60), st.integers(0, 5))
def test_copies_are_together__and_every_image_is_somewhere(images, seed):
    contents = [hashlib.sha256(bytes([number])).hexdigest() for number, _ in images]
    splits = content_split(contents, [label for _, label in images], test=0.2, val=0.2, seed=seed)
    assert len(splits) == len(images)
    sides: dict[str, set[str]] = {}
    for each, split in zip(contents, splits, strict=True):
        sides.setdefault(each, set()).add(split)
    assert all(len(found) == 1 for found in sides.values())


@given(st.lists(LABELS, min_size=1, max_size=80), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_every_class_keeps_an_image_to_learn_from(labels, test, val):
    splits = content_split(hashes(len(labels)), labels, test=test, val=val, seed=0)
    learned = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert learned == set(labels)


# Folders


def flat(folder: Path, images: int = 10, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            make_image(1000 * label + number).save(folder / name / f"{number}.png")
    return folder


def keys(split: Split | None) -> set[str]:
    assert split is not None
    return {sample.key for sample in split.samples}


def parts(splits: Splits) -> list[set[str]]:
    return [keys(splits.train), keys(splits.val), keys(splits.test)]


def test_folder_of_class_folders__is_cut_and_says_so(tmp_path):
    splits = read_splits(load_descriptor(flat(tmp_path / "photos")))
    assert splits.class_names == ("ant", "bee")
    assert len(set.union(*parts(splits))) == sum(map(len, parts(splits))) == 20
    assert all(splits.test.class_counts())
    assert splits.cut is not None
    assert splits.cut.images == {
        "train": len(splits.train),
        "val": len(splits.val),
        "test": len(splits.test),
    }
    assert any("val and test cut out of train by content" in note for note in splits.notes)
    assert "ant/0.png" in set.union(*parts(splits))


def test_renamed_images__stay_in_their_split(tmp_path):
    folder = flat(tmp_path / "photos")
    before = {
        path.read_bytes(): name
        for name in ("train", "val", "test")
        for path in [s.source for s in read_splits(load_descriptor(folder)).get(name).samples]
    }
    for path in list(folder.rglob("*.png")):
        path.rename(path.with_name(f"renamed_{9 - int(path.stem)}.png"))
    splits = read_splits(load_descriptor(folder))
    for name in ("train", "val", "test"):
        assert all(before[s.source.read_bytes()] == name for s in splits.get(name).samples)


def test_folder_without_val__has_it_cut_out_of_train(tmp_path):
    for split in ("train", "test"):
        flat(tmp_path / "photos" / split, images=5 if split == "train" else 2)
    splits = read_splits(load_descriptor(tmp_path / "photos"))
    assert [len(part) for part in parts(splits)] == [8, 2, 4]
    assert keys(splits.val) < {f"train/{name}/{i}.png" for name in ("ant", "bee") for i in range(5)}
    assert splits.cut.test is None


def test_fractions_and_seed_of_a_run__change_the_cut(tmp_path):
    descriptor = load_descriptor(flat(tmp_path / "photos"))
    usual = read_splits(descriptor)
    more = read_splits(with_cuts(descriptor, val_fraction=0.4, test_fraction=0.0))
    assert more.test is None
    assert len(usual.val) < len(more.val) <= 10
    other = read_splits(with_cuts(descriptor, split_seed=1))
    assert keys(other.test) != keys(usual.test)
    assert with_cuts(descriptor) == descriptor


def test_fractions_for_any_format__cut_by_content(tmp_path):
    flat(tmp_path)
    rows = "".join(
        f"{path.relative_to(tmp_path)},{path.parent.name}\n" for path in tmp_path.rglob("*.png")
    )
    (tmp_path / "train.csv").write_text("path,label\n" + rows)
    descriptor = Descriptor(name="d", format="csv", root=tmp_path)
    splits = read_splits(with_cuts(descriptor, val_fraction=0.2, test_fraction=0.2))
    folders = read_splits(load_descriptor(tmp_path))
    assert parts(splits) == parts(folders)
    assert splits.cut == folders.cut


@pytest.mark.parametrize(
    ("splits", "asked", "message"),
    [
        ({"val": {"fraction": 0.1}}, {"val_fraction": 0.2}, "for val, 'd' cuts 0.1 already"),
        ({"val": "v"}, {"val_fraction": 0.2}, "for val, 'd' names 'v' already"),
        ({}, {"split_seed": 3}, "data.split_seed 3 has no effect"),
        ({}, {"val_fraction": 0.5, "test_fraction": 0.5}, "leave no image for training"),
    ],
)
def test_fraction_that_contradicts_the_descriptor__is_refused(splits, asked, message):
    descriptor = Descriptor.model_validate({"name": "d", "format": "folder", "splits": splits})
    with pytest.raises(ConfigError, match=message):
        with_cuts(descriptor, **asked)


def test_fraction_of_data_with_a_split_of_their_own__is_refused(tmp_path):
    for split in ("train", "val"):
        flat(tmp_path / split, images=3)
    descriptor = Descriptor(name="d", format="folder", root=tmp_path)
    with pytest.raises(
        DataError, match=r"has a val split of its own, .*leave out data.val_fraction"
    ):
        read_splits(with_cuts(descriptor, val_fraction=0.2))


def test_too_few_images__do_without_a_test_split_that_nobody_asked_for(tmp_path):
    splits = read_splits(load_descriptor(flat(tmp_path, images=2)))
    assert splits.test is None
    assert splits.val.class_counts() == splits.train.class_counts() == [1, 1]
    assert "too few images for a test split as well" in splits.notes


def test_too_few_images__say_what_to_change(tmp_path):
    descriptor = load_descriptor(flat(tmp_path, images=2))
    with pytest.raises(DataError, match=r"left for 'test': 4 images .*fraction=0, which"):
        read_splits(with_cuts(descriptor, test_fraction=0.1))


def test_cut_of_an_earlier_reading__is_made_again(tmp_path):
    descriptor = load_descriptor(flat(tmp_path))
    first = read_splits(with_cuts(descriptor, val_fraction=0.1, test_fraction=0.3, split_seed=7))
    again = read_splits(descriptor, cut=first.cut)
    assert parts(again) == parts(first)
    assert again.cut == first.cut


def test_arrays_are_cut_by_content_as_well(tmp_path):
    digits = Descriptor(name="digits", format="sklearn_digits", splits={"val": Cut(fraction=0.2)})
    own = read_splits(digits)
    cut = Cut(fraction=0.2, by="content")
    splits = read_splits(
        digits.model_copy(update={"splits": digits.splits.model_copy(update={"val": cut})})
    )
    assert len(splits.train) + len(splits.val) == len(own.train) + len(own.val)
    assert splits.cut.images["val"] == len(splits.val)


def test_boxes_are_cut_by_content_as_well(tmp_path):
    make_coco(tmp_path, splits=("train",), images=12)
    descriptor = Descriptor(name="d", format="coco", root=tmp_path, images="images")
    splits = read_detection(with_cuts(descriptor, val_fraction=0.25, split_seed=2))
    assert 2 <= len(splits.val) <= 5
    assert len(splits.train) + len(splits.val) == 12
    assert splits.cut.images == {"train": len(splits.train), "val": len(splits.val)}
    again = read_detection(descriptor, cut=splits.cut)
    assert [each.key for each in again.val.samples] == [each.key for each in splits.val.samples]
    assert again.cut == splits.cut
    assert read_detection(descriptor).val is None


# Hashes that are remembered


def test_hashes_are_remembered__until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("VPT_CACHE", str(tmp_path / "cache"))
    read: list[Path] = []
    original = content._hash
    monkeypatch.setattr(content, "_hash", lambda path: (read.append(path), original(path))[1])
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 10)
    first = file_hashes(files)
    assert first == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert file_hashes(files) == first
    assert len(read) == 3
    files[1].write_bytes(b"other bytes")
    assert file_hashes(files)[files[1]] == hashlib.sha256(b"other bytes").hexdigest()
    assert read[3:] == [files[1]]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"a": 3}', b"\xff"])
def test_damaged_memory__is_made_anew(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("VPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    first = file_hashes([path])
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_bytes(damage)
    assert file_hashes([path]) == first
    assert b"a.png" in memory.read_bytes()


def test_memory_that_cannot_be_written__costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("VPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    assert len(file_hashes([path])[path]) == 64


def test_file_that_is_gone__is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.png: No such file"):
        file_hashes([tmp_path / "gone.png"])


def test_copies_of_a_file_in_one_class__are_in_one_split(tmp_path):
    folder = flat(tmp_path)
    for number in range(10):
        os.link(folder / "ant" / f"{number}.png", folder / "ant" / f"copy_{number}.png")
    splits = read_splits(load_descriptor(folder))
    for number in range(10):
        pair = {f"ant/{number}.png", f"ant/copy_{number}.png"}
        assert any(pair <= part for part in parts(splits))
