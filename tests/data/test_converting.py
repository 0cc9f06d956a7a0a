"""Data sets written in another format: what comes back is what was read."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.coco_files import coco_descriptor, make_coco
from tests.data.label_data import write_files, write_images
from tests.data.parquet_files import make_parquet
from tests.fixtures import make_folder
from vpt.config import dump
from vpt.data.boxes.detection import DetectionSplits
from vpt.data.converting import convert
from vpt.data.layouts import load_descriptor
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.splits import Sample, Split
from vpt.data.writers.images import class_folders, new_names, place_sample, suffix_of
from vpt.errors import DataError

BOX_TARGETS = ["coco", "yolo", "voc"]


def odd(content) -> None:
    """Boxes with fractions, over the edge, a crowd, and areas of outlines."""
    first, second, third = content["annotations"][:3]
    first["bbox"], first["area"] = [0.123, 0.5, 20.25, 30.0625], 608.765625
    second["bbox"] = [x + 0.3333 for x in second["bbox"]]
    second["area"] = 5.5
    third["iscrowd"] = 1


def same_boxes(one: DetectionSplits, two: DetectionSplits, *, crowds: bool = True) -> int:
    """How many boxes there are; each image's are the same, found by its pixels."""
    count = 0
    for name in ("train", "val", "test"):
        first, second = one.get(name), two.get(name)
        assert (first is None) == (second is None)
        if first is None or second is None:
            continue
        assert len(first) == len(second)
        found = {sample.source.read_bytes(): sample for sample in second.samples}
        for sample in first.samples:
            other = found[sample.source.read_bytes()]
            kept = np.ones(len(sample.boxes), bool) if crowds else ~sample.crowds
            assert other.size == sample.size
            np.testing.assert_allclose(other.boxes, sample.boxes[kept], atol=1e-3)
            names = [first.class_names[label] for label in sample.labels[kept]]
            assert [second.class_names[label] for label in other.labels] == names
            assert other.crowds.tolist() == sample.crowds[kept].tolist()
            count += len(other.boxes)
    return count


@pytest.mark.parametrize("images", ["copy", "link", "none"])
@pytest.mark.parametrize("to", BOX_TARGETS)
def test_boxes__come_back_from_each_format(tmp_path, to, images):
    source = make_coco(tmp_path / "source", splits=("train", "val", "test"), change={"train": odd})
    before = read_detection(load_descriptor(source))
    said: list[str] = []
    done = convert(source, tmp_path / "out", to, images=images, log=said.append)
    after = read_detection(load_descriptor(done.read_as))
    assert after.class_names == before.class_names
    assert same_boxes(before, after, crowds=to != "yolo") == 45 - (to == "yolo")
    marks = {
        "coco": [],
        "yolo": ["crowds and difficult objects left out, for which YOLO has no mark: 1"],
        "voc": ["crowds written as difficult objects: 1"],
    }
    areas = [] if to == "coco" else ["areas of outlines that are lost, those of boxes remain: 1"]
    text = "images that got a name of their own, as theirs is another's too: 18"
    named = [text] if to == "voc" and images != "none" else []
    assert said[1:] == [*named, *marks[to], *areas]
    if images == "none":
        for one, two in zip(
            before.require("val").samples, after.require("val").samples, strict=True
        ):
            assert (one.source, one.key) == (two.source, two.key)
    files = list((tmp_path / "out").rglob("*.png"))
    assert len(files) == (0 if images == "none" else 18)
    assert all(path.is_symlink() == (images == "link") for path in files)
    assert [path.name for path in tmp_path.iterdir()] in (["source", "out"], ["out", "source"])


@pytest.mark.parametrize("to", BOX_TARGETS)
@pytest.mark.parametrize("source", BOX_TARGETS)
def test_boxes__go_from_any_format_to_any(tmp_path, source, to):
    make_coco(tmp_path / "first")
    one = convert(tmp_path / "first", tmp_path / "second", source)
    two = convert(one.read_as, tmp_path / "third", to)
    before, after = (read_detection(load_descriptor(each.read_as)) for each in (one, two))
    assert same_boxes(before, after) == 30
    assert after.class_names == ("red", "green", "blue")


def test_coco__keeps_ids_crowds_and_areas(tmp_path):
    source = make_coco(tmp_path / "source", change={"train": odd})
    convert(source, tmp_path / "out", "coco")
    before, after = (
        json.loads((folder / "annotations" / "train.json").read_text())
        for folder in (source, tmp_path / "out")
    )
    assert after["categories"] == before["categories"]
    assert [each["id"] for each in after["images"]] == [each["id"] for each in before["images"]]
    for one, two in zip(before["annotations"], after["annotations"], strict=True):
        assert {**two, "bbox": 0} == {**one, "bbox": 0}
        assert two["bbox"] == pytest.approx(one["bbox"])


def test_any_boxes__come_back_within_a_thousandth_of_a_pixel(tmp_path):
    random = np.random.default_rng(0)
    rows = random.uniform([0, 0, 0.02, 0.02], [90, 58, 99, 59], (300, 4)).tolist()

    def change(content):
        head = {**content["annotations"][0], "area": None}
        content["annotations"] = [
            {**head, "id": k, "bbox": row} for k, row in enumerate(rows, start=1)
        ]

    make_coco(tmp_path / "source", images=2, change={"train": change})
    before = read_detection(load_descriptor(tmp_path / "source"))
    for to in BOX_TARGETS:
        done = convert(tmp_path / "source", tmp_path / to, to)
        after = read_detection(load_descriptor(done.read_as))
        assert same_boxes(before, after) == 303


def test_images_of_one_name__get_names_of_their_own(tmp_path):
    for folder in ("one", "two"):
        size = (40, 30) if folder == "one" else (44, 30)
        write_images(tmp_path / "s" / "images" / "train" / folder, "a.jpg", size=size)
        text = "0 0.5 0.5 0.2 0.2\n" if folder == "one" else "0 0.25 0.25 0.2 0.2\n"
        write_files(tmp_path / "s" / "labels" / "train" / folder, {"a.txt": text})
    write_images(tmp_path / "s" / "images" / "train" / "two", "a.png", size=(50, 30))
    write_images(tmp_path / "s" / "images" / "val", "a.jpg", size=(60, 30))
    write_files(tmp_path / "s" / "labels" / "val", {"a.txt": ""})
    before = read_detection(load_descriptor(tmp_path / "s"))
    for to, count in (("coco", 3), ("yolo", 3), ("voc", 4)):
        said: list[str] = []
        done = convert(tmp_path / "s", tmp_path / to, to, log=said.append)
        after = read_detection(load_descriptor(done.read_as))
        assert same_boxes(before, after) == 3
        assert (
            said[2] == f"images that got a name of their own, as theirs is another's too: {count}"
        )
    with pytest.raises(DataError, match="would share one label file"):
        convert(tmp_path / "s", tmp_path / "again", "yolo", images="none")
    assert not (tmp_path / "again").exists()


@given(st.lists(st.text(st.sampled_from("aA/. é"), min_size=1), unique=True, max_size=8))
def test_new_names__are_usual_and_each_stem_another(keys):
    names = new_names([f"{key}.jpg" for key in keys])
    assert len({Path(name).stem.casefold() for name in names}) == len(keys)
    assert all("/" not in name and name[0] != "." and name.endswith(".jpg") for name in names)


@settings(max_examples=50)
@given(st.lists(st.text(st.sampled_from('aA/.:* "'), max_size=4), unique=True, max_size=8))
def test_class_folders__are_usual_and_each_another(names):
    folders = class_folders(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(folder.strip() and "/" not in folder and folder[0] != "." for folder in folders)


@pytest.mark.parametrize("to", ["folder", "csv"])
@pytest.mark.parametrize("images", ["copy", "link"])
def test_classes__come_back_from_folders_and_tables(tmp_path, to, images):
    source = make_folder(tmp_path / "source")
    done = convert(source, tmp_path / "out", to, images=images)
    before, after = read_splits(load_descriptor(source)), read_splits(load_descriptor(done.read_as))
    assert done.images == {"train": 6, "val": 6, "test": 6}
    for name in ("train", "val", "test"):
        pairs = zip(before.require(name).samples, after.require(name).samples, strict=True)
        for one, two in pairs:
            assert one.label == two.label
            assert one.source.read_bytes() == two.source.read_bytes()


def test_classes_as_a_table__can_leave_the_images_where_they_are(tmp_path):
    source = make_folder(tmp_path / "source")
    done = convert(source, tmp_path / "out", "csv", images="none")
    splits = read_splits(load_descriptor(done.read_as))
    assert splits.require("train").samples[0].source == source / "train" / "class_0" / "0.png"
    with pytest.raises(DataError, match="in folders the images are the annotations"):
        convert(source, tmp_path / "more", "folder", images="none")


def test_parquet__becomes_files(tmp_path):
    source = make_parquet(tmp_path / "source")
    done = convert(source, tmp_path / "out", "folder")
    before, after = read_splits(load_descriptor(source)), read_splits(load_descriptor(done.read_as))
    assert after.class_names == before.class_names
    assert after.require("train").class_counts() == before.require("train").class_counts()
    assert all(sample.source.suffix == ".png" for sample in after.require("train").samples)
    with pytest.raises(DataError, match="are no files; use --copy"):
        convert(source, tmp_path / "more", "folder", images="link")


def test_images_in_an_array__become_files(tmp_path):
    pixels = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    split = Split("train", (Sample(1, 0, "1"),), ("x",), pixels)
    name = f"one{suffix_of(split, split.samples[0])}"
    place_sample(split, split.samples[0], tmp_path / name, "copy")
    with Image.open(tmp_path / "one.png") as image:
        assert np.array_equal(np.asarray(image), pixels[1])


def test_images_of_several_classes__become_a_table_with_another_separator(tmp_path):
    write_images(tmp_path / "s", "a.png", "b.png", "c.png")
    text = "path,tags\na.png,x|y;z\nb.png,\nc.png,x\n"
    yaml = (
        f'name: tags\nformat: csv\nroot: {tmp_path}/s\ncolumns: {{labels: tags, separator: ";"}}\n'
    )
    write_files(tmp_path / "s", {"train.csv": text})
    write_files(tmp_path, {"d.yaml": yaml})
    done = convert(tmp_path / "d.yaml", tmp_path / "out", "csv")
    splits = read_splits(load_descriptor(done.read_as))
    assert splits.class_names == ("x", "x|y", "z")
    assert [sample.label for sample in splits.require("train").samples] == [(1, 2), (), (0,)]
    with pytest.raises(DataError, match="may be of several classes, which folders cannot say"):
        convert(tmp_path / "d.yaml", tmp_path / "more", "folder")


def test_classes_that_no_folder_can_have__get_another_and_it_is_said(tmp_path):
    write_images(tmp_path / "s", "a.png", "b.png")
    write_files(tmp_path / "s", {"train.csv": "path,label\na.png,cat/dog\nb.png,bird\n"})
    write_files(tmp_path, {"d.yaml": f"name: x\nformat: csv\nroot: {tmp_path}/s\n"})
    said: list[str] = []
    convert(tmp_path / "d.yaml", tmp_path / "out", "folder", log=said.append)
    assert said == ["class 'cat/dog' is called 'cat_dog', which can be a folder's name"]


@pytest.mark.parametrize(("to", "use"), [("folder", "coco, yolo or voc"), ("csv", "coco, yolo")])
def test_boxes__have_no_place_in_formats_of_classes(tmp_path, to, use):
    make_coco(tmp_path / "s")
    with pytest.raises(DataError, match=f"holds boxes, which {to} cannot say; use {use}"):
        convert(tmp_path / "s", tmp_path / "out", to)


def test_classes__have_no_place_in_formats_of_boxes(tmp_path):
    make_folder(tmp_path / "s")
    with pytest.raises(DataError, match="cannot say; use folder or csv"):
        convert(tmp_path / "s", tmp_path / "out", "yolo")


def test_held_out_images__are_parted_only_where_a_descriptor_says_so(tmp_path):
    make_coco(tmp_path / "s", splits=("train",), images=10)
    assert convert(tmp_path / "s", tmp_path / "one", "yolo").images == {"train": 10}
    cut = {"val": {"fraction": 0.2}}
    write_files(tmp_path, {"d.yaml": dump(coco_descriptor(tmp_path / "s", splits=cut))})
    done = convert(tmp_path / "d.yaml", tmp_path / "two", "yolo")
    assert done.images == {"train": 8, "val": 2}


def test_a_folder_that_holds_something__is_left_alone(tmp_path):
    make_coco(tmp_path / "s")
    write_files(tmp_path / "out", {"mine.txt": "x"})
    with pytest.raises(DataError, match="is not empty; name a new or empty folder"):
        convert(tmp_path / "s", tmp_path / "out", "yolo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a link; name a new folder"):
        convert(tmp_path / "s", tmp_path / "link", "yolo")
    with pytest.raises(DataError, match="is a file; name a new folder"):
        convert(tmp_path / "s", tmp_path / "out" / "mine.txt", "yolo")
    with pytest.raises(DataError, match="lies in the data set that is read"):
        convert(tmp_path / "s", tmp_path / "s" / "yolo", "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out", "s"]
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "s", tmp_path / "empty", "yolo").images == {"train": 6, "val": 6}


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_conversion_that_is_stopped__leaves_nothing(tmp_path, monkeypatch, stop):
    make_coco(tmp_path / "s")
    done = []

    def copy(source, target):
        done.append(target)
        if len(done) == 3:
            raise stop
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copy)
    expected = DataError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        convert(tmp_path / "s", tmp_path / "out", "yolo")
    assert os.listdir(tmp_path) == ["s"]  # noqa: PTH208 - hidden ones, too


def test_errors_in_the_data__stop_or_are_left_out(tmp_path):
    make_coco(tmp_path / "s")
    (tmp_path / "s" / "images" / "train" / "001.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "s", tmp_path / "out", "voc")
    said: list[str] = []
    done = convert(tmp_path / "s", tmp_path / "out", "voc", skip_bad=True, log=said.append)
    assert done.images == {"train": 5, "val": 6}
    assert any(line.startswith("left out: ") for line in said)


@pytest.mark.parametrize("to", BOX_TARGETS)
def test_annotations_alone__hold_out_what_the_folder_does(tmp_path, to):
    source = make_coco(tmp_path / "source", splits=("train",))
    before = read_detection(load_descriptor(source))
    done = convert(source, tmp_path / "out", to, images="none")
    after = read_detection(load_descriptor(done.read_as))
    assert after.val is not None
    assert len(after.val) == len(before.val) > 0
    assert same_boxes(before, after) > 0


@pytest.mark.parametrize("to", ["csv", "folder"])
def test_classes_of_a_flat_folder__are_held_out_as_there(tmp_path, to):
    make_folder(tmp_path, splits=("photos",), images=10)
    before = read_splits(load_descriptor(tmp_path / "photos"))
    done = convert(tmp_path / "photos", tmp_path / "out", to)
    after = read_splits(load_descriptor(done.read_as))
    for name in ("train", "val", "test"):
        assert len(after.get(name)) == len(before.get(name)) > 0


def test_what_a_killed_conversion_left__is_named(tmp_path):
    source = make_coco(tmp_path / "source")
    (tmp_path / ".out.0a1b2c3d.tmp").mkdir()
    said: list[str] = []
    convert(source, tmp_path / "out", "yolo", log=said.append)
    left = f"'{tmp_path}/.out.0a1b2c3d.tmp' is what a killed conversion left"
    assert f"{left}; remove it if none is running" in said
