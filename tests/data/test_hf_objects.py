"""Image folders of Hugging Face with boxes: the rows of their metadata.jsonl."""

import json
from pathlib import Path

import pytest

from tests.data.label_data import boxes, error_of, keys, kinds, lines, read, write_images
from vpt.data.layouts import load_descriptor


def write_rows(root: Path, split: str, *rows: object) -> None:
    names = [row["file_name"] for row in rows if isinstance(row, dict) and "file_name" in row]
    write_images(root / split, *names)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / split / "metadata.jsonl").write_text(text)


def row(name: str, *found: tuple[list[float] | None, object], **more: list[object]) -> dict:
    objects = {"bbox": [box for box, _ in found], "categories": [each for _, each in found]}
    return {"file_name": name, "objects": {**objects, **more}}


def test_rows__are_boxes_in_pixels(tmp_path):
    write_rows(
        tmp_path,
        "train",
        row("a.jpg", ([1, 2, 30, 40], 1), ([5, 5, 10, 10], 0), area=[900, 50], iscrowd=[0, 1]),
        row("empty.jpg"),
    )
    write_rows(tmp_path, "validation", row("b.jpg", ([1, 2, 3, 4], 1)))
    splits = read(tmp_path, "raise")
    assert keys(splits) == {
        "train": ["train/a.jpg", "train/empty.jpg"],
        "val": ["validation/b.jpg"],
    }
    first = splits.require("train").samples[0]
    assert boxes(splits)[0] == [[1, 2, 31, 42], [5, 5, 15, 15]]
    assert (first.labels.tolist(), first.crowds.tolist()) == ([1, 0], [False, True])
    assert first.areas.tolist() == [900, 50]
    assert splits.class_names == ("0", "1")
    assert "category_unnamed" in kinds(splits)


def test_objects_as_a_list__with_names__are_read(tmp_path):
    objects = [{"bbox": [1, 2, 3, 4], "category": "dog"}, {"bbox": [5, 5, 6, 6], "category": "cat"}]
    rows = [{"file_name": f"{k}.jpg", "objects": objects} for k in range(4)]
    write_rows(tmp_path, "train", *rows)
    descriptor = load_descriptor(tmp_path)
    assert "20% of train are held out" in (descriptor.seen or "")
    splits = read(tmp_path)
    assert splits.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [
        ({}, "malformed", "{} has no file_name"),
        (row("c.jpg", ([1, 2, 3], 0)), "box_malformed", "bbox [1, 2, 3] is not [x, y, width, h"),
        (row("c.jpg", ([1, 2, 3, -4], 0)), "box_malformed", "is not [x, y, width, height]"),
        (row("c.jpg", (None, 0)), "box_malformed", "bbox null is not"),
        (row("c.jpg", ([1, 2, 3, 4], None)), "unknown_category", "category null is none of"),
        (row("c.jpg", ([90, 2, 30, 40], 0)), "box_outside", "in an image of 80 x 60"),
    ],
)
def test_a_broken_row__is_named_with_its_line(tmp_path, broken, kind, said):
    write_rows(tmp_path, "train", row("a.jpg", ([1, 2, 3, 4], 0)), broken)
    write_rows(tmp_path, "val", row("b.jpg", ([1, 2, 3, 4], 0)))
    splits = read(tmp_path)
    (found,) = lines(splits, kind)
    assert found.startswith(f"{tmp_path}/train/metadata.jsonl:2: ")
    assert said in found


def test_an_image_listed_again__is_taken_once(tmp_path):
    write_rows(tmp_path, "train", row("a.jpg", ([1, 2, 3, 4], 0)), row("a.jpg", ([1, 2, 3, 4], 0)))
    write_rows(tmp_path, "val", row("b.jpg", ([1, 2, 3, 4], 0)))
    splits = read(tmp_path)
    assert kinds(splits) == ["image_listed_twice", "category_unnamed"]
    assert len(splits.require("train")) == 1


def test_a_cut_file__is_one_line(tmp_path):
    write_rows(tmp_path, "train", row("a.jpg", ([1, 2, 3, 4], 0)))
    write_rows(tmp_path, "val", row("b.jpg", ([1, 2, 3, 4], 0)))
    (tmp_path / "val" / "metadata.jsonl").write_text('{"file_name": "b.jp')
    assert error_of(tmp_path).startswith(
        f"{tmp_path}/val/metadata.jsonl: cannot be read as lines of JSON"
    )
