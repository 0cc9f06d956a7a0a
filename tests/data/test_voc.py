"""PASCAL VOC's XML files: what is read, and what is said of what cannot be."""

from pathlib import Path

import pytest

from tests.data.label_data import (
    boxes,
    error_of,
    keys,
    kinds,
    lines,
    read,
    voc_object,
    voc_xml,
    write_files,
    write_images,
)
from vpt.data.descriptor import Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.reading_boxes import read_detection
from vpt.errors import DataError

CAT = voc_object("cat", 1, 1, 10, 20)
DOG = voc_object("dog", 31, 11, 50, 40)


def flat(root: Path, **xmls: str) -> Path:
    """Two images with an XML file beside each, unless others are given."""
    found = xmls or {"a": voc_xml(CAT, DOG), "b": voc_xml(DOG)}
    write_images(root, *(f"{name}.png" for name in found))
    return write_files(root, {f"{name}.xml": text for name, text in found.items()})


def flat_boxes(root: Path, **xmls: str) -> list[list[list[float]]]:
    """The boxes of all images of a flat folder, before any are held out."""
    return boxes(read_flat(flat(root, **xmls)))


def read_flat(root: Path, **fields):
    """A flat folder with all of its images in train."""
    values = {"splits": {"train": "."}, "labels": ".", **fields}
    descriptor = Descriptor.model_validate({"name": "x", "format": "voc", "root": root, **values})
    return read_detection(descriptor, problems="report")


def test_corners__count_from_1_and_belong_to_the_box(tmp_path):
    splits = read_flat(flat(tmp_path))
    assert splits.class_names == ("cat", "dog")
    assert boxes(splits) == [[[0, 0, 10, 20], [30, 10, 50, 40]], [[30, 10, 50, 40]]]
    assert splits.require("train").samples[0].labels.tolist() == [0, 1]
    assert kinds(splits) == []


def test_corners_at_0__count_from_0(tmp_path):
    found = read_flat(flat(tmp_path, a=voc_xml(voc_object("cat", 0, 0, 10, 20), DOG)))
    assert boxes(found) == [[[0, 0, 10, 20], [31, 11, 50, 40]]]
    assert kinds(found) == ["corners_from_zero"]


def test_corners__fractions_and_any_order_of_tags__are_read(tmp_path):
    box = "<xmax>20.5</xmax><xmin>1.5</xmin><ymax>30.25</ymax><ymin>3</ymin>"
    found = f"<object><bndbox>{box}</bndbox><name> cat </name></object>"
    assert flat_boxes(tmp_path, a=voc_xml(found)) == [[[0.5, 2, 20.5, 30.25]]]


@pytest.mark.parametrize(
    ("choice", "crowds", "said"),
    [
        ("crowd", [False, True], []),
        ("object", [False, False], []),
        ("leave_out", [False], ["difficult_left_out"]),
    ],
)
def test_difficult_objects__are_what_the_descriptor_says(tmp_path, choice, crowds, said):
    hard = voc_object("dog", 31, 11, 50, 40, difficult=1)
    found = read_flat(flat(tmp_path, a=voc_xml(CAT, hard), b=voc_xml(DOG)), difficult=choice)
    assert found.require("train").samples[0].crowds.tolist() == crowds
    assert kinds(found) == said


def test_difficult_objects_alone__stop_with_the_key_that_settles_it(tmp_path):
    hard = voc_xml(voc_object("dog", 31, 11, 50, 40, difficult=1))
    root = flat(tmp_path, **{f"i{k}": hard for k in range(5)})
    assert "write 'difficult: object' in the descriptor" in error_of(root)
    assert len(read_flat(root, difficult="object").require("train")) == 5


def test_vocs_own_layout__has_its_lists(tmp_path):
    write_images(tmp_path / "JPEGImages", "2007_1.jpg", "2007_2.jpg", "2007_3.jpg")
    names = {"train": "2007_1\n", "val": "2007_2\n", "trainval": "2007_1\n2007_2\n"}
    names |= {"test": "2007_3\n", "cat_train": "2007_1  1\n"}
    write_files(tmp_path / "ImageSets" / "Main", {f"{k}.txt": v for k, v in names.items()})
    xmls = {"2007_1.xml": voc_xml(CAT), "2007_2.xml": voc_xml(DOG, CAT)}
    write_files(tmp_path / "Annotations", xmls)
    splits = read(tmp_path, "raise")
    assert keys(splits) == {
        "train": ["JPEGImages/2007_1.jpg"],
        "val": ["JPEGImages/2007_2.jpg"],
    }  # the test images are published without what is in them
    assert splits.class_names == ("cat", "dog")


def test_vocs_own_layout__a_list_of_one_class__is_read_by_name(tmp_path):
    write_images(tmp_path / "JPEGImages", "x 1.jpg", "y.jpg")
    write_files(tmp_path / "Annotations", {"x 1.xml": voc_xml(CAT), "y.xml": voc_xml(DOG)})
    write_files(tmp_path / "ImageSets" / "Main", {"cat_train.txt": "x 1  1\ny -1\n"})
    descriptor = Descriptor.model_validate(
        {
            "name": "cats",
            "format": "voc",
            "root": tmp_path,
            "splits": {"train": "ImageSets/Main/cat_train.txt"},
            "images": "JPEGImages",
            "labels": "Annotations",
        }
    )
    splits = read_detection(descriptor)
    assert keys(splits) == {"train": ["JPEGImages/x 1.jpg", "JPEGImages/y.jpg"]}


def test_a_listed_image_that_is_missing__is_named(tmp_path):
    write_images(tmp_path / "JPEGImages", "a.jpg", "b.jpg")
    write_files(tmp_path / "Annotations", {"a.xml": voc_xml(CAT), "c.xml": voc_xml(DOG)})
    lists = {"train.txt": "a\nc\na\n", "val.txt": "a\n"}
    write_files(tmp_path / "ImageSets" / "Main", lists)
    splits = read(tmp_path)
    assert lines(splits, "image_missing") == [
        f"{tmp_path}/Annotations/c.xml: image 'JPEGImages/c.jpg': "
        f"{tmp_path}/JPEGImages/c.jpg: no such file"
    ]
    assert lines(splits, "image_listed_twice") == [
        f"{tmp_path}/ImageSets/Main/train.txt: 1 lines that name an image again; left out"
    ]


@pytest.mark.parametrize("labels", ["annotations", "Annotations", "xmls", "labels", "."])
def test_split_folders__have_images_and_xml_files_in_them(tmp_path, labels):
    for split, name, found in (("train", "a", CAT), ("valid", "b", DOG), ("test", "c", CAT)):
        write_images(tmp_path / split / ("images" if labels != "." else "."), f"{name}.jpg")
        write_files(tmp_path / split / labels, {f"{name}.xml": voc_xml(found)})
    splits = read(tmp_path, "raise")
    below = "" if labels == "." else "images/"
    assert keys(splits) == {
        "train": [f"train/{below}a.jpg"],
        "val": [f"valid/{below}b.jpg"],
        "test": [f"test/{below}c.jpg"],
    }


def test_folders_of_kinds__have_the_splits_in_them(tmp_path):
    for split, name, found in (("train2017", "a", CAT), ("val2017", "b", DOG)):
        write_images(tmp_path / "images" / split, f"{name}.jpg")
        write_files(tmp_path / "annotations" / split, {f"{name}.xml": voc_xml(found)})
    assert keys(read(tmp_path, "raise")) == {
        "train": ["images/train2017/a.jpg"],
        "val": ["images/val2017/b.jpg"],
    }


def test_a_folder_without_splits__holds_some_of_its_images_out(tmp_path):
    names = [f"i{k}" for k in range(10)]
    write_images(tmp_path / "images", *(f"{name}.png" for name in names))
    write_files(tmp_path / "annotations", {f"{name}.xml": voc_xml(CAT) for name in names})
    descriptor = load_descriptor(tmp_path)
    assert descriptor.seen == (
        "boxes in PASCAL VOC's format (train: images with annotations); without validation images, "
        "20% of train are held out"
    )
    splits = read_detection(descriptor)
    assert {name: len(found) for name, found in keys(splits).items()} == {"train": 8, "val": 2}


def test_a_missing_or_zero_size__is_the_images(tmp_path):
    xmls = {"a": voc_xml(CAT, size=None), "b": voc_xml(DOG, size=(0, 0)), "c": voc_xml(DOG)}
    splits = read_flat(flat(tmp_path, **xmls))
    assert [sample.size for sample in splits.require("train").samples] == [(60, 80)] * 3
    assert lines(splits, "size_missing") == [
        f"{tmp_path}: 2 XML files without width and height; those of the images are taken"
    ]


def test_another_file_name_inside__the_image_beside_is_taken(tmp_path):
    xmls = {"a": voc_xml(CAT, file_name="b.png"), "b": voc_xml(DOG, file_name="b")}
    splits = read_flat(flat(tmp_path, **xmls))
    assert keys(splits) == {"train": ["a.png", "b.png"]}
    assert lines(splits, "file_name_differs") == [
        f"{tmp_path}: 1 XML files that name another image than the one beside them"
    ]


def test_an_xml_file_of_another_name__belongs_to_the_image_it_names(tmp_path):
    write_images(tmp_path / "images", "a.png", "photo 7.png", "c.png")
    xmls = {
        "a.xml": voc_xml(CAT),
        "export_7.xml": voc_xml(DOG, file_name=r"C:\data\photo 7.png"),
        "gone.xml": voc_xml(DOG, file_name="gone.png"),
    }
    write_files(tmp_path / "annotations", xmls)
    splits = read_flat(tmp_path, splits={"train": "images"}, labels="annotations")
    assert keys(splits) == {"train": ["images/a.png", "images/photo 7.png"]}
    assert splits.require("train").samples[1].labels.tolist() == [1]
    assert lines(splits, "image_missing", "image_without_label") == [
        f"{tmp_path}/annotations/gone.xml: image 'gone': there is no image of its name, nor of the "
        "<filename> in it",
        f"{tmp_path}/images: 1 images without an XML file; left out",
    ]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
FOREIGN = """<!DOCTYPE annotation [
<!ENTITY x SYSTEM "file:///etc/hostname">]>
<annotation><object><name>&x;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (voc_xml(CAT)[:70], ":4", "no whole XML"),
        ("", "", "empty, no XML"),
        ("not xml at all", ":1", "no whole XML"),
        (BOMB, ":2", "declares an XML entity"),
        (FOREIGN, ":2", "declares an XML entity"),
        ("<html></html>", ":1", "is <html>, not VOC's <annotation>"),
        ("<a>" * 60 + "</a>" * 60, ":1", "nested deeper than 50"),
        ("<annotation>\n<object>\n</annotation>", ":3", "no whole XML"),
    ],
)
def test_an_unusable_file__is_one_line_with_its_place(tmp_path, text, place, said):
    root = flat(tmp_path, a=text, b=voc_xml(DOG))
    (found,) = lines(read_flat(root), "label_unreadable")
    assert found.startswith(f"{tmp_path}/a.xml{place}: image 'a.png': {said}")
    assert said in error_of(root)


def test_a_file_in_another_encoding__is_read_as_it_says(tmp_path):
    write_images(tmp_path, "a.png")
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>' + voc_xml(voc_object("Bär", 1, 1, 9, 9))
    (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
    assert read_flat(tmp_path).class_names == ("Bär",)


@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [
        (voc_object("cat", 9, 9, 5, 20), "box_negative", "ends before it begins"),
        (voc_object("cat", float("nan"), 9, 5, 20), "box_not_finite", "bndbox (nan,"),
        ("<object><name>cat</name></object>", "box_malformed", "an object has no bndbox"),
        (voc_object("", 1, 1, 9, 9), "box_malformed", "an object has no name"),
        (
            "<object><name>c</name><bndbox><xmin>1</xmin><ymin>x</ymin></bndbox></object>",
            "box_malformed",
            "is not four numbers xmin, ymin, xmax, ymax",
        ),
        (voc_object("cat", 200, 9, 300, 20), "box_outside", "in an image of 80 x 60"),
        (voc_object("cat", 70, 9, 90, 20), "box_clipped", "10.0 over"),
    ],
)
def test_a_broken_object__is_named_with_its_line(tmp_path, broken, kind, said):
    splits = read_flat(flat(tmp_path, a=voc_xml(DOG, broken), b=voc_xml(DOG, CAT)))
    (found,) = lines(splits, kind)
    assert found.startswith(f"{tmp_path}/a.xml:5: image 'a.png': ")
    assert said in found


def test_a_class_that_the_descriptor_lacks__is_an_error_with_the_nearest(tmp_path):
    root = flat(tmp_path, a=voc_xml(CAT, voc_object("dgo", 1, 1, 9, 9)), b=voc_xml(DOG))
    splits = read_flat(root, classes=["dog", "cat"])
    assert splits.class_names == ("dog", "cat")
    (found,) = lines(splits, "unknown_category")
    assert "a.xml:5: image 'a.png': class 'dgo' is none of the descriptor's" in found
    assert "'dog'" in found


def test_classes_that_differ_in_writing_alone__are_named(tmp_path):
    root = flat(tmp_path, a=voc_xml(CAT, voc_object("Cat", 1, 1, 9, 9)), b=voc_xml(DOG))
    assert lines(read_flat(root), "category_names_alike") == [
        f"{tmp_path}: classes 'Cat', 'cat' differ in writing alone"
    ]


def test_an_outline_without_a_box__gives_its_extent(tmp_path):
    points = "<x1>11</x1><y1>5</y1><x2>20</x2><y2>40</y2><x3>15</x3><y3>30</y3>"
    first = f"<object><name>cat</name><polygon>{points}</polygon></object>"
    second = (
        "<object><name>dog</name><polygon><pt><x>1</x><y>2</y></pt><pt><x>8</x><y>9</y></pt>"
        "<pt><x>3</x><y>4</y></pt></polygon></object>"
    )
    assert flat_boxes(tmp_path, a=voc_xml(first, second)) == [[[10, 4, 20, 40], [0, 1, 8, 9]]]


def test_classes_txt__gives_the_order_of_the_classes(tmp_path):
    write_files(tmp_path, {"classes.txt": "dog\nbird\n"})
    splits = read(flat(tmp_path, a=voc_xml(CAT, DOG), b=voc_xml(DOG), c=voc_xml(CAT)))
    assert splits.class_names == ("dog", "bird", "cat")


def test_two_years__are_asked_about(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        place = tmp_path / "VOCdevkit" / year
        write_images(place / "JPEGImages", "a.jpg")
        write_files(place, {"Annotations/a.xml": voc_xml(CAT), "ImageSets/Main/train.txt": "a\n"})
    with pytest.raises(DataError, match="holds 2 years of PASCAL VOC") as caught:
        load_descriptor(tmp_path)
    assert "labels: VOCdevkit/VOC2007/Annotations" in str(caught.value)
    assert "images: VOCdevkit/VOC2012/JPEGImages" in str(caught.value)


def test_label_files_elsewhere__are_asked_for(tmp_path):
    write_images(tmp_path / "train", "a.png")
    descriptor = Descriptor.model_validate(
        {"name": "x", "format": "voc", "root": tmp_path, "splits": {"train": "train"}}
    )
    with pytest.raises(DataError, match=r"no label file for any .* 'train'.*'a\.xml'.*'labels'"):
        read_detection(descriptor)
