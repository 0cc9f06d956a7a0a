"""Images of a 12-bit camera from the data check to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_detection_runs import make_config as make_detection_config
from tests.training import make_config
from vpt.api import load_detector, load_prompt
from vpt.engine.device import choose_device
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError
from vpt.reports.data_check import check_data
from vpt.runs import measure_prompt, predict_images, train
from vpt.runs.detection import predict_boxes

CPU = choose_device("cpu")


def photo(seed: int, label: int) -> np.ndarray:
    """(24, 24) of 0..255: noise, brighter on the left or on the right."""
    values = np.random.default_rng(seed).integers(0, 80, (24, 24))
    values[:, 12 * label : 12 * label + 12] += 170
    return values.astype(np.uint8)


def make_photos(root: Path, *, deep: bool) -> Path:
    """The same images in 8 bits, or in 16-bit files of a 12-bit camera."""
    for split in ("train", "val", "test"):
        for label in range(2):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(4):
                values = photo(100 * len(split) + 10 * label + number, label)
                if deep:
                    values = np.rint(values / 255 * 4095).astype(np.uint16)
                Image.fromarray(values).save(folder / f"{number}.png")
    return root


def test_a_run_with_a_value_range__equals_the_run_of_the_same_images_in_8_bits(tmp_path):
    deep = make_photos(tmp_path / "deep", deep=True)
    flat = make_photos(tmp_path / "flat", deep=False)
    lines: list[str] = []
    scaled = {"data__value_range": [0, 4095], "backbone": "bundled/glyph_vit"}
    ours = train(make_config(tmp_path / "deep_run", deep, **scaled), log=lines.append)
    theirs = train(make_config(tmp_path / "flat_run", flat, backbone="bundled/glyph_vit"))
    assert (ours.val, ours.test) == (theirs.val, theirs.test)
    assert not any(line.startswith("warning") for line in lines)
    path = tmp_path / "deep_run/prompt.safetensors"
    header = read_prompt_header(path)
    assert header.preprocess.value_range == (0.0, 4095.0)
    assert header.requires == ["value_range"]
    measured = measure_prompt(path, deep, device="cpu", batch_size=4, num_workers=0)
    assert measured[0] == ours.test
    model = load_prompt(path)
    assert model.preprocess.value_range == (0.0, 4095.0)
    images = sorted((deep / "test").rglob("*.png"))
    other = [flat / image.relative_to(deep) for image in images]
    found = [each.probability for each in predict_images(model, images, device=CPU)]
    assert found == [each.probability for each in predict_images(model, other, device=CPU)]


def test_without_a_value_range__training_and_data_check_warn__once(tmp_path):
    deep = make_photos(tmp_path / "deep", deep=True)
    lines: list[str] = []
    train(make_config(tmp_path / "run", deep, train__epochs=1), log=lines.append)
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "data.value_range=[0,4095]" in warning
    check = check_data(deep)
    assert check.healthy
    assert {f.kind for f in check.findings if f.severity == "warning"} == {"values_narrow"}
    assert not check_data(deep, value_range=(0, 4095)).count("warning")


def test_floats__train_and_check_with_a_value_range__and_are_unreadable_without(tmp_path):
    data = tmp_path / "data"
    for path in make_photos(tmp_path / "flat", deep=False).rglob("*.png"):
        target = data / path.relative_to(tmp_path / "flat").with_suffix(".tiff")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image, dtype=np.float32) / 255).save(target)
    assert not check_data(data).healthy
    assert check_data(data, value_range=(0, 1)).healthy
    config = make_config(tmp_path / "run", data, data__value_range=[0, 1], train__epochs=1)
    assert train(config).finished == "done"


@pytest.mark.parametrize("wrong", [[4095, 0], [0, 0], [0], "4095", [0, float("inf")]])
def test_a_value_range_that_is_none__is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"data\.value_range"):
        make_config(tmp_path / "run", tmp_path, data__value_range=wrong)


def test_a_detector__is_trained_and_used_with_its_value_range(tmp_path):
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 4096, (64, 64)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"images/{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = {"bbox": [4, 4, 30, 30], "area": 900, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **box})
    categories = [{"id": 1, "name": "thing"}]
    for name, start in (("train", 0), ("val", 2)):
        part = slice(start, start + 2)
        content = {
            "images": images[part],
            "annotations": annotations[part],
            "categories": categories,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    fields = {"name": "deep", "format": "coco", "root": str(tmp_path), "images": "images"}
    splits = {"train": "train.json", "val": "val.json"}
    descriptor = tmp_path / "deep.yaml"
    descriptor.write_text(json.dumps({**fields, "splits": splits}))
    lines: list[str] = []
    data = {"dataset": str(descriptor), "batch_size": 2, "num_workers": 0}
    once = {"epochs": 1, "device": "cpu"}
    train(
        make_detection_config(tmp_path / "dark", descriptor, data=data, train=once),
        log=lines.append,
    )
    assert any("data.value_range=[0,4095]" in line for line in lines)
    assert any(f.kind == "values_narrow" for f in check_data(descriptor).findings)
    scaled = {**data, "value_range": [0, 4095]}
    train(make_detection_config(tmp_path / "run", descriptor, data=scaled, train=once))
    model = load_detector(tmp_path / "run/prompt.safetensors")
    assert model.preprocess.value_range == (0.0, 4095.0)
    (found,) = predict_boxes(model, [tmp_path / "images/0.png"], device=CPU)
    assert found.error is None
