"""Folders of COCO's annotation files: COCO's own download, and exports of tools."""

import json
from pathlib import Path

import pytest

from tests.data.coco_files import make_coco
from tests.data.label_data import keys, kinds, lines, read, write_images
from vpt.data.layouts import load_descriptor
from vpt.data.reading_boxes import read_detection
from vpt.errors import DataError


def coco_file(path: Path, *names: str, categories: list[dict] | None = None, **more) -> None:
    """An annotation file with a box in each image."""
    found = categories or [{"id": 1, "name": "cat"}]
    content = {
        "images": [
            {"id": k, "file_name": name, "width": 80, "height": 60} for k, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": k + 1,
                "image_id": k,
                "category_id": found[-1]["id"],
                "bbox": [1, 2, 30, 40],
                "area": 1200,
                "iscrowd": 0,
            }
            for k in range(len(names))
        ],
        "categories": found,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("images", ["train2017 val2017", "images/train2017 images/val2017"])
def test_cocos_own_download__is_read(tmp_path, images):
    for split, folder in zip(("train", "val"), images.split(), strict=True):
        write_images(tmp_path / folder, f"{split}.jpg")
        coco_file(tmp_path / "annotations" / f"instances_{split}2017.json", f"{split}.jpg")
        coco_file(tmp_path / "annotations" / f"captions_{split}2017.json", f"{split}.jpg")
        coco_file(tmp_path / "annotations" / f"person_keypoints_{split}2017.json", f"{split}.jpg")
    coco_file(tmp_path / "annotations" / "image_info_test2017.json", "t.jpg", annotations=None)
    first, second = images.split()
    assert keys(read(tmp_path, "raise")) == {
        "train": [f"{first}/train.jpg"],
        "val": [f"{second}/val.jpg"],
    }


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/{}.json", "images"),
        ("annotations/{}.json", "images/{}"),
        ("annotations/{}.json", "{}"),
        ("annotations/{}.json", "."),
        ("annotations/instances_{}.json", "JPEGImages"),
        ("annotations/{}_coco.json", "images/{}"),
        ("{}.json", "images"),
        ("{}.json", "{}"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}/annotations.json", "{}/images"),
        ("{}/labels.json", "{}/data"),
    ],
)
def test_the_images__are_found_where_tools_put_them(tmp_path, annotations, images):
    for split in ("train", "val"):
        write_images(tmp_path / images.format(split), f"{split}.jpg")
        coco_file(tmp_path / annotations.format(split), f"{split}.jpg")
    found = keys(read(tmp_path, "raise"))
    assert found == {
        split: [(Path(images.format(split)) / f"{split}.jpg").as_posix()]
        for split in ("train", "val")
    }


def test_file_names_with_folders__start_where_they_are_found(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / "images" / split, "a.jpg")
        coco_file(tmp_path / "annotations" / f"{split}.json", f"images/{split}/a.jpg")
    assert keys(read(tmp_path, "raise"))["train"] == ["images/train/a.jpg"]


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json"])
def test_one_annotation_file__holds_some_of_its_images_out(tmp_path, name):
    names = [f"{k}.jpg" for k in range(10)]
    write_images(tmp_path / "images", *names)
    coco_file(tmp_path / name, *names)
    splits = read(tmp_path, "raise")
    assert {split: len(found) for split, found in keys(splits).items()} == {"train": 8, "val": 2}
    assert "20% of train are held out" in (load_descriptor(tmp_path).seen or "")


def test_roboflows_export__loses_the_projects_own_category(tmp_path):
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
        {"id": 2, "name": "white", "supercategory": "cells"},
    ]
    for folder in ("train", "valid", "test"):
        write_images(tmp_path / folder, "a.jpg")
        coco_file(tmp_path / folder / "_annotations.coco.json", "a.jpg", categories=categories)
    (tmp_path / "README.roboflow.txt").write_text("exported\n")
    splits = read(tmp_path, "raise")
    assert splits.class_names == ("red", "white")
    assert splits.category_ids == (1, 2)
    assert keys(splits) == {
        "train": ["train/a.jpg"],
        "val": ["valid/a.jpg"],
        "test": ["test/a.jpg"],
    }
    assert lines(splits, "category_is_group")[0] == (
        f"{tmp_path}/train/_annotations.coco.json: category 0 'cells' is the group of all others, "
        "without boxes"
    )


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 0, "name": "cells", "supercategory": "none"}],  # it has the boxes
        [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "dog"}],
        [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog", "supercategory": "cat"}],
    ],
)
def test_a_category_0_of_other_data__stays(tmp_path, categories):
    for folder in ("train", "valid"):
        write_images(tmp_path / folder, "a.jpg")
        coco_file(tmp_path / folder / "_annotations.coco.json", "a.jpg", categories=categories)
    splits = read(tmp_path)
    assert splits.class_names == tuple(entry["name"] for entry in categories)
    assert "category_is_group" not in kinds(splits)


@pytest.mark.parametrize(
    ("files", "proposed"),
    [
        (("instances_train2014", "instances_train2017", "instances_val2017"), "train2017"),
        (("cats", "dogs"), "cats"),
    ],
)
def test_unclear_annotation_files__are_asked_about(tmp_path, files, proposed):
    for name in files:
        names = [f"{name}_{k}.jpg" for k in range(5)]
        write_images(tmp_path / "images", *names)
        coco_file(tmp_path / "annotations" / f"{name}.json", *names)
    with pytest.raises(DataError, match="not clear what they are of") as caught:
        load_descriptor(tmp_path)
    text = str(caught.value)
    assert all(f"annotations/{name}.json" in text.splitlines()[0] for name in files)
    assert proposed in text.split("splits:")[1].splitlines()[1]
    (tmp_path / "mine.yaml").write_text(text.split("\n\n", 1)[1])
    splits = read_detection(load_descriptor(tmp_path / "mine.yaml"))
    assert all(proposed in sample.key for sample in splits.require("train").samples)


def test_a_test_file_without_annotations__is_not_taken_up(tmp_path):
    make_coco(tmp_path, splits=("train", "val"))
    coco_file(tmp_path / "annotations" / "test.json", "t.jpg", annotations=None)
    assert load_descriptor(tmp_path).splits.test is None


def test_one_split_of_cocos_own_download__is_no_class(tmp_path):
    names = [f"{k}.jpg" for k in range(5)]
    write_images(tmp_path / "train2017", *names)
    coco_file(tmp_path / "annotations" / "instances_train2017.json", *names)
    assert len(read(tmp_path, "raise").require("train")) == 4


def test_images_that_are_not_there__are_looked_for_in_the_root(tmp_path):
    coco_file(tmp_path / "annotations" / "train.json", "a.jpg")
    coco_file(tmp_path / "annotations" / "val.json", "b.jpg")
    assert load_descriptor(tmp_path).images is None
    with pytest.raises(DataError, match=r"image 'a\.jpg': .*/a\.jpg: no such file"):
        read(tmp_path, "raise")


def test_an_empty_file_in_roboflows_place__is_named(tmp_path):
    for folder in ("train", "valid"):
        write_images(tmp_path / folder, "a.jpg")
        (tmp_path / folder / "_annotations.coco.json").write_text("{}")
    with pytest.raises(DataError, match=r"train/_annotations\.coco\.json: 'images' is missing"):
        read(tmp_path)


def test_other_json_files__are_no_annotations(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert load_descriptor(tmp_path).format == "folder"


def test_an_annotation_file_as_a_data_set__points_to_its_folder(tmp_path):
    make_coco(tmp_path / "s")
    with pytest.raises(DataError) as caught:
        load_descriptor(tmp_path / "s" / "annotations" / "train.json")
    assert f"; name the folder '{tmp_path}/s', or name it under 'splits'" in str(caught.value)
    alone = tmp_path / "found.json"
    alone.write_text("{}")
    with pytest.raises(DataError, match="holds annotations; name it under 'splits'"):
        load_descriptor(alone)
