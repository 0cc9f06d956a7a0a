import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.data.coco_files import coco_descriptor, make_coco
from tests.fixtures import make_folder
from vpt.cli.program import _run
from vpt.data.boxes.detection import KINDS
from vpt.data.reading_boxes import read_detection
from vpt.errors import DataError
from vpt.reports.data_check import check_data, finding_lines, score_ground_truth, to_json, verdict
from vpt.reports.data_page import data_page, write_check

ROOT = Path(__file__).parents[2]


def descriptor_file(root: Path, **fields) -> Path:
    """A descriptor of what `make_coco` made, beside it."""
    path = root / "shapes.yaml"
    values = {"name": "<Shapes>", "format": "coco", "root": str(root), "images": "images", **fields}
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def kinds(check, severity: str) -> list[str]:
    return [finding.kind for finding in check.findings if finding.severity == severity]


class Page(HTMLParser):
    """What a page refers to and which elements it has."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_check_data__clean_boxes__has_ap_1_and_no_error(tmp_path):
    check = check_data(descriptor_file(make_coco(tmp_path)))
    assert check.healthy
    assert check.scores == {"train": 1.0, "val": 1.0}
    assert kinds(check, "error") == kinds(check, "warning") == []
    train = check.splits["train"]
    assert (train.images, train.boxes, train.crowds, train.negatives) == (6, 15, 0, 1)
    assert sum(train.class_counts) == 15
    for bins, total in (
        (train.boxes_per_image, 6),
        (train.box_sides, 15),
        (train.aspects, 15),
        (train.areas, 15),
        (train.image_sizes, 6),
    ):
        assert sum(count for _, count in bins) == total
    assert dict(train.boxes_per_image)["3-4"] == 5
    assert verdict(check).endswith("ready to train")


@pytest.mark.parametrize("size", [96, 640, 1001])
def test_score_ground_truth__any_square__is_1(tmp_path, size):
    root = make_coco(tmp_path, size=(61, 87))
    split = read_detection(coco_descriptor(root)).require("train")
    assert score_ground_truth(split, size) == pytest.approx(1.0)


def test_score_ground_truth__crowds_and_annotation_id_0__do_not_lower_it(tmp_path):
    def spoil(content):
        for number, row in enumerate(content["annotations"]):
            row["id"] = number
        content["annotations"][1]["iscrowd"] = 1

    check = check_data(descriptor_file(make_coco(tmp_path, change={"train": spoil})))
    assert check.scores["train"] == pytest.approx(1.0)
    assert check.splits["train"].crowds == 1


def test_score_ground_truth__no_box__is_not_a_number(tmp_path):
    root = make_coco(tmp_path, change={"val": lambda c: c["annotations"].clear()})
    check = check_data(descriptor_file(root))
    assert check.scores["val"] is None
    assert [finding.kind for finding in check.findings if finding.severity == "error"] == [
        "no_boxes"
    ]


def test_check_data__nothing_of_use__is_listed_all_the_same(tmp_path):
    def shift(content):
        for box in content["annotations"]:
            box["category_id"] += 1

    check = check_data(descriptor_file(make_coco(tmp_path / "a", change={"train": shift})))
    kinds = {finding.kind for finding in check.findings}
    assert {"unknown_category", "no_boxes"} <= kinds

    def absolute(content):
        for image in content["images"]:
            image["file_name"] = f"/data/{image['file_name']}"

    check = check_data(descriptor_file(make_coco(tmp_path / "b", change={"train": absolute})))
    assert {"file_name_invalid", "split_empty"} <= {finding.kind for finding in check.findings}
    alone = check_data(descriptor_file(make_coco(tmp_path / "c", splits=("train",))))
    assert [f.kind for f in alone.findings if f.severity == "error"] == ["split_missing"]


def test_check_data__many_boxes_of_a_class__are_no_error(tmp_path):
    def crowd(content):
        content["annotations"] = [
            {"id": n + 1, "image_id": 100, "category_id": 3, "bbox": [n % 80, n // 80 * 9, 9, 8]}
            for n in range(240)
        ]

    check = check_data(descriptor_file(make_coco(tmp_path, change={"train": crowd})))
    assert check.healthy
    assert check.scores["train"] < 1
    assert "crowded" in kinds(check, "note")


def test_check_data__truncated_image_and_wrong_counts__are_errors(tmp_path):
    root = make_coco(tmp_path)
    path = root / "images/val/002.png"
    path.write_bytes(path.read_bytes()[:-1500])
    check = check_data(descriptor_file(root, counts={"train": 7}))
    assert kinds(check, "error") == ["counts_differ", "image_unreadable"]
    assert "truncated" in next(str(f) for f in check.findings if f.kind == "image_unreadable")
    assert "training will stop" in verdict(check)
    data_page(check)


def test_check_data__rare_classes_and_small_boxes__are_notes(tmp_path):
    check = check_data(descriptor_file(make_coco(tmp_path)), size=32)
    assert {"class_rare", "small_boxes"} <= set(kinds(check, "note"))
    assert dict(check.splits["train"].box_sides)["below 8"] > 0


def test_finding_lines__many_of_a_kind__are_cut_after_twenty(tmp_path):
    def spoil(content):
        for row in content["annotations"]:
            if row["id"] > 2:
                row.update(bbox=[5000, 0, 5, 5], area=25)

    root = make_coco(tmp_path, images=11, change={"train": spoil})
    check = check_data(descriptor_file(root))
    lines = finding_lines(check)
    start = next(i for i, line in enumerate(lines) if line.startswith("warning: box_outside (28)"))
    assert all("annotation" in line for line in lines[start + 1 : start + 21])
    assert lines[start + 21] == "  and 8 more"
    assert len([f for f in to_json(check)["findings"] if f["kind"] == "box_outside"]) == 28


def test_write_check__boxes__is_one_page_without_scripts_or_network(tmp_path):
    root = make_coco(
        tmp_path / "data",
        categories={1: "<b>bold", 2: "a & b", 3: '"quoted"'},
        change={"train": lambda c: c["annotations"][0].update(bbox=[-9, 0, 20, 20], area=400)},
    )
    check = check_data(descriptor_file(root))
    write_check(check, tmp_path / "out" / "check")
    text = (tmp_path / "out" / "check" / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert len(page.sources) == 6 + 6 + 8
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for source in page.sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert max(image.size) <= 320
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "&lt;b&gt;bold" in text
    assert "annotation 1" in text
    saved = json.loads((tmp_path / "out" / "check" / "check.json").read_text())
    assert saved == to_json(check)
    assert saved["counts"]["warning"] == 1
    assert saved["splits"]["train"]["boxes"] == 15


def test_data_page__classification__shows_images_and_class_balance(tmp_path):
    root = make_folder(tmp_path, classes=3)
    (root / "train/class_1/0.png").write_bytes(b"<html>")
    check = check_data(root)
    assert kinds(check, "error") == ["image_unreadable"]
    assert kinds(check, "note") == ["class_rare"]
    assert check.splits["train"].class_counts == (3, 3, 3)
    assert check.splits["train"].boxes is None
    page = Page(data_page(check))
    assert len(page.sources) == 8 + 9 + 9
    json.dumps(to_json(check))


def test_copies__are_found_by_their_bytes__a_leak_between_splits_first(tmp_path):
    root = make_folder(tmp_path / "photos", images=4)

    def copy(one: str, other: str) -> None:
        (root / other).write_bytes((root / one).read_bytes())

    copy("train/class_0/0.png", "test/class_0/1.png")
    copy("train/class_0/1.png", "train/class_1/1.png")
    copy("val/class_1/2.png", "val/class_1/3.png")
    check = check_data(root)
    found = {finding.kind: str(finding) for finding in check.findings if "content" in finding.kind}
    assert list(found) == ["content_in_two_splits", "content_of_two_classes", "content_twice"]
    leak = "'train/class_0/0.png' (train) = 'test/class_0/1.png' (test)"
    assert found["content_in_two_splits"].endswith(leak)
    assert check.healthy
    assert check.splits["train"].image_sizes == (("12 x 10", 8),)
    assert "most frequent image sizes" in data_page(check)


def test_copies__of_pictures_with_boxes__are_found_too(tmp_path):
    root = make_coco(tmp_path)
    image = root / "images/val/000.png"
    image.write_bytes((root / "images/train/000.png").read_bytes())
    check = check_data(descriptor_file(root))
    (finding,) = (each for each in check.findings if each.kind == "content_in_two_splits")
    assert "train/000.png' (train) = " in str(finding)


def test_data_page__images_in_an_array__are_shown():
    check = check_data(ROOT / "datasets" / "digits.yaml")
    assert check.healthy
    assert len(Page(data_page(check)).sources) == 3 * 12


def test_kinds__each__has_a_meaning_without_a_full_stop():
    assert len(KINDS) > 40
    assert all(text and not text.endswith(".") for _, text in KINDS.values())


@pytest.mark.parametrize("broken", [False, True])
def test_command__exit_code__is_1_with_errors_and_0_without(tmp_path, capfd, broken):
    def spoil(content):
        content["annotations"][0]["bbox"] = [1, 2, -3, 4] if broken else [-9, 2, 30, 4]

    path = descriptor_file(make_coco(tmp_path, change={"train": spoil}))
    words = ["data", "check", str(path), "--output", str(tmp_path / "check"), "--num-workers", "0"]
    assert _run(words, wants_traceback=False) == int(broken)
    printed = capfd.readouterr().out
    assert ("error: box_negative (1)" in printed) == broken
    assert ("warning: box_clipped (1)" in printed) != broken
    assert "image 'train/000.png', annotation 1" in printed
    assert (tmp_path / "check" / "index.html").is_file()


def test_command__no_ground_truth__is_one_line_and_exit_code_2(tmp_path, capfd):
    root = make_coco(tmp_path)
    (root / "annotations/train.json").write_text("[]")
    words = ["data", "check", str(descriptor_file(root))]
    assert _run(words, wants_traceback=False) == 2
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(DataError, match="a list"):
        check_data(descriptor_file(root))


def test_tool__is_the_command(tmp_path):
    path = descriptor_file(make_coco(tmp_path))
    command = [sys.executable, str(ROOT / "tools/check_data.py"), str(path), "--num-workers", "0"]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}  # a script's own folder comes first in the path
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=here)
    assert done.returncode == 0, done.stderr
    assert "ready to train" in done.stdout


def test_advice_on_a_recognised_folder__comes_with_its_descriptor(tmp_path):
    source = make_coco(tmp_path / "boxes", change={"train": corners})
    lines = finding_lines(check_data(source, num_workers=0))
    assert any("write 'box_units: {layout: xyxy}' in the descriptor" in line for line in lines)
    written = next(line for line in lines if line.startswith("this descriptor reads the folder"))
    assert f"format: coco\nroot: {source}\n" in written


def corners(content: dict[str, list[dict[str, list[float]]]]) -> None:
    for each in content["annotations"]:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]
