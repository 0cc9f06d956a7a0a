"""YOLO's text files and data.yaml: what is read, and what is said of what cannot be."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.label_data import (
    boxes,
    error_of,
    keys,
    kinds,
    lines,
    read,
    write_files,
    write_images,
)
from vpt.data.descriptor import Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.readers.yolo_lines import LineError, numbers_of, read_numbers
from vpt.data.reading_boxes import read_detection
from vpt.errors import DataError, VptError

PATHS = "train: train/images\nval: valid/images\n"
LINE = "0 0.5 0.5 0.25 0.5\n"  # (30, 15, 50, 45) of 80 x 60
BOX = [30, 15, 50, 45]


def split_first(root: Path, yaml: str | None = None, *, val: str = "valid") -> Path:
    """train/images, train/labels, and val alike, as Roboflow exports them."""
    for split, name in (("train", "a"), (val, "b")):
        write_images(root / split / "images", f"{name}.jpg")
        write_files(root / split / "labels", {f"{name}.txt": LINE})
    return write_files(root, {} if yaml is None else {"data.yaml": yaml})


def kind_first(root: Path, yaml: str | None = None) -> Path:
    """images/train, labels/train, and val alike, as Ultralytics has them."""
    for split, name in (("train", "a"), ("val", "b")):
        write_images(root / "images" / split, f"{name}.jpg")
        write_files(root / "labels" / split, {f"{name}.txt": LINE})
    return write_files(root, {} if yaml is None else {"data.yaml": yaml})


def labelled(root: Path, text: str, names: str = "[cat, dog]", more: str = ""):
    """What is read of one training image with a label file."""
    yaml = f"{PATHS}names: {names}\n{more}"
    split_first(root, yaml)
    return read(write_files(root, {"train/labels/a.txt": text}))


@pytest.mark.parametrize(
    "yaml",
    [
        None,
        "names: [cat, dog]\n",
        f"{PATHS}nc: 2\nnames: ['cat', 'dog']\n",
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n",
        f"path: .\n{PATHS}names: {{0: cat, 1: dog}}\n",
        f"path: ../datasets/mine\n{PATHS}names:\n  0: cat\n  1: dog\n",
        "train: /content/a-3/train/images\nval: /content/a-3/valid/images\nnames: [cat, dog]\n",
        "train: 'C:\\data\\train\\images'\nval: 'C:\\data\\valid\\images'\nnames: [cat, dog]\n",
        "train: [train/images]\nvalid: valid/images\nnames: [cat, dog]\n",
    ],
)
def test_split_folders__are_read_whatever_the_paths_look_like(tmp_path, yaml):
    splits = read(split_first(tmp_path, yaml), "raise")
    assert keys(splits) == {"train": ["train/images/a.jpg"], "val": ["valid/images/b.jpg"]}
    assert boxes(splits) == [[BOX]]
    assert splits.class_names == (("0",) if yaml is None else ("cat", "dog"))
    assert splits.category_ids == ((0,) if yaml is None else (0, 1))


@pytest.mark.parametrize(
    "yaml", [None, "path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: cat}}\n"]
)
def test_folders_of_kinds__are_read(tmp_path, yaml):
    splits = read(kind_first(tmp_path, yaml and yaml.format(root=tmp_path)), "raise")
    assert keys(splits) == {"train": ["images/train/a.jpg"], "val": ["images/val/b.jpg"]}
    assert boxes(splits, "val") == [[BOX]]


def test_a_data_yaml__can_be_named_itself_whatever_it_is_called(tmp_path):
    root = split_first(tmp_path / "set")
    yaml = write_files(
        tmp_path,
        {"coco8.yaml": "path: set\ntrain: train/images\nval: valid/images\nnames: [cat]\n"},
    )
    splits = read(yaml / "coco8.yaml", "raise")
    assert keys(splits)["train"] == ["set/train/images/a.jpg"]
    assert root.is_dir()


def test_images_elsewhere__have_names_that_are_the_same_on_every_machine(tmp_path):
    elsewhere = split_first(tmp_path / "disk" / "birds")
    yaml = f"path: {elsewhere}\n{PATHS}names: [cat]\n"
    write_files(tmp_path / "project", {"data.yaml": yaml})
    splits = read(tmp_path / "project", "raise")
    assert keys(splits)["train"] == ["train/images/a.jpg"]


@pytest.mark.parametrize("line", ["./images/a.jpg", "images/a.jpg", "/old/disk/set/images/a.jpg"])
def test_a_list_of_images__is_read_relative_to_itself(tmp_path, line):
    write_images(tmp_path / "images", "a.jpg", "b.jpg")
    write_files(tmp_path / "labels", {"a.txt": LINE, "b.txt": LINE})
    yaml = "train: train.txt\nval: val.txt\nnames: [cat]\n"
    files = {"data.yaml": yaml, "train.txt": f"{line}\n\n", "val.txt": "./images/b.jpg\n"}
    splits = read(write_files(tmp_path, files), "raise")
    assert keys(splits) == {"train": ["images/a.jpg"], "val": ["images/b.jpg"]}


def test_validation_on_the_training_images__holds_some_of_them_out(tmp_path):
    names = [f"{k}.jpg" for k in range(10)]
    write_images(tmp_path / "images" / "train2017", *names)
    write_files(tmp_path / "labels" / "train2017", {f"{k}.txt": LINE for k in range(10)})
    yaml = "train: images/train2017\nval: images/train2017\nnames: [cat]\n"
    write_files(tmp_path, {"coco128.yaml": yaml})
    descriptor = load_descriptor(tmp_path)
    assert "val is the training images, so 20% of train are held out" in (descriptor.seen or "")
    assert {k: len(v) for k, v in keys(read_detection(descriptor)).items()} == {
        "train": 8,
        "val": 2,
    }
    written = Descriptor(name="x", format="yolo", root=tmp_path, file="coco128.yaml")
    with pytest.raises(DataError, match=r"val is the training images.*'val: \{fraction: 0\.2\}'"):
        read_detection(written)


def test_suffixes_in_capitals__are_read(tmp_path):
    root = split_first(tmp_path, "names: [cat]\n")
    (root / "train" / "labels" / "a.txt").rename(root / "train" / "labels" / "a.TXT")
    (root / "train" / "images" / "a.jpg").rename(root / "train" / "images" / "a.JPG")
    assert boxes(read(root, "raise")) == [[BOX]]


def test_listed_names_that_differ_from_the_files__are_accepted_by_a_key(tmp_path):
    write_images(tmp_path / "images", "a.JPG", "b.JPG")
    write_files(tmp_path / "labels", {"a.txt": LINE, "b.txt": LINE})
    yaml = "train: train.txt\nval: val.txt\nnames: [cat]\n"
    lists = {"train.txt": "images/a.jpg\n", "val.txt": "images/b.jpg\n"}
    write_files(tmp_path, {"data.yaml": yaml, **lists})
    text = f"name: x\nformat: yolo\nroot: {tmp_path}\nfile: data.yaml\n"
    key = "name_variants: [suffix_case]"
    assert f"write '{key}' in the descriptor" in error_of(tmp_path)
    write_files(tmp_path, {"d/d.yml": text + key + "\n"})
    assert boxes(read(tmp_path / "d" / "d.yml", "raise")) == [[BOX]]


def test_an_image_without_labels__is_a_negative(tmp_path):
    root = split_first(tmp_path, "names: [cat]\n")
    write_images(root / "train" / "images", "empty.jpg", "none.jpg", "more.jpg")
    write_files(root / "train" / "labels", {"empty.txt": "\n", "more.txt": LINE})
    splits = read(root, "raise")
    assert boxes(splits) == [[BOX], [], [BOX], []]
    assert lines(splits, "label_missing") == [
        f"{root}/train/images: 1 of 4 images without a label file; kept as negatives"
    ]
    (root / "train" / "labels" / "more.txt").unlink()
    (root / "train" / "labels" / "empty.txt").unlink()
    assert "labels_mostly_missing" in kinds(read(root))


def test_labels_elsewhere__stop_with_the_place_that_was_looked_at(tmp_path):
    root = split_first(tmp_path, f"{PATHS}names: [cat]\n")
    (root / "train" / "labels").rename(root / "train" / "boxes")
    assert error_of(root) == (
        f"no label file for any image of split 'train' of '{root.name}' (1): there is no "
        f"'a.txt' in '{root}/train/images' and '{root}/train/labels'; name their folder under "
        "'labels' in a descriptor"
    )


def test_label_files_without_an_image__are_counted(tmp_path):
    root = split_first(tmp_path, "names: [cat]\n")
    write_files(root / "train" / "labels", {"lost.txt": LINE, "classes.txt": "cat\n"})
    assert lines(read(root), "label_without_image") == [
        f"{root}/train/labels: 1 label files without an image, such as lost.txt; left out"
    ]


def test_label_files_beside_the_images__and_classes_txt(tmp_path):
    write_images(tmp_path, *(f"{k}.jpg" for k in range(5)))
    write_files(tmp_path, {f"{k}.txt": LINE for k in range(5)})
    write_files(tmp_path, {"classes.txt": "cat\n\ndog\n\n"})
    splits = read(tmp_path, "raise")
    assert splits.class_names == ("cat", "class_1", "dog")
    assert len(splits.require("train")) == 4


def test_darknets_folders__are_read(tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        write_images(tmp_path / f"obj_{split}_data", f"{name}.jpg")
        write_files(tmp_path / f"obj_{split}_data", {f"{name}.txt": LINE})
    write_files(tmp_path, {"obj.names": "cat\n", "train.txt": "data/obj_train_data/a.jpg\n"})
    splits = read(tmp_path, "raise")
    assert keys(splits) == {"train": ["obj_train_data/a.jpg"], "val": ["obj_valid_data/b.jpg"]}
    assert splits.class_names == ("cat",)


# Lines


def read_line(line: str):
    return read_numbers(numbers_of(line)[0])


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0 0.5 0.5 0.25 0.5", BOX),
        ("  0\t0.5  0.5 0.25 0.5  ", BOX),
        ("0.0 .5 5e-1 0.25 0.5", BOX),
        ("0 0.5 0.5 0.25 0.5 0.93", BOX),  # with a score
        ("0, 0.5, 0.5, 0.25, 0.5", BOX),
        ("0,0.5,0.5,0.25,0.5", BOX),
        ("0 0,5 0,5 0,25 0,5", BOX),
        ("0 0.375 0.25 0.625 0.25 0.5 0.75", BOX),  # a triangle
        ("0 0.375 0.5 0.5 0.25 0.625 0.5 0.5 0.75", BOX),  # an oriented box
        ("0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75 0.5 0.5", BOX),
        ("0 0.5 0.5 0.25 0.5 0.4 0.4 2 0.1 0.1 0", BOX),  # a pose
    ],
)
def test_a_line_of_any_task__gives_a_box(tmp_path, text, box):
    splits = labelled(tmp_path, text)
    assert boxes(splits) == [[box]]
    assert [kind for kind in kinds(splits) if kind not in ("class_without_boxes",)] == (
        ["commas_in_labels"] if "," in text else []
    )


def test_a_pose_without_visibility__needs_kpt_shape(tmp_path):
    text = "0 0.5 0.5 0.25 0.5 0.4 0.4 0.1 0.1"
    assert boxes(labelled(tmp_path / "a", text, more="kpt_shape: [2, 2]\n")) == [[BOX]]
    assert boxes(labelled(tmp_path / "b", text)) == [[[8, 6, 40, 30]]]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("2 0.5 0.5 0.25 0.5", "unknown_category", "class 2 has no name: there are 2, numbered fro"
         "m 0; do these labels count from 1?"),
        ("7 0.5 0.5 0.25 0.5", "unknown_category", "class 7 has no name: there are 2, numbered fr"),
        ("-1 0.5 0.5 0.25 0.5", "unknown_category", "class -1 is no index"),
        ("0.5 0.5 0.5 0.25 0.5", "unknown_category", "class 0.5 is no index"),
        ("cat 0.5 0.5 0.25 0.5", "box_malformed", '"cat" is no number'),
        ("0 0.5 0.5 0.25", "box_malformed", "is not 'class cx cy w h'"),
        ("0 0.5 0.5 0.25 x", "box_malformed", '"x" is no number'),
        ("0 0.5 0.5 nan 0.5", "box_not_finite", "is not finite"),
        ("0 40 30 20 30", "box_not_relative", "40 is no share of the image's side"),
        ("0 0.5 1.2 0.25 0.5", "box_not_relative", "1.2 is no share"),
        ("0 0.5 0.5 0 0.5", "box_empty", "has no area"),
        ("0 0.9 0.5 0.4 0.5", "box_clipped", "8.0 over"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "box_malformed", "7 numbers are neither"),
    ],
)  # fmt: skip
def test_a_broken_line__is_named_with_its_number(tmp_path, text, kind, said):
    splits = labelled(tmp_path, f"{LINE}\n{text}\n")
    (found,) = lines(splits, kind)
    assert found.startswith(f"{tmp_path}/train/labels/a.txt:3: image 'train/images/a.jpg': ")
    assert said in found
    assert BOX in boxes(splits)[0]


def test_many_broken_lines__are_an_error_even_where_each_may_be_left_out(tmp_path):
    text = f"{LINE}0 40 30 20 30\n0 41 30 20 30\n0 42 30 20 30\n"
    root = split_first(tmp_path, "names: [cat]\n")
    write_files(root, {"train/labels/a.txt": text})
    with pytest.raises(DataError, match="3 of 4 boxes of 'train' cannot be used"):
        read(root, "skip")


def test_a_label_file_that_is_no_text__leaves_its_image_out(tmp_path):
    root = split_first(tmp_path, "names: [cat]\n")
    write_images(root / "train" / "images", "c.jpg")
    (root / "train" / "labels" / "c.txt").write_bytes(b"0 0.5 0.5 0.2 0.2\n\xff\xfe")
    splits = read(root)
    assert lines(splits, "label_unreadable") == [
        f"{root}/train/labels/c.txt:2: image 'train/images/c.jpg': is no text in UTF-8"
    ]
    assert keys(splits)["train"] == ["train/images/a.jpg"]


@pytest.mark.parametrize("text", ["", "0", "0 0.5 0.5 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2 3 3"])
def test_read_line__refuses_what_is_no_object(text):
    with pytest.raises(LineError):
        read_line(text)


shares = st.floats(0, 1, allow_nan=False)


@given(st.integers(0, 9), shares, shares, shares, shares)
def test_read_line__any_box__is_its_corner_and_sides(label, x, y, width, height):
    found, box = read_line(f"{label} {x!r} {y!r} {width!r} {height!r}")
    assert found == label
    assert box == pytest.approx((x - width / 2, y - height / 2, width, height), abs=1e-12)


def _is_no_pose(points) -> bool:
    """Whether the points cannot be a box and key points, of which each third number is a flag."""
    values = [value for point in points for value in point]
    return (len(values) - 4) % 3 != 0 or not {*values[6::3]} <= {0, 1}


@given(st.lists(st.tuples(shares, shares), min_size=3, max_size=9).filter(_is_no_pose))
def test_read_line__any_outline__is_its_extent(points):
    line = " ".join(["1", *(f"{value!r}" for point in points for value in point)])
    xs, ys = zip(*points, strict=True)
    _, (left, top, width, height) = read_line(line)
    assert (left, top) == (min(xs), min(ys))
    assert (left + width, top + height) == pytest.approx((max(xs), max(ys)), abs=1e-12)


def in_corners(root: Path, units: str = "") -> Path:
    """Boxes as shares of the sides, but of both corners; and a descriptor of them."""
    rows = "0 0.1 0.1 0.9 0.95\n0 0.4 0.5 0.8 0.9\n"
    names = [f"i{k}" for k in range(4)]
    write_images(root / "images", *(f"{name}.jpg" for name in names))
    write_files(root / "labels", {f"{name}.txt": rows for name in names})
    text = f"name: x\nformat: yolo\nroot: {root}\nsplits: {{train: images}}\nclasses: [cat]\n"
    return write_files(root, {"d.yaml": text + units}) / "d.yaml"


def test_corners__are_an_error_that_a_key_settles(tmp_path):
    assert error_of(in_corners(tmp_path)) == (
        f"{tmp_path}/images: they look like corners [x1, y1, x2, y2] in shares (0..1) of the "
        "image's width and height: 4 of 8 boxes reach out of their images as [centre x, centre y, "
        "width, height] in shares (0..1) of the image's width and height; write 'box_units: "
        "{layout: xyxy, scale: share}' in the descriptor to have them converted, or 'box_units: "
        "{layout: cxcywh, scale: share}' if they are right as they are; 'vpt data check' lists "
        "everything"
    )
    path = in_corners(tmp_path, "box_units: {layout: xyxy, scale: share}\n")
    assert boxes(read(path, "raise"))[0] == [[8, 6, 72, 57], [32, 30, 64, 54]]


def test_pixels__are_read_where_the_descriptor_says_so(tmp_path):
    path = in_corners(tmp_path, "box_units: {layout: cxcywh}\n")
    write_files(tmp_path / "labels", {f"i{k}.txt": "0 40 30 20 30\n" for k in range(4)})
    assert boxes(read(path, "raise"))[0] == [[30, 15, 50, 45]]
    plain = in_corners(tmp_path / "b")
    write_files(tmp_path / "b" / "labels", {f"i{k}.txt": "0 40 30 20 30\n" for k in range(4)})
    assert "write 'box_units: {layout: cxcywh}' in the descriptor" in error_of(plain)


def test_a_folder_without_names__says_what_is_wrong_with_its_lines(tmp_path):
    root = split_first(tmp_path)
    write_files(root, {"train/labels/a.txt": "0 40 30 20 30\n", "valid/labels/b.txt": ""})
    assert "no object in any label file" in error_of(root)
    assert "train/labels/a.txt:1: image 'train/images/a.jpg': 40 is no share" in error_of(root)


def test_indices_without_names__are_the_names(tmp_path):
    root = split_first(tmp_path)
    write_files(root, {"train/labels/a.txt": f"{LINE}45 0.5 0.5 0.1 0.1\n"})
    splits = read(root)
    assert (splits.class_names, splits.category_ids) == (("0", "45"), (0, 45))
    assert kinds(splits) == ["category_unnamed"]


def test_a_split_without_label_files__is_named_with_its_folder(tmp_path):
    root = kind_first(tmp_path)
    (root / "labels" / "val" / "b.txt").unlink()
    (root / "labels" / "val").rmdir()
    assert error_of(root) == f"labels of '{root.name}': no folder '{root}/labels/val'"


# data.yaml


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (
            "train: train/images\nval: valid/images\nnames: [a, b]\nnc: 3\n",
            "nc is 3, but there are",
        ),
        (f"{PATHS}names: 3\n", "names 3 is neither a list nor"),
        (f"{PATHS}names: {{a: b}}\n", "'a: \"b\"' is not 'index: na"),
        (f"{PATHS}names: []\n", "names is empty"),
        (f"{PATHS}nc: many\n", 'nc "many" is no number of classes'),
        ("train: nowhere/images\nval: valid/images\nnames: [a]\n", "train: no such folder or list"),
        (
            "train: train/images\nval: nowhere/images\nnames: [a]\n",
            "without this line a part of train is held out",
        ),
        ("train: {a: b}\nval: valid/images\nnames: [a]\n", 'train {"a": "b"} is no folder'),
        ("path: [1]\ntrain: train/images\nnames: [a]\n", "path [1] is not the name of a folder"),
        ("train: train/images\nnames: [a]\nkpt_shape: 17\n", "kpt_shape 17 is not [points, 2]"),
        ("train: train/images\nnames: [a\n", "line 3"),
    ],
)
def test_a_wrong_data_yaml__is_one_line(tmp_path, yaml, said):
    root = split_first(tmp_path, yaml)
    with pytest.raises(VptError) as caught:
        read(root, "raise")
    assert said in str(caught.value)
    assert str(root / "data.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names__with_gaps_numbers_and_words_of_yaml__are_text(tmp_path):
    splits = labelled(tmp_path, "5 0.5 0.5 0.25 0.5\n", names="{0: yes, 3: 7, 5: true, 6: }")
    assert splits.class_names == ("yes", "7", "true", "class_6")
    assert splits.category_ids == (0, 3, 5, 6)
    assert splits.require("train").samples[0].labels.tolist() == [2]


def test_nc_alone__numbers_the_classes(tmp_path):
    splits = read(split_first(tmp_path, f"{PATHS}nc: 2\n"))
    assert splits.class_names == ("class_0", "class_1")


def test_two_data_yamls__are_asked_about(tmp_path):
    yaml = f"{PATHS}names: [cat]\n"
    root = split_first(tmp_path, yaml)
    write_files(root, {"other.yaml": yaml, "notes.yaml": "author: me\n"})
    with pytest.raises(DataError, match=r"has 2 files such as data\.yaml") as caught:
        load_descriptor(root)
    assert "file: data.yaml" in str(caught.value)
    assert "file: other.yaml" in str(caught.value)


def test_a_test_split_without_labels__is_left_out_and_it_is_said(tmp_path):
    root = split_first(tmp_path, f"{PATHS}test: test/images\nnames: [cat]\n")
    assert lines(read(root), "test_without_truth") == [
        f"{root}/data.yaml: test: no such folder or list of images: '{root}/test/images'; left out"
    ]
    write_images(root / "test" / "images", "t.jpg")
    splits = read(root, "raise")
    assert list(keys(splits)) == ["train", "val"]
    assert lines(splits, "test_without_truth") == [
        f"{root}/test/images: no label file for any of its images (1); left out"
    ]


def test_a_classes_txt_among_the_folders_of_labels__is_no_label(tmp_path):
    root = kind_first(tmp_path)
    write_files(root, {"labels/classes.txt": "cat\n"})
    splits = read(root, "raise")
    assert (splits.class_names, kinds(splits)) == (("cat",), [])
