"""What other tools export as COCO: units, outlines, names and classes that are not COCO's."""

import json
import shutil
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from pycocotools import mask as masks

from tests.data.coco_files import coco_descriptor, make_coco
from vpt.data.boxes.detection import DetectionSplits, to_coco_dict
from vpt.data.reading_boxes import read_detection
from vpt.errors import DataError


def read(root: Path, problems="report", **fields) -> DetectionSplits:
    return read_detection(coco_descriptor(root, **fields), problems=problems)


def of_kind(splits: DetectionSplits, kind: str) -> list:
    return [finding for finding in splits.findings if finding.kind == kind]


def refusal(root: Path, **fields) -> str:
    with pytest.raises(DataError) as caught:
        read(root, problems="raise", **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def every_box(change):
    """A change of each annotation, given the size of its image."""

    def spoil(content):
        sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
        for number, row in enumerate(content["annotations"]):
            change(row, *sizes[row["image_id"]], number)

    return spoil


# Units


def to_corners(row, width, height, number):
    x, y, w, h = row["bbox"]
    row["bbox"] = [x, y, x + w, y + h]


def to_centres(row, width, height, number):
    x, y, w, h = row["bbox"]
    row["bbox"] = [x + w / 2, y + h / 2, w, h]


def to_shares(row, width, height, number):
    x, y, w, h = row["bbox"]
    row["bbox"] = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    row["area"] = row["bbox"][2] * row["bbox"][3]


def to_percent(row, width, height, number):
    x, y, w, h = row["bbox"]
    row["bbox"] = [100 * x / width, 100 * y / height, 100 * w / width, 100 * h / height]


def to_permille(row, width, height, number):
    to_percent(row, width, height, number)
    row["bbox"] = [10 * value for value in row["bbox"]]
    del row["area"]


def without_area(change):
    def both(row, *place):
        change(row, *place)
        del row["area"]

    return both


def all_but_one(change):
    return lambda row, *place: change(row, *place) if place[-1] != 3 else None


UNITS = [
    (to_corners, "{layout: xyxy}"),
    (without_area(to_corners), "{layout: xyxy}"),
    (all_but_one(to_corners), "{layout: xyxy}"),
    (without_area(to_centres), "{layout: cxcywh}"),
    (to_shares, "{layout: cxcywh, scale: share}"),
    (all_but_one(to_shares), "{layout: cxcywh, scale: share}"),
    (to_percent, "{layout: xywh, scale: percent}"),
    (to_permille, "{layout: xywh, scale: permille}"),
]


@pytest.mark.parametrize(("change", "units"), UNITS)
def test_boxes_in_other_units__are_one_error__and_the_key_converts_them(tmp_path, change, units):
    root = make_coco(tmp_path / "odd", images=8, change={"train": every_box(change)})
    plain = read(make_coco(tmp_path / "plain", images=8)).require("train")
    splits = read(root)
    (finding,) = (each for each in splits.findings if each.severity != "note")
    assert finding.kind == "box_units"
    assert f"write 'box_units: {units}' in the descriptor to have them converted" in str(finding)
    assert str(finding) in refusal(root)
    import yaml

    given = yaml.safe_load(units)
    converted = read(root, splits={"val": {"fraction": 0.2}}, box_units=given).require("train")
    true = {sample.key: sample for sample in plain.samples}
    odd = 0
    for sample in converted.samples:
        if len(sample.boxes) != len(true[sample.key].boxes):
            odd += 1
            continue
        same = np.isclose(sample.boxes, true[sample.key].boxes).all(axis=1)
        odd += int((~same).sum())
        assert sample.areas[same] == pytest.approx(true[sample.key].areas[same])
    assert odd <= 1


def test_boxes_in_other_units__pass_where_the_descriptor_says_that_they_are_right(tmp_path):
    root = make_coco(tmp_path, change={"train": every_box(to_corners)})
    splits = read(root, box_units={"layout": "xywh"})
    assert not of_kind(splits, "box_units")


@pytest.mark.parametrize("boxes", [1, 2])
def test_boxes_in_other_units__are_named_in_small_files(tmp_path, boxes):
    root = make_coco(tmp_path, boxes=boxes, images=2, change={"train": every_box(to_corners)})
    assert of_kind(read(root), "box_units")


def test_boxes_of_image_folders_in_other_units__are_named_and_converted(tmp_path):
    root = make_coco(tmp_path / "coco", splits=("train",), images=8)
    content = json.loads((root / "annotations/train.json").read_text())
    rows = []
    for image in content["images"]:
        own = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        objects = {
            "bbox": [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in own)],
            "categories": [row["category_id"] for row in own],
        }
        rows.append({"file_name": Path(image["file_name"]).name, "objects": objects})
    folder = root / "images"
    (folder / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {"format": "hf_objects", "images": None}
    message = refusal(folder, **fields)
    assert "the boxes look like corners" in message
    assert "'box_units: {layout: xyxy}'" in message
    found = read(folder, problems="raise", box_units={"layout": "xyxy"}, **fields)
    plain = read(root).require("train")
    for sample, true in zip(found.require("train").samples, plain.samples, strict=True):
        assert sample.boxes.tolist() == true.boxes.tolist()


@pytest.mark.parametrize("units", [{"layout": "xyxy"}, {"scale": "share"}, {"layout": "cxcywh"}])
def test_units_of_the_descriptor_that_do_not_fit__are_an_error(tmp_path, units):
    root = make_coco(tmp_path)
    splits = read(root, box_units=units)
    assert [each.kind for each in splits.findings if each.severity == "error"] == ["box_units"] * 2
    assert "correct 'box_units' in the descriptor, or remove it" in refusal(root, box_units=units)


def test_outlines_in_shares__are_named_and_converted(tmp_path):
    def change(row, width, height, number):
        x, y, w, h = row["bbox"]
        row["bbox"] = None
        shares = [x / width, y / height, (x + w) / width, (y + h) / height]
        row["segmentation"] = [[*shares[:2], shares[2], shares[1], *shares[2:]]]

    root = make_coco(tmp_path / "odd", images=8, change={"train": every_box(change)})
    assert "the outlines look like" in refusal(root)
    splits = {"val": {"fraction": 0.2}}
    plain = make_coco(tmp_path / "plain", images=8)
    found = read(root, problems="raise", splits=splits, box_units={"scale": "share"})
    true = read(plain, splits=splits).require("train")
    for sample, other in zip(found.require("train").samples, true.samples, strict=True):
        assert sample.boxes == pytest.approx(other.boxes)


# Lost objects and outlines


def outline(row, kind: str, width: int, height: int):
    x, y, w, h = (int(value) for value in row["bbox"])
    if kind == "polygon":
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    encoded = masks.encode(np.asfortranarray(mask))
    if kind == "compressed":
        return {"size": [height, width], "counts": encoded["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [height, width], "counts": [0, *runs] if flat[0] else runs}


@pytest.mark.parametrize("kind", ["polygon", "compressed", "runs"])
@pytest.mark.parametrize(
    "bbox", ["gone", None, [], [0, 0, 0, 0], [3, 3, 0, 9], [1, 2, float("nan"), 4]]
)
def test_boxes_that_are_missing__are_the_outlines(tmp_path, kind, bbox):
    def change(row, width, height, number):
        row["segmentation"] = outline(row, kind, width, height)
        if number % 3 == 0:
            row["bbox"] = bbox
            if bbox == "gone":
                del row["bbox"]

    root = make_coco(tmp_path / "odd", change={"train": every_box(change)})
    splits = read(root, problems="raise")
    (finding,) = of_kind(splits, "box_from_outline")
    assert (finding.count, finding.severity) == (5, "warning")
    plain = read(make_coco(tmp_path / "plain")).require("train")
    for sample, true in zip(splits.require("train").samples, plain.samples, strict=True):
        assert sample.boxes.tolist() == true.boxes.tolist()
        assert sample.areas.tolist() == true.areas.tolist()


def test_boxes_that_are_lost__are_an_error_unless_allowed(tmp_path):
    def change(row, width, height, number):
        if number < 2:
            row["bbox"] = [0, 0, 0, 0]

    root = make_coco(tmp_path, change={"train": every_box(change)})
    (finding,) = of_kind(read(root), "boxes_lost")
    assert finding.count == 2
    message = refusal(root)
    assert "2 of 15 boxes of 'train' cannot be used" in message
    assert "'dropped_boxes: allow'" in message
    allowed = read(root, problems="raise", dropped_boxes="allow")
    assert sum(allowed.require("train").class_counts()) == 13


def test_a_box_that_is_lost__is_a_warning(tmp_path):
    root = make_coco(tmp_path, change={"val": lambda c: c["annotations"][0].update(bbox=[0] * 4)})
    splits = read(root, problems="raise")
    assert len(of_kind(splits, "box_empty")) == 1
    assert not of_kind(splits, "boxes_lost")


def test_boxes_of_damaged_entries__count_as_lost_where_these_are_skipped(tmp_path):
    def change(row, width, height, number):
        if number < 3:
            row["bbox"] = "none"

    root = make_coco(tmp_path, change={"train": every_box(change)})
    with pytest.raises(DataError, match="3 of 15 boxes of 'train' cannot be used"):
        read(root, problems="skip")
    assert len(read(root, problems="skip", dropped_boxes="allow").require("train")) == 6


def test_objects_that_are_all_crowds__are_an_error_that_says_why(tmp_path):
    change = every_box(lambda row, *place: row.update(iscrowd=1))
    root = make_coco(tmp_path, change={"train": change})
    assert "all 15 objects of 'train' are crowds" in refusal(root)
    assert "set iscrowd to 0" in refusal(root)


# Test files without truth


def test_a_test_file_without_annotations__is_left_out_if_nothing_names_it(tmp_path):
    root = make_coco(tmp_path, splits=("train", "val", "test"))
    for strip in (lambda c: c.pop("annotations"), lambda c: c.update(annotations=[])):
        content = json.loads((root / "annotations/train.json").read_text())
        strip(content)
        (root / "annotations/test.json").write_text(json.dumps(content))
        splits = read(root, problems="raise")
        assert splits.test is None
        (note,) = of_kind(splits, "test_without_truth")
        assert (note.severity, note.file.name) == ("note", "test.json")


def test_a_test_file_without_annotations__is_a_finding_if_it_is_named(tmp_path):
    root = make_coco(tmp_path, splits=("train", "val", "test"))
    content = json.loads((root / "annotations/test.json").read_text())
    named = {"splits": {"test": "annotations/test.json"}}
    (root / "annotations/test.json").write_text(json.dumps({**content, "annotations": []}))
    (warning,) = of_kind(read(root, problems="raise", **named), "test_without_boxes")
    assert "AP is undefined" in warning.message
    del content["annotations"]
    (root / "annotations/test.json").write_text(json.dumps(content))
    (error,) = of_kind(read(root, **named), "annotations_missing")
    assert error.severity == "error"
    assert "remove splits.test from the descriptor" in refusal(root, **named)


# Names of files


def rename(content, change) -> None:
    for row in content["images"]:
        row["file_name"] = change(row["file_name"])


@pytest.mark.parametrize(
    ("change", "variant"),
    [
        (lambda name: quote(name, safe="/").replace("0", "%30"), "url_encoded"),
        (lambda name: f"images/{name}", "more_folders"),
        (lambda name: f"/home/user/data/{name}", "more_folders"),
        (lambda name: "C:\\data\\" + name.replace("/", "\\"), "more_folders"),
        (lambda name: f"https://example.org/{name}", "more_folders"),
        (lambda name: Path(name).name, None),  # of train and val alike: two files would do
        (lambda name: name.replace(".png", ".PNG"), "suffix_case"),
        (lambda name: name.replace(".png", ".jpg"), "other_suffix"),
        (lambda name: name.replace("/", "/  "), "blanks"),
        (lambda name: f"{name} ", "blanks"),
        (lambda name: name.capitalize(), "letter_case"),
    ],
)
def test_names_of_files__that_differ_in_one_way__are_explained_and_accepted(
    tmp_path, change, variant
):
    spoil = {split: lambda content: rename(content, change) for split in ("train", "val")}
    root = make_coco(tmp_path, change=spoil)
    if variant is None:
        assert "no such file" in refusal(root)
        return
    message = refusal(root)
    assert "' does not exist; 'train/000.png' does: " in message
    assert f"write 'name_variants: [{variant}]' in the descriptor to accept all 6" in message
    splits = read(root, problems="raise", name_variants=[variant])
    (note, _) = of_kind(splits, "file_name_variant")
    assert note.count == 6
    assert "' is read as 'train/000.png'" in note.message
    assert [sample.key for sample in splits.require("val").samples] == [
        f"images/val/{number:03d}.png" for number in range(6)
    ]


def test_names_of_files__with_accents_in_another_form__are_explained_and_accepted(tmp_path):
    root = make_coco(tmp_path, splits=("train",))
    (root / "images/train/000.png").rename(
        root / "images/train" / unicodedata.normalize("NFD", "é.png")
    )
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "train/é.png"
    path.write_text(json.dumps(content))
    assert "name_variants: [unicode_form]' in the descriptor to accept it" in refusal(root)
    assert len(read(root, problems="raise", name_variants=["unicode_form"]).require("train")) == 6


def test_names_of_files__of_another_machine__do_for_what_needs_no_images(tmp_path):
    change = {"train": lambda content: rename(content, lambda name: f"/data/{name}")}
    root = make_coco(tmp_path, change=change)
    splits = read_detection(coco_descriptor(root), problems="raise", needed=["val"])
    assert len(splits.require("train")) == 6


def test_a_folder_of_images__that_is_not_there__has_a_likely_one(tmp_path):
    root = make_coco(tmp_path)
    assert "no folder of images" in refusal(root, images="image")
    assert "did you mean 'images'?" in refusal(root, images="image")


def test_a_file__is_not_given_to_two_names(tmp_path):
    def spoil(content):
        content["images"][1]["file_name"] = "train/000.PNG"

    root = make_coco(tmp_path, change={"train": spoil})
    splits = read(root, name_variants=["suffix_case"])
    assert len(of_kind(splits, "image_missing")) == 1
    assert len(splits.require("train")) == 5


def test_a_missing_file__without_a_likely_one__is_told_as_such(tmp_path):
    root = make_coco(tmp_path)
    (root / "images/train/003.png").unlink()
    assert "003.png: no such file" in refusal(root)


# Ids and classes


def test_image_ids_that_are_names__are_numbered(tmp_path):
    def spoil(content):
        for row in content["images"]:
            row["id"] = f"img-{row['id']}"
        for row in content["annotations"]:
            row["image_id"] = f"img-{row['image_id']}"

    splits = read(make_coco(tmp_path / "odd", change={"train": spoil}), problems="raise")
    (finding,) = of_kind(splits, "ids_as_names")
    assert (finding.count, finding.severity) == (6, "warning")
    train, plain = splits.require("train"), read(make_coco(tmp_path / "plain")).require("train")
    assert [sample.image_id for sample in train.samples] == [1, 2, 3, 4, 5, 6]
    for sample, true in zip(train.samples, plain.samples, strict=True):
        assert sample.boxes.tolist() == true.boxes.tolist()
    assert [image["name"] for image in to_coco_dict(train)["images"]][:2] == ["img-100", "img-103"]


def reordered(content) -> None:
    """The same classes, with other ids: red 3, green 7, blue 20 become 1, 2 and 0."""
    new = {3: 1, 7: 2, 20: 0}
    for row in content["categories"]:
        row["id"] = new[row["id"]]
    for row in content["annotations"]:
        row["category_id"] = new[row["category_id"]]


def test_categories_of_val_in_another_order__are_matched_by_name(tmp_path):
    root = make_coco(tmp_path / "odd", change={"val": reordered})
    assert "write 'match_categories: name' in the descriptor to go by the names" in refusal(root)
    splits = read(root, problems="raise", match_categories="name")
    plain = read(make_coco(tmp_path / "plain"))
    assert splits.category_ids == plain.category_ids
    for sample, true in zip(
        splits.require("val").samples, plain.require("val").samples, strict=True
    ):
        assert sample.labels.tolist() == true.labels.tolist()
    assert (
        to_coco_dict(splits.require("val"))["annotations"]
        == (to_coco_dict(plain.require("val"))["annotations"])
    )


def test_categories_matched_by_name__must_be_there_and_differ(tmp_path):
    def unknown(content):
        content["categories"][0]["name"] = "crimson"

    root = make_coco(tmp_path / "unknown", change={"val": unknown})
    assert "category 'crimson' has boxes, but is not in" in refusal(root, match_categories="name")

    def twice(content):
        content["categories"][1]["name"] = "red"

    root = make_coco(tmp_path / "twice", change={"val": twice})
    assert "2 categories called 'red'" in refusal(root, match_categories="name")


@pytest.mark.parametrize("match", ["id", "name"])
def test_categories_spelled_otherwise__are_taken_as_one_with_a_warning(tmp_path, match):
    def respell(content):
        content["categories"][0]["name"] = "Red"

    root = make_coco(tmp_path, change={"val": respell})
    splits = read(root, problems="raise", match_categories=match)
    (finding,) = of_kind(splits, "category_spelled")
    assert "category 3 is 'Red', and 'red' in" in finding.message
    assert splits.require("val").samples[0].labels.tolist() == [0, 1, 2]


def test_category_ids_that_are_names__are_numbered_by_name(tmp_path):
    def spoil(content):
        names = {row["id"]: row["name"] for row in content["categories"]}
        for row in content["categories"]:
            row["id"] = row["name"]
        for row in content["annotations"]:
            row["category_id"] = names[row["category_id"]]

    splits = read(make_coco(tmp_path, change={"train": spoil, "val": spoil}), problems="raise")
    assert (splits.class_names, splits.category_ids) == (("blue", "green", "red"), (1, 2, 3))
    assert splits.require("train").samples[0].labels.tolist() == [2, 1, 0]
    assert len(of_kind(splits, "ids_as_names")) == 2


def test_annotations_that_name_their_image_and_category__are_understood(tmp_path):
    def spoil(content):
        files = {row["id"]: row["file_name"] for row in content["images"]}
        names = {row["id"]: row["name"] for row in content["categories"]}
        for number, row in enumerate(content["annotations"]):
            path = Path(files[row["image_id"]])
            row["image_id"] = path.as_posix() if number % 2 else f"{path.parent}\\{path.stem}"
            row["category_id"] = names[row["category_id"]]

    splits = read(make_coco(tmp_path / "odd", change={"train": spoil}), problems="raise")
    assert [of_kind(splits, kind)[0].count for kind in ("image_named", "category_named")] == [
        15
    ] * 2
    plain = read(make_coco(tmp_path / "plain"))
    assert to_coco_dict(splits.require("train")) == to_coco_dict(plain.require("train"))


def test_names_of_classes_that_look_like_numbers__stay_as_they_are(tmp_path):
    root = make_coco(tmp_path, categories={0: "00", 1: "01", 2: "1e3"})
    assert read(root, problems="raise").class_names == ("00", "01", "1e3")


def test_the_new_keys__are_for_coco_alone(tmp_path):
    shutil.copytree(make_coco(tmp_path / "a"), tmp_path / "b")
    with pytest.raises(ValueError, match="'box_units' is for format coco"):
        coco_descriptor(tmp_path, format="folder", images=None, box_units={"layout": "xyxy"})
