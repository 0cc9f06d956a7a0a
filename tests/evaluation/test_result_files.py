"""Results files as other tools write them: the right numbers, or one line."""

import json

import numpy as np
import pytest
import torch

from tests.evaluation.test_detection import TRUTH, truth_of
from vpt.data.boxes.detection import DetectionSample, DetectionSamples, DetectionSplit, to_coco_dict
from vpt.errors import DataError
from vpt.evaluation import score_results
from vpt.evaluation.result_files import read_results
from vpt.runs.boxes import BoxEvaluator
from vpt.structures import Detections

NAMES = {100: "a/0.jpg", 101: "b/x y.png"}
NAMED = {
    **TRUTH,
    "images": [{**image, "file_name": NAMES[image["id"]]} for image in TRUTH["images"]],
}


def perfect(truth=TRUTH, **changes) -> list[dict]:
    rows = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": each["bbox"],
            "score": 0.9,
        }
        for each in truth["annotations"]
    ]
    return [{**row, **{key: change(row) for key, change in changes.items()}} for row in rows]


def ap(records, truth=TRUTH) -> float:
    return score_results(records, truth).compute()["AP"]


@pytest.mark.parametrize("form", ["list", "lines", "one", "annotations", "predictions"])
def test_results__in_any_usual_form__are_read(tmp_path, form):
    records = perfect()
    path = tmp_path / "r.json"
    text = {
        "list": json.dumps(records),
        "lines": "\n".join(map(json.dumps, records)) + "\n\n",
        "one": json.dumps(records[0]),
        "annotations": json.dumps({"images": [], "annotations": records}),
        "predictions": json.dumps({"predictions": records}),
    }[form]
    path.write_text("\ufeff" + text)
    assert read_results(path) == (records[:1] if form == "one" else records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TRUTH, "holds annotations without scores, as ground truth does"),
        ({"images": []}, "must hold a list of results"),
        ([1], "must hold a list of results"),
        ("x", "must hold a list of results"),
    ],
)
def test_a_file_without_results__says_what_it_is(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_results(path)


@pytest.mark.parametrize(
    "name",
    [
        {100: "a/0.jpg", 101: "b/x y.png"},
        {100: "0", 101: "x y"},
        {100: "0.jpg", 101: "x y.png"},
        {100: "/home/me/data/a/0.jpg", 101: "C:\\data\\b\\x y.png"},
        {100: "100", 101: " 101 "},
    ],
)
@pytest.mark.parametrize("field", ["image_id", "file_name", "image"])
def test_images__may_be_named(name, field):
    records = perfect(**{field: lambda row: name[row["image_id"]]})
    if field != "image_id":
        if name[100] == "100":
            return
        records = [{k: v for k, v in row.items() if k != "image_id"} for row in records]
    assert ap(records, NAMED) == pytest.approx(1.0)


def test_images__may_be_named_by_the_ids_of_the_annotation_file():
    truth = {
        **TRUTH,
        "images": [{**each, "name": f"uuid-{each['id']}"} for each in TRUTH["images"]],
    }
    records = perfect(image_id=lambda row: f"uuid-{row['image_id']}")
    assert ap(records, truth) == pytest.approx(1.0)


def test_categories__may_be_named():
    names = {each["id"]: each["name"] for each in TRUTH["categories"]}
    assert ap(perfect(category_id=lambda row: names[row["category_id"]])) == pytest.approx(1.0)


def test_labels_in_place_of_category_ids__are_refused_as_such():
    labels = {3: 0, 7: 1, 20: 2}
    with pytest.raises(DataError, match=r"they look like labels 0\.\.2"):
        ap(perfect(category_id=lambda row: labels[row["category_id"]]))


def test_results_of_whole_images__are_refused_as_such():
    with pytest.raises(DataError, match="result 0: holds all boxes of an image"):
        ap([{"image_id": 100, "boxes": [[1, 2, 3, 4]], "scores": [0.5], "labels": [1]}])


def test_results_of_a_run__have_the_ids_of_the_annotation_file(tmp_path):
    numbers = np.array([7, 8])
    boxes = np.array([[1.0, 2, 30, 40], [5, 6, 70, 80]])
    samples = [
        DetectionSample(
            *(tmp_path / f"{number}.png", f"{number}.png", number, (100, 100), box[None]),
            *(np.zeros(1, np.int64), np.zeros(1, np.bool_), np.ones(1) * 100, numbers[:1]),
        )
        for number, box in zip(numbers.tolist(), boxes, strict=True)
    ]
    names = {7: "img-a", 8: "img-b"}
    split = DetectionSplit("val", DetectionSamples.of(samples), ("red",), (3,), names)
    evaluator = BoxEvaluator(split, tmp_path / "r.json")
    found = [
        Detections(torch.tensor(box[None]).float(), torch.ones(1), torch.zeros(1).long())
        for box in boxes
    ]
    evaluator.update(found, torch.tensor([0, 1]))
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    written = json.loads((tmp_path / "r.json").read_text())
    assert [record["image_id"] for record in written] == ["img-a", "img-b"]
    assert score_results(written, to_coco_dict(split)).compute() == evaluator.compute()


def test_a_name_of_two_images__is_refused():
    truth = {
        **TRUTH,
        "images": [{**each, "file_name": f"{each['id']}/a.jpg"} for each in TRUTH["images"]],
    }
    with pytest.raises(DataError, match=r'several images are called "a\.jpg"; use their ids'):
        ap(perfect(image_id=lambda row: "a.jpg"), truth)


def test_results_without_boxes__take_those_of_their_outlines():
    def polygon(row):
        x, y, w, h = row["bbox"]
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    records = perfect(segmentation=polygon)
    for record in records:
        del record["bbox"]
    assert ap(records) == pytest.approx(1.0)


UNITS = {
    "corners": lambda x, y, w, h: [x, y, x + w, y + h],
    "centre x": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "shares": lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480],
    "percent": lambda x, y, w, h: [x / 6.4, y / 4.8, w / 6.4, h / 4.8],
    "thousandths": lambda x, y, w, h: [x / 0.64, y / 0.48, w / 0.64, h / 0.48],
}


def dense(count: int, low: float, high: float, seed: int = 0):
    """A truth of many small objects, all in one part of the image."""
    random = np.random.default_rng(seed)
    places = random.uniform(low, high, (count, 2)) * [640, 480]
    boxes = [[*np.round(place), *random.integers(8, 30, 2).tolist()] for place in places]
    return truth_of(*((100, 3, [float(side) for side in box]) for box in boxes))


@pytest.mark.parametrize("words", UNITS)
@pytest.mark.parametrize("place", [(0.0, 0.9), (0.02, 0.2)])
def test_results_in_other_units__are_refused_by_name(words, place):
    truth = dense(12, *place)
    size = truth["images"][0]
    assert (size["width"], size["height"]) == (640, 480)
    records = perfect(truth, bbox=lambda row: UNITS[words](*row["bbox"]))
    with pytest.raises(DataError, match=f"the boxes look like .*{words}"):
        ap(records, truth)
    assert ap(perfect(truth), truth) == pytest.approx(1.0)


def test_percent__of_an_image_of_about_a_hundred_pixels__is_named_although_some_hit_as_written():
    boxes = [(50.0 + 3 * k, 54.0 - k, 10.0, 9.0) for k in range(16)]
    boxes += [(1.0, 1.0, 80.0, 50.0), (5.0, 2.0, 90.0, 60.0)]
    truth = truth_of(*((100, 3, list(box)) for box in boxes))
    truth["images"][0].update(width=120, height=80)

    def percent(x: float, y: float, w: float, h: float) -> list[float]:
        return [x / 1.2, y / 0.8, w / 1.2, h / 0.8]

    records = perfect(truth, bbox=lambda row: percent(*row["bbox"]))
    said = r"percent.*: 18 of the 18 best hit a true box then, 2 as written"
    with pytest.raises(DataError, match=said):
        ap(records, truth)


FRAMES = {
    "stretched to 512": lambda x, y, w, h: [x * 0.8, y * 512 / 480, w * 0.8, h * 512 / 480],
    "padded at the right or below to 1280": lambda *box: [2 * side for side in box],
    "padded on both sides to 320": lambda x, y, w, h: [x / 2, y / 2 + 40, w / 2, h / 2],
}


@pytest.mark.parametrize("words", FRAMES)
def test_results_in_the_pixels_of_a_models_square__are_refused_as_such(words):
    truth = dense(12, 0.1, 0.9)
    records = perfect(truth, bbox=lambda row: FRAMES[words](*row["bbox"]))
    with pytest.raises(DataError, match=f"the boxes look like pixels of the image {words} x"):
        ap(records, truth)


def test_results_in_other_units__are_refused_where_there_is_no_truth_to_compare_with():
    truth = dense(12, 0.1, 0.9)
    records = perfect(truth, bbox=lambda row: UNITS["thousandths"](*row["bbox"]))
    with pytest.raises(DataError, match=r"the boxes look like .*thousandths"):
        ap(records, {**truth, "annotations": []})


def test_results_of_a_bad_detector__are_scored_not_accused():
    truth = dense(30, 0.0, 0.9)
    random = np.random.default_rng(1)
    for spread in (5, 50, 500):
        records = [
            {
                **row,
                "bbox": [
                    *np.clip(np.array(row["bbox"][:2]) + random.normal(0, spread, 2), 0, 440),
                    *random.integers(8, 40, 2).tolist(),
                ],
                "score": float(random.random()),
            }
            for row in perfect(truth) * 3
        ]
        assert 0 <= ap(records, truth) < 1
