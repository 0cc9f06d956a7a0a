"""Files written by hand, read here and by another package for such formats, labelformat."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.coco_files import make_coco
from tests.data.label_data import read, voc_object, voc_xml, write_files, write_images
from vpt.data.boxes.detection import DetectionSplit
from vpt.data.converting import convert
from vpt.data.descriptor import SplitSources
from vpt.data.layouts import load_descriptor
from vpt.data.reading_boxes import read_detection

formats = pytest.importorskip("labelformat.formats", reason="of the extra 'dev'")

Found = dict[str, tuple[list[str], np.ndarray]]


def of_oracle(reader) -> Found:
    """file name -> class names and xyxy boxes."""
    return {
        Path(label.image.filename).name: (
            [each.category.name for each in label.objects],
            np.array([tuple(vars(each.box).values()) for each in label.objects]).reshape(-1, 4),
        )
        for label in reader.get_labels()
    }


def of_split(split: DetectionSplit, *, first: int = 0) -> Found:
    """The same of what is read here; corners of VOC's files count from 1."""
    return {
        sample.source.name: (
            [split.class_names[label] for label in sample.labels],
            sample.boxes + np.array([first, first, 0, 0]),
        )
        for sample in split.samples
    }


def check_same(one: Found, two: Found) -> None:
    assert one.keys() == two.keys()
    for name, (words, boxes) in one.items():
        assert two[name][0] == words
        np.testing.assert_allclose(two[name][1], boxes, atol=1e-3)


def test_yolo__is_read_alike(tmp_path):
    write_images(tmp_path / "train" / "images", "a.jpg", "b.jpg", size=(97, 61))
    write_images(tmp_path / "valid" / "images", "c.jpg")
    text = "1 0.5123 0.25 0.3 0.125\n0 0.1 0.2 0.05 0.075\n"
    labels = {"train/labels/a.txt": text, "train/labels/b.txt": "", "valid/labels/c.txt": text}
    yaml = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    write_files(tmp_path, {**labels, "data.yaml": yaml})
    ours, theirs = (
        of_split(read(tmp_path).require("train")),
        of_oracle(formats.YOLOv8ObjectDetectionInput(tmp_path / "data.yaml", "train")),
    )
    check_same(ours, theirs)


def test_voc__is_read_alike_but_for_where_pixels_count_from(tmp_path):
    write_images(tmp_path, "a.jpg", "b.jpg")
    first = voc_xml(voc_object("cat", 1, 2, 30, 40), voc_object("dog", 5, 5, 9, 9))
    xmls = {"a.xml": first, "b.xml": voc_xml(voc_object("cat", 8, 9, 80, 60))}
    files = {name: text.replace("<size>", f"<filename>{name[0]}.jpg</filename><size>", 1)
             for name, text in xmls.items()}  # fmt: skip
    write_files(tmp_path, {**files, "d.yaml": f"name: x\nformat: voc\nroot: {tmp_path}\n"
                           "splits: {train: .}\nlabels: .\n"})  # fmt: skip
    ours = of_split(read(tmp_path / "d.yaml").require("train"), first=1)
    reader = formats.PascalVOCObjectDetectionInput(tmp_path, "cat,dog")
    check_same(ours, of_oracle(reader))


def test_coco__is_read_alike(tmp_path):
    make_coco(tmp_path)
    ours = of_split(read(tmp_path).require("train"))
    reader = formats.COCOObjectDetectionInput(tmp_path / "annotations" / "train.json")
    check_same(ours, of_oracle(reader))


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_what_is_written__is_read_alike(tmp_path, to):
    make_coco(tmp_path / "s")
    convert(tmp_path / "s", tmp_path / "out", to)
    ours = of_split(read(tmp_path / "out").require("train"), first=to == "voc")
    if to == "coco":
        reader = formats.COCOObjectDetectionInput(tmp_path / "out" / "annotations" / "train.json")
    elif to == "yolo":
        reader = formats.YOLOv8ObjectDetectionInput(tmp_path / "out" / "data.yaml", "train")
    else:
        folder = tmp_path / "out" / "Annotations"
        for path in folder.glob("val_*.xml"):
            path.unlink()
        reader = formats.PascalVOCObjectDetectionInput(folder, "red,green,blue")
    check_same(ours, of_oracle(reader))


def test_what_another_package_writes__is_read_here(tmp_path):
    make_coco(tmp_path / "s")
    source = tmp_path / "s" / "annotations" / "train.json"
    reader = formats.COCOObjectDetectionInput(source)
    formats.YOLOv8ObjectDetectionOutput(tmp_path / "yolo" / "data.yaml", "train").save(reader)
    (tmp_path / "yolo" / "images").symlink_to(tmp_path / "s" / "images")
    (tmp_path / "s" / "images" / "val").rename(tmp_path / "val")
    descriptor = load_descriptor(tmp_path / "yolo" / "data.yaml")
    whole = descriptor.model_copy(update={"splits": SplitSources()})
    ours = of_split(read_detection(whole).require("train"))
    check_same(ours, of_oracle(reader))
