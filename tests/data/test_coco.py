import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.coco_files import coco_descriptor, make_coco
from vpt.data.boxes.detection import KINDS, SKIPPABLE, DetectionSplits, boxes_hash
from vpt.data.layouts import load_descriptor
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection, to_coco_dict
from vpt.errors import DataError

DATASETS = Path(__file__).parents[2] / "datasets"


def read(root: Path, problems="report", **fields) -> DetectionSplits:
    return read_detection(coco_descriptor(root, **fields), problems=problems)


def spoiled(root: Path, change, split: str = "train") -> DetectionSplits:
    """What is read, and reported, of a data set with one thing wrong in a JSON file."""
    return read(make_coco(root, change={split: change}))


def kinds(splits: DetectionSplits) -> list[str]:
    """What was found, except for the note about the empty images that `make_coco` makes."""
    return [finding.kind for finding in splits.findings if finding.severity != "note"]


def refusal(root: Path, **fields) -> str:
    with pytest.raises(DataError) as caught:
        read(root, problems="raise", **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(root: Path, split: str, change) -> None:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_read_detection__clean_data__is_read_as_written(tmp_path):
    splits = read(make_coco(tmp_path), problems="raise")
    content = json.loads((tmp_path / "annotations" / "train.json").read_text())
    train = splits.require("train")
    assert (train.class_names, train.category_ids) == (("red", "green", "blue"), (3, 7, 20))
    assert [sample.key for sample in train.samples] == [
        f"images/train/{i:03d}.png" for i in range(6)
    ]
    first = train.samples[0]
    rows = [row for row in content["annotations"] if row["image_id"] == first.image_id]
    assert first.size == (60, 90)
    assert first.source.is_file()
    assert (first.boxes.dtype, first.labels.dtype) == (np.float64, np.int64)
    assert first.boxes.tolist() == [
        [x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)
    ]
    assert first.labels.tolist() == [0, 1, 2]
    assert first.annotation_ids.tolist() == [row["id"] for row in rows]
    assert kinds(splits) == []
    with pytest.raises(DataError, match=r"no 'test' split \(it has: train, val\)"):
        splits.require("test")


def test_to_coco_dict__clean_data__gives_back_the_file(tmp_path):
    train = read(make_coco(tmp_path)).require("train")
    content = json.loads((tmp_path / "annotations" / "train.json").read_text())
    truth = to_coco_dict(train)
    assert truth["annotations"] == content["annotations"]
    assert truth["categories"] == content["categories"]
    assert [image["id"] for image in truth["images"]] == [i["id"] for i in content["images"]]
    json.dumps(truth)


def test_read_detection__images_without_boxes__are_kept_as_negatives(tmp_path):
    splits = read(make_coco(tmp_path, splits=("train",)))
    last = splits.require("train").samples[-1]
    assert last.boxes.shape == (0, 4)
    assert last.boxes.dtype == np.float64
    (note,) = splits.findings
    assert (note.kind, note.severity, note.count) == ("images_without_boxes", "note", 1)


# Annotations


def test_annotation_id_zero__is_numbered_anew_in_memory_alone(tmp_path):
    def count_from_zero(content):
        for number, row in enumerate(content["annotations"]):
            row["id"] = number

    splits = spoiled(tmp_path, count_from_zero)
    assert kinds(splits) == ["annotation_id_zero"]
    ids = [number for s in splits.require("train").samples for number in s.annotation_ids.tolist()]
    assert ids == list(range(1, len(ids) + 1))
    assert (
        json.loads((tmp_path / "annotations/train.json").read_text())["annotations"][0]["id"] == 0
    )


def test_annotation_ids__twice__are_named_and_numbered_anew(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["annotations"][4].update(id=2))
    (finding,) = (f for f in splits.findings if f.kind == "annotation_id_twice")
    assert finding.annotation == 2
    assert "annotations[4] has the id of annotations[1]" in finding.message
    ids = np.concatenate([s.annotation_ids for s in splits.require("train").samples])
    assert len(set(ids.tolist())) == len(ids)


@pytest.mark.parametrize("value", [None, "x", 1.5, -3, True, 2**60])
def test_annotation_id__not_usable__is_numbered_anew(tmp_path, value):
    splits = spoiled(tmp_path, lambda c: c["annotations"][1].update(id=value))
    assert kinds(splits) == ["annotation_id_invalid"]
    ids = np.concatenate([s.annotation_ids for s in splits.require("train").samples])
    assert sorted(ids.tolist()) == list(range(1, len(ids) + 1))


def test_area_and_iscrowd__missing__are_filled_in_and_told_once(tmp_path):
    def strip(content):
        for row in content["annotations"]:
            del row["area"], row["iscrowd"]
            row["ignore"] = 1

    splits = spoiled(tmp_path, strip)
    assert sorted(kinds(splits)) == ["area_missing", "crowd_missing", "ignore_flag"]
    assert {f.count for f in splits.findings if f.severity != "note"} == {15}
    for sample in splits.require("train").samples:
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        assert np.array_equal(sample.areas, sides.prod(axis=1))
        assert not sample.crowds.any()


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("area", "big", "area_invalid"),
        ("area", -1, "area_invalid"),
        ("area", 0, "area_invalid"),
        ("area", 2e10, "area_invalid"),
        ("area", float("nan"), "area_invalid"),
        ("iscrowd", 2, "crowd_invalid"),
        ("iscrowd", "yes", "crowd_invalid"),
        ("bbox", None, "box_malformed"),
        ("bbox", [1, 2, 3], "box_malformed"),
        ("bbox", [1, 2, 3, "4"], "box_malformed"),
        ("bbox", [1, 2, 3, True], "box_malformed"),
        ("bbox", {"x": 1}, "box_malformed"),
        ("bbox", [1, 2, float("nan"), 4], "box_not_finite"),
        ("bbox", [1, 2, float("inf"), 4], "box_not_finite"),
        ("bbox", [1, 2, 10**400, 4], "box_not_finite"),
        ("bbox", [20, 20, -5, 4], "box_negative"),
        ("bbox", [20, 20, 0, 4], "box_empty"),
        ("bbox", [20, 20, 4, 0.001], "box_empty"),
        ("bbox", [200, 20, 4, 4], "box_outside"),
        ("bbox", [20, -10, 4, 10], "box_outside"),
        ("bbox", [80, 20, 14, 10], "box_clipped"),
        ("category_id", 4, "unknown_category"),
        ("category_id", "cat", "unknown_category"),
        ("category_id", None, "unknown_category"),
        ("image_id", 99999, "unknown_image"),
        ("image_id", "a.png", "unknown_image"),
        ("image_id", 100.5, "unknown_image"),
        ("image_id", [1], "unknown_image"),
    ],
)
def test_annotation__odd_value__is_one_finding_with_its_id(tmp_path, field, value, kind):
    splits = spoiled(tmp_path, lambda c: c["annotations"][1].update({"area": 9, field: value}))
    (finding,) = (f for f in splits.findings if f.severity != "note")
    assert (finding.kind, finding.annotation) == (kind, 2)
    assert finding.file == tmp_path / "annotations" / "train.json"
    assert (finding.image is None) == (kind == "unknown_image")
    assert "\n" not in str(finding)
    kept = [number for s in splits.require("train").samples for number in s.annotation_ids.tolist()]
    assert (2 in kept) == (kind in ("area_invalid", "crowd_invalid", "box_clipped"))
    if finding.severity == "error":
        assert "annotation 2" in refusal(tmp_path)
        assert len(read(tmp_path, problems="skip").require("train")) == 6
    else:
        read(tmp_path, problems="raise")


def test_box__over_the_edge__is_clipped(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["annotations"][0].update(bbox=[-3, -4, 20, 90]))
    assert splits.require("train").samples[0].boxes[0].tolist() == [0, 0, 17, 60]
    assert to_coco_dict(splits.require("train"))["annotations"][0]["bbox"] == [0, 0, 17, 60]


def test_box__less_than_a_pixel_over_the_edge__is_clipped_without_a_word(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["annotations"][0].update(bbox=[-0.5, 0, 20, 60.9]))
    assert kinds(splits) == []
    assert splits.require("train").samples[0].boxes[0].tolist() == [0, 0, 19.5, 60]


def test_box__twice__is_told_and_kept(tmp_path):
    def double(content):
        content["annotations"].append({**content["annotations"][0], "id": 1000})

    splits = spoiled(tmp_path, double)
    assert kinds(splits) == ["box_twice"]
    assert len(splits.require("train").samples[0].boxes) == 4


def test_crowd__is_no_target_but_stays_in_the_ground_truth(tmp_path):
    segmentation = {"counts": "abc", "size": [60, 90]}
    splits = spoiled(
        tmp_path, lambda c: c["annotations"][1].update(iscrowd=1, segmentation=segmentation)
    )
    train = splits.require("train")
    sample = train.samples[0]
    assert len(sample.boxes) == 3
    assert sample.target_labels.tolist() == [0, 2]
    assert sample.target_boxes.tolist() == sample.boxes[[0, 2]].tolist()
    assert [row["iscrowd"] for row in to_coco_dict(train)["annotations"][:3]] == [0, 1, 0]
    assert sum(train.class_counts()) == 14


@pytest.mark.parametrize("convert", [float, str])
def test_ids__as_floats_or_texts__are_read_as_numbers(tmp_path, convert):
    def rewrite_ids(content):
        for row in content["images"] + content["annotations"] + content["categories"]:
            for field in ("id", "image_id", "category_id"):
                if field in row:
                    row[field] = convert(row[field])

    splits = spoiled(tmp_path / "odd", rewrite_ids)
    plain = read(make_coco(tmp_path / "plain"))
    assert set(kinds(splits)) == ({"ids_as_text"} if convert is str else set())
    assert to_coco_dict(splits.require("train")) == to_coco_dict(plain.require("train"))
    assert splits.category_ids == (3, 7, 20)


# Categories


def test_categories__in_any_order__are_numbered_by_id(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["categories"].reverse())
    assert splits.class_names == ("red", "green", "blue")
    assert splits.require("train").samples[0].labels.tolist() == [0, 1, 2]


def test_categories__of_val__are_numbered_as_in_train(tmp_path):
    root = make_coco(tmp_path)
    rewrite(root, "train", lambda c: c["categories"].append({"id": 5, "name": "grey"}))
    splits = read(root)
    assert splits.category_ids == (3, 5, 7, 20)
    assert splits.require("val").samples[0].labels.tolist() == [0, 2, 3]
    assert to_coco_dict(splits.require("val"))["annotations"][2]["category_id"] == 20
    assert kinds(splits) == ["class_without_boxes"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda c: c["categories"][0].update(name="rot"), "category_renamed"),
        (lambda c: c["categories"].append({"id": 50, "name": "grey"}), "category_unused"),
        (lambda c: c["categories"].append({"id": 3, "name": "x"}), "category_id_twice"),
        (lambda c: c["categories"].append({"id": None, "name": "x"}), "category_id_invalid"),
        (lambda c: c["categories"].append("x"), "malformed"),
    ],
)
def test_categories_of_val__not_as_in_train__are_told(tmp_path, change, kind):
    assert kinds(spoiled(tmp_path, change, split="val")) == [kind]


def test_categories_of_val__with_boxes_but_not_in_train__are_an_error(tmp_path):
    def add(content):
        content["categories"].append({"id": 50, "name": "grey"})
        content["annotations"][0]["category_id"] = 50

    splits = spoiled(tmp_path, add, split="val")
    assert kinds(splits) == ["category_not_in_train"]
    with pytest.raises(DataError, match="category 50 'grey' has boxes, but is not in"):
        read(tmp_path, problems="skip")


def test_categories__sharing_a_name__are_told_apart(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["categories"][1].update(name=" red "))
    assert "category_name_twice" in kinds(splits)
    assert splits.class_names == ("red (3)", "red (7)", "blue")


def test_categories__without_a_name__are_called_by_their_id(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["categories"][1].pop("name"))
    assert splits.class_names == ("red", "7", "blue")


def test_classes_of_the_descriptor__rename_or_are_refused(tmp_path):
    root = make_coco(tmp_path)
    renamed = read(root, classes=["a", "b", "c"])
    assert renamed.class_names == ("a", "b", "c")
    assert kinds(renamed) == ["classes_renamed"]
    assert "another order" in refusal(root, classes=["green", "red", "blue"])
    assert "has 3 categories, the descriptor 2 classes" in refusal(root, classes=["a", "b"])


def test_category_names__are_told_apart__once_and_entirely(tmp_path):
    root = make_coco(tmp_path, categories={3: "cat", 7: "cat", 20: "cat (3)"})
    splits = read(root)
    assert len(set(splits.class_names)) == 3
    assert kinds(splits) == ["category_name_twice"]
    rewrite(root, "val", lambda c: c["categories"].pop(1))
    kept = {3, 20}
    rewrite(
        root,
        "val",
        lambda c: c.update(annotations=[a for a in c["annotations"] if a["category_id"] in kept]),
    )
    assert kinds(read(root)) == ["category_name_twice"]


# Images


def test_images__of_splits_that_are_not_needed__may_be_missing(tmp_path):
    root = make_coco(tmp_path)
    before = read(root)
    shutil.rmtree(root / "images/train")
    assert "image_missing" in refusal(root) or "no such file" in refusal(root)
    splits = read_detection(coco_descriptor(root), needed=["val"])
    assert to_coco_dict(splits.require("train")) == to_coco_dict(before.require("train"))
    (root / "images/val/001.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        read_detection(coco_descriptor(root), needed=["val"])
    shutil.rmtree(root / "images")
    everything = read_detection(coco_descriptor(root), needed=[])
    assert to_coco_dict(everything.require("val")) == to_coco_dict(before.require("val"))
    cut = {"splits": {"train": "annotations/train.json", "val": {"fraction": 0.4, "seed": 0}}}
    with pytest.raises(DataError, match="no folder of images"):
        read_detection(coco_descriptor(root, **cut), needed=["val"])


def test_a_file_that_is_an_image_of_two_splits__is_found__however_it_is_written(tmp_path):
    root = make_coco(tmp_path)
    rewrite(root, "val", lambda c: c["images"][0].update(file_name="val/../train/000.png"))
    assert "image_in_two_splits" in kinds(read(root))


def test_train__without_a_box_after_the_cut__is_refused(tmp_path):
    root = make_coco(tmp_path, splits=("train",))
    cut = {"splits": {"train": "annotations/train.json", "val": {"fraction": 0.5, "seed": 0}}}
    held = {sample.image_id for sample in read(root, **cut).require("val").samples}

    def keep_the_held(content):
        boxes = [each for each in content["annotations"] if each["image_id"] in held]
        content["annotations"] = boxes

    rewrite(root, "train", keep_the_held)
    assert "no box in split 'train'" in refusal(root, **cut)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("id", None, "image_id_invalid"),
        ("id", "a", "image_id_invalid"),
        ("id", 100, "image_id_twice"),
        ("file_name", None, "file_name_invalid"),
        ("file_name", " ", "file_name_invalid"),
        ("file_name", "a\x00.png", "file_name_invalid"),
        ("file_name", "/etc/passwd", "file_name_invalid"),
        ("file_name", "C:\\images\\a.png", "file_name_invalid"),
        ("file_name", "train/000.png", "image_twice"),
        ("file_name", "train/../train/000.png", "image_twice"),
        ("file_name", "train/nothing.png", "image_missing"),
        ("file_name", "a" * 5000, "image_unreadable"),
        ("width", 91, "size_differs"),
    ],
)
def test_image__odd_value__is_an_error_and_can_be_skipped(tmp_path, field, value, kind):
    splits = spoiled(tmp_path, lambda c: c["images"][1].update({field: value}))
    found = [k for k in kinds(splits) if k not in ("unknown_image", "file_name_backslash")]
    assert found == [kind]
    left = 4 if kind == "image_twice" else 5  # neither entry may have all the boxes
    assert len(splits.require("train")) == left
    assert KINDS[kind][0] == "error"
    assert "train.json" in refusal(tmp_path)
    if kind in SKIPPABLE:
        assert len(read(tmp_path, problems="skip").require("train")) == left


@pytest.mark.parametrize("change", [{"width": None}, {"height": 0}, {"width": "wide"}])
def test_image__without_a_size__takes_the_files(tmp_path, change):
    splits = spoiled(tmp_path, lambda c: c["images"][1].update(change))
    assert kinds(splits) == ["size_missing"]
    assert splits.require("train").samples[1].size == (60, 92)


def test_image__exchanged_sides__takes_the_files(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["images"][1].update(width=60, height=92))
    assert kinds(splits) == ["size_exchanged"]
    assert splits.require("train").samples[1].size == (60, 92)


def turned(root: Path, orientation: int) -> None:
    """The second training image as a JPEG of 92 x 60 stored pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(root / "images/train/001.png") as image:
        image.save(root / "images/train/001.jpg", exif=exif)
    rewrite(root, "train", lambda c: c["images"][1].update(file_name="train/001.jpg"))


def test_exif__size_before_turning__is_an_error(tmp_path):
    root = make_coco(tmp_path)
    turned(root, 6)
    splits = read(root)
    assert kinds(splits) == ["size_turned"]
    message = refusal(root)
    assert "92 x 60 is the size as stored; upright (EXIF orientation 6) it is 60 x 92" in message
    assert len(read(root, problems="skip").require("train")) == 5


def test_exif__size_after_turning__is_taken_as_upright(tmp_path):
    root = make_coco(tmp_path)
    turned(root, 6)
    rewrite(root, "train", lambda c: c["images"][1].update(width=60, height=92))
    rewrite(root, "train", lambda c: c["annotations"].clear() or c["annotations"].append(ONE_BOX))
    splits = read(root)
    assert "orientation" not in kinds(splits)
    assert splits.require("train").samples[1].size == (92, 60)
    assert splits.require("train").samples[1].boxes.tolist() == [[5, 60, 25, 90]]


ONE_BOX = {"id": 1, "image_id": 103, "category_id": 3, "bbox": [5, 60, 20, 30]}


def test_exif__upside_down__is_told_because_the_size_cannot_tell(tmp_path):
    root = make_coco(tmp_path)
    turned(root, 3)
    assert kinds(read(root)) == ["orientation"]


def test_image__damaged_head__is_an_error_naming_the_file(tmp_path):
    root = make_coco(tmp_path)
    (root / "images/train/002.png").write_bytes(b"<html>")
    (root / "images/train/003.png").write_bytes(b"")
    splits = read(root)
    assert kinds(splits) == ["image_unreadable", "image_unreadable"]
    assert "002.png: not an image" in refusal(root)
    assert "(2 errors: 2 image_unreadable)" in refusal(root)


def test_image__backslashes__are_read_as_slashes(tmp_path):
    splits = spoiled(tmp_path, lambda c: c["images"][1].update(file_name="train\\001.png"))
    assert kinds(splits) == ["file_name_backslash"]
    assert len(splits.require("train")) == 6


def test_image__of_two_splits__is_an_error(tmp_path):
    splits = spoiled(
        tmp_path, lambda c: c["images"][1].update(file_name="train/000.png", width=90), "val"
    )
    assert kinds(splits) == ["image_in_two_splits"]


def test_image_folders__may_differ_by_split(tmp_path):
    def bare(content):
        for row in content["images"]:
            row["file_name"] = Path(row["file_name"]).name

    root = make_coco(tmp_path, change={"train": bare, "val": bare})
    folders = {"train": "images/train", "val": "images/val"}
    splits = read(root, problems="raise", images=folders)
    assert splits.require("val").samples[0].key == "images/val/000.png"
    message = refusal(root, images={"train": "images/train", "val": "nowhere"})
    assert "no folder of images" in message


def test_image_folder__elsewhere__is_found_and_no_part_of_the_names(tmp_path):
    root = make_coco(tmp_path / "a")
    elsewhere = (root / "images").rename(tmp_path / "b")
    train = read(root, problems="raise", images=str(elsewhere)).require("train")
    assert train.samples[0].source == elsewhere / "train/000.png"
    assert train.samples[0].key == "train/000.png"


# Files and splits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"images": [', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"images": []}', "'annotations' is missing"),
        ('{"images": [], "annotations": [], "categories": [1]}', "'images' is empty"),
        ('{"images": [1], "annotations": {}, "categories": [1]}', "'annotations' is no list"),
        ('{"images": [1], "annotations": [], "categories": [1]}', "no category has a usable id"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "a list, as results are written"),
        ("3", "no object with images"),
    ],
)
def test_json__not_ground_truth__is_one_line(tmp_path, text, message):
    root = make_coco(tmp_path)
    (root / "annotations/train.json").write_text(text)
    assert message in refusal(root)
    with pytest.raises(DataError, match=r"train\.json"):
        read(root)


def test_json__not_there__says_what_to_do(tmp_path):
    root = make_coco(tmp_path, splits=())
    assert "no annotations/train.json; name the annotation files under 'splits'" in refusal(root)
    assert "no such file" in refusal(root, splits={"train": "labels.json"})
    assert "are not in" in refusal(root / "nowhere")


def test_train__without_any_box__is_refused(tmp_path):
    root = make_coco(tmp_path, change={"train": lambda c: c["annotations"].clear()})
    assert "no box in split 'train'" in refusal(root)


def test_counts__are_checked(tmp_path):
    root = make_coco(tmp_path)
    read(root, problems="raise", counts={"train": 6, "val": 6})
    assert "has 6 images in train, 7 are expected" in refusal(root, counts={"train": 7})


def test_cut__is_by_file_name_and_always_the_same(tmp_path):
    root = make_coco(tmp_path, splits=("train",), images=30)
    cuts = {"val": {"fraction": 0.2, "seed": 3}, "test": {"fraction": 0.1}}
    splits = read(root, problems="raise", splits=cuts)
    parts = [{s.key for s in splits.require(name).samples} for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [22, 5, 3]
    assert len(set.union(*parts)) == 30
    rewrite(root, "train", lambda c: c["images"].reverse())
    again = read(root, splits=cuts)
    assert {s.key for s in again.require("val").samples} == parts[1]
    other = read(root, splits={**cuts, "val": {"fraction": 0.2, "seed": 4}})
    assert {s.key for s in other.require("val").samples} != parts[1]
    assert "holds no image" in refusal(root, splits={"val": {"fraction": 0.001}})


def test_read_splits__of_boxes__points_elsewhere(tmp_path):
    with pytest.raises(DataError, match="holds boxes"):
        read_splits(coco_descriptor(tmp_path))


def test_check_findings__one_line__counts_the_kinds(tmp_path):
    def spoil(content):
        content["annotations"][0]["bbox"] = None
        content["annotations"][1]["bbox"] = [1, 1, -1, 1]
        content["annotations"][2]["bbox"] = None

    message = refusal(make_coco(tmp_path, change={"train": spoil}))
    assert "image 'train/000.png', annotation 1: bbox null is not" in message
    assert "(4 errors: 2 box_malformed, 1 box_negative, 1 boxes_lost); 'vpt data check'" in message


def test_coco_descriptors__are_two_and_of_boxes():
    names = ["coco2017", "custom_coco"]
    for name in names:
        descriptor = load_descriptor(DATASETS / f"{name}.yaml")
        assert (descriptor.format, descriptor.metric) == ("coco", "ap")
    assert [
        path.stem
        for path in sorted(DATASETS.glob("*.yaml"))
        if load_descriptor(path).format == "coco"
    ] == names


# Damage of any kind

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-5, 200), st.floats(), st.none()), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_json__any_damage__is_findings_or_one_line(shapes, data):
    content = copy.deepcopy(CONTENT[shapes])
    for _ in range(data.draw(st.integers(1, 4))):
        rows = content[data.draw(st.sampled_from(sorted(content)))]
        place = data.draw(st.integers(0, len(rows) - 1))
        if not (isinstance(rows[place], dict) and rows[place]) or data.draw(st.integers(0, 9)) == 0:
            rows[place] = data.draw(VALUES)
        else:
            rows[place][data.draw(st.sampled_from(sorted(rows[place])))] = data.draw(VALUES)
    (shapes / "annotations/train.json").write_text(json.dumps(content))
    splits, message = None, ""
    try:
        splits = read(shapes)
    except DataError as error:
        message = str(error)
    assert "\n" not in message
    if splits is None:
        return
    for sample in splits.require("train").samples:
        height, width = sample.size
        assert np.isfinite(sample.boxes).all()
        assert (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] <= [width, height]).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        assert (sample.annotation_ids > 0).all()
        assert np.isfinite(sample.areas).all()
        assert ((sample.labels >= 0) & (sample.labels < len(splits.class_names))).all()
    assert all("\n" not in str(finding) for finding in splits.findings)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 3000), byte=st.integers(0, 255), cut=st.booleans())
def test_json__damaged_bytes__are_findings_or_one_line(shapes, place, byte, cut):
    text = json.dumps(CONTENT[shapes]).encode()
    place %= len(text)
    damaged = text[:place] if cut else text[:place] + bytes([byte]) + text[place + 1 :]
    (shapes / "annotations/train.json").write_bytes(damaged)
    messages = []
    try:
        messages += [str(finding) for finding in read(shapes).findings]
    except DataError as error:
        messages.append(str(error))
    assert all("\n" not in message for message in messages)


CONTENT: dict[Path, dict] = {}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = make_coco(tmp_path_factory.mktemp("shapes"), splits=("train",), images=3)
    CONTENT[root] = json.loads((root / "annotations" / "train.json").read_text())
    return root


def test_boxes_hash__is_that_of_the_ground_truth_as_sorted_json(tmp_path):
    split = read(make_coco(tmp_path)).require("train")
    assert boxes_hash(split) == "4fada819ab3c55e008c9bdaf4347d4a2597dc0e588bc6ed756ca1fa04f8ebd16"
    for each in (split, split.take(np.array([2])), split.take(np.zeros(0, dtype=np.int64))):
        text = json.dumps(to_coco_dict(each), sort_keys=True)
        assert boxes_hash(each) == hashlib.sha256(text.encode()).hexdigest()
