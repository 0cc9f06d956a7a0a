"""What the data path takes, part by part, of real images."""

import io
import json

import pytest
import yaml
from rich.console import Console

from tests.data.coco_files import make_coco
from tests.fixtures import make_folder, make_image
from tests.test_detection_runs import make_config as make_detection_config
from tests.training import make_config
from vpt.errors import ConfigError, DataError
from vpt.reports.data_speed import DataSpeed, data_speed_table, measure_data_path, training_speed


def measured(tmp_path, *, size=(12, 10), training=None, **changes) -> DataSpeed:
    root = make_folder(tmp_path / "data", images=3)
    for number, path in enumerate(sorted(root.glob("train/*/*.png"))):
        make_image(number, size).save(path)
    config = make_config(tmp_path / "run", root, prompt="none", **changes)
    return measure_data_path(config, images=5, turns=3, training=training)


def test_a_measurement__has_every_part_with_its_range_and_is_json(tmp_path):
    result = measured(tmp_path, training=1000.0, data__num_workers=1)
    assert (result.images, result.batch_size, result.workers, result.turns) == (5, 4, 1, 3)
    for name in ("decode", "augment", "collate", "one_worker", "loader"):
        speed = getattr(result, name)
        assert 0 < speed.lowest <= speed.median <= speed.highest
    assert result.one_worker.median < min(result.decode.median, result.augment.median)
    assert result.needed_workers == 1000.0 / result.one_worker.median
    assert json.loads(json.dumps(result.to_dict()))["image_size"] == [32, 32]


def test_larger_files__are_decoded_more_slowly(tmp_path):
    small = measured(tmp_path / "small", data__num_workers=0)
    large = measured(tmp_path / "large", size=(500, 400), data__num_workers=0)
    assert large.decode.median < small.decode.median / 4
    assert large.loader.median < small.loader.median


def test_the_table__holds_the_speeds_against_training(tmp_path):
    result = measured(tmp_path, training=2_000_000.0, data__num_workers=0)
    console = Console(file=io.StringIO(), width=120)
    console.print(data_speed_table(result))
    text = console.file.getvalue()
    assert f"{result.decode.median:,.0f} (" in text
    assert "loader, workers: 0" in text
    assert "2,000,000" in text
    assert "the loader gives 0.00 of what training takes" in text


def test_the_training_step_of_a_config__is_timed_on_its_own_images(tmp_path):
    config = make_config(tmp_path / "run", make_folder(tmp_path / "data"), train__precision="bf16")
    backbone = config.backbone.model_copy(update={"image_size": 160})
    larger = config.model_copy(update={"backbone": backbone})
    assert 0 < training_speed(larger, turns=1) < training_speed(config, turns=1)


def test_images_with_boxes__are_measured_alike(tmp_path):
    data = coco_descriptor_file(tmp_path)
    result = measure_data_path(make_detection_config(tmp_path / "run", data), images=4, turns=1)
    assert result.image_size == (64, 64)
    assert result.one_worker.median < result.decode.median


def coco_descriptor_file(tmp_path):
    make_coco(tmp_path, splits=("train", "val"))
    path = tmp_path / "boxes.yaml"
    splits = {name: f"annotations/{name}.json" for name in ("train", "val")}
    fields = {"name": "shapes", "format": "coco", "root": str(tmp_path), "images": "images"}
    path.write_text(yaml.safe_dump({**fields, "splits": splits}))
    return path


def test_an_unreadable_image__is_named(tmp_path):
    root = make_folder(tmp_path / "data", images=3)
    (root / "train/class_0/1.png").write_bytes(b"")
    config = make_config(tmp_path / "run", root, prompt="none")
    with pytest.raises(DataError, match=r"1\.png: empty file") as caught:
        measure_data_path(config, turns=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="measure nothing"):
        measure_data_path(config, turns=0)
