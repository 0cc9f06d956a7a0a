"""What reading a list or a folder of images takes while it goes on, by the image."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pytest

from tests.data.coco_files import coco_descriptor
from tests.fixtures import make_image
from vpt.data.descriptor import Descriptor
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection

IMAGES = 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many")
    with (root / "all.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for number in range(IMAGES):
            name = f"class_{number % 40:04d}"
            key = f"train/{name}/{name}_{number:06d}.JPEG"
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).touch()
            writer.writerow([key, name, "train"])
    return root


def peak_of(read) -> int:
    """Bytes at the peak of a reading, the least of three: the first ones may fill caches."""
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        try:
            read()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)


def test_a_folder__takes_a_hundred_bytes_an_image(root):
    descriptor = Descriptor(name="many", format="folder", root=root)
    assert peak_of(lambda: read_splits(descriptor)) < 150 * IMAGES


def test_a_csv_file__takes_a_few_hundred_bytes_an_image__its_text_among_them(root):
    columns = {"path": "path", "label": "label", "split": "split"}
    descriptor = Descriptor.model_validate(
        {"name": "many", "format": "csv", "root": root, "file": "all.csv", "columns": columns}
    )
    assert peak_of(lambda: read_splits(descriptor)) < 350 * IMAGES


def test_a_coco_file__takes_less_than_a_thousand_bytes_a_box(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    make_image(size=(90, 60)).save(tmp_path / "images/one.png")
    boxes = 600
    outline = [[float(value) for value in range(40)]]  # is parsed, and never held
    content = {
        "images": [{"id": 1, "file_name": "one.png", "width": 90, "height": 60}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [number % 50 + number / 9000, 5.5, 20.25, 30.125],
                "area": 20.25 * 30.125,
                "iscrowd": 0,
                "segmentation": outline,
            }
            for number in range(boxes)
        ],
    }
    (tmp_path / "annotations/train.json").write_text(json.dumps(content))
    text = (tmp_path / "annotations/train.json").stat().st_size
    descriptor = coco_descriptor(tmp_path)
    found = peak_of(lambda: read_detection(descriptor, problems="report")) - 2 * text
    assert found < 1000 * boxes
