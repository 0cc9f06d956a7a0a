"""COCO's metrics, and what goes silently wrong with them elsewhere."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch

from vpt.errors import ConfigError, DataError
from vpt.evaluation import DetectionEvaluator, score_results
from vpt.evaluation.detection import METRICS, to_records
from vpt.structures import Detections, Letterbox

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 20, "name": "owl"}]
IDS = (3, 7, 20)
SIZE = (480, 640)


def truth_of(*annotations, images=2):
    """A ground truth of (image_id, category_id, xywh, options)."""
    return {
        "images": [
            {"id": 100 + i, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for i in range(images)
        ],
        "categories": CATEGORIES,
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                **(options[0] if options else {}),
            }
            for number, (image_id, category, box, *options) in enumerate(annotations)
        ],
    }


TRUTH = truth_of(
    (100, 3, [10, 20, 20, 25]),
    (100, 7, [100, 50, 60, 60]),
    (101, 7, [200, 100, 250, 300]),
    (101, 20, [5.5, 6.25, 300.25, 200.5]),
)


def found(boxes, labels, scores=None):
    """Detections from xyxy lists."""
    scores = [0.9] * len(boxes) if scores is None else scores
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def perfect(truth, image_id, ids=IDS):
    """The ground truth of an image as detections."""
    mine = [a for a in truth["annotations"] if a["image_id"] == image_id and not a["iscrowd"]]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
    return found(boxes, [ids.index(a["category_id"]) for a in mine])


def evaluate_perfect(truth, ids=IDS):
    evaluator = DetectionEvaluator(truth, ids)
    image_ids = [image["id"] for image in truth["images"]]
    evaluator.update(image_ids, [perfect(truth, image_id, ids) for image_id in image_ids])
    return evaluator


NOTHING = found([], [])


# ---------------------------------------------------------------------------------------- metrics


def test_the_ground_truth_as_predictions__scores_one__with_annotation_id_zero_and_gaps_in_ids():
    assert TRUTH["annotations"][0]["id"] == 0
    metrics = evaluate_perfect(TRUTH).compute()
    assert set(metrics) == set(METRICS)
    assert all(metrics[name] == pytest.approx(1.0) for name in METRICS)


def test_duplicate_annotation_ids__do_not_merge_boxes():
    truth = copy.deepcopy(TRUTH)
    for annotation in truth["annotations"]:
        annotation["id"] = 5
    assert evaluate_perfect(truth).compute()["AP"] == pytest.approx(1.0)


def test_the_ground_truth__through_the_letterbox_and_back__scores_one():
    letterbox = Letterbox.fit(SIZE, 448)
    evaluator = DetectionEvaluator(TRUTH, IDS)
    for image_id in (100, 101):
        exact = perfect(TRUTH, image_id)
        boxes = letterbox.to_original(letterbox.to_letterboxed(exact.boxes))
        evaluator.update([image_id], [Detections(boxes, exact.scores, exact.labels)])
    assert evaluator.compute()["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("ids", [(3, 7, 20), (20, 3, 7), (7, 20, 3)])
def test_labels__are_mapped_by_the_given_order__whatever_it_is(ids):
    evaluator = evaluate_perfect(TRUTH, ids)
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    assert list(evaluator.per_class_ap()) == evaluator.class_names
    wrong = DetectionEvaluator(TRUTH, ids)
    shifted = perfect(TRUTH, 100, ids)
    labels = (shifted.labels + 1) % 3
    wrong.update([100], [Detections(shifted.boxes, shifted.scores, labels)])
    assert wrong.compute()["AP"] == 0.0


def test_no_detections_at_all__are_zeros__not_an_error():
    evaluator = DetectionEvaluator(TRUTH, IDS)
    metrics = evaluator.compute()
    assert metrics == dict.fromkeys(METRICS, 0.0)
    evaluator.update([100, 101], [NOTHING, NOTHING])
    assert evaluator.compute() == metrics
    assert evaluator.results() == []
    assert evaluator.per_class_ap() == {"cat": 0.0, "dog": 0.0, "owl": 0.0}


def test_images_that_are_not_predicted__are_misses():
    evaluator = DetectionEvaluator(TRUTH, IDS)
    evaluator.update([100], [perfect(TRUTH, 100)])
    assert evaluator.per_class_ap() == pytest.approx({"cat": 1.0, "dog": 51 / 101, "owl": 0.0})
    assert evaluator.compute()["AR@100"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_sizes_and_classes_without_boxes__are_absent__never_minus_one():
    evaluator = evaluate_perfect(truth_of((100, 3, [10, 20, 20, 25])))
    metrics = evaluator.compute()
    assert set(METRICS) - set(metrics) == {"AP_medium", "AP_large", "AR_medium", "AR_large"}
    assert min(metrics.values()) > 0.99
    assert evaluator.per_class_ap() == {"cat": pytest.approx(1.0), "dog": None, "owl": None}
    assert list(evaluator.pr_curves()) == ["cat"]


def test_a_ground_truth_without_boxes__has_no_metrics():
    evaluator = DetectionEvaluator(truth_of(), IDS)
    evaluator.update([100], [found([[1, 1, 9, 9]], [0])])
    assert evaluator.compute() == {}
    assert evaluator.per_class_ap() == {"cat": None, "dog": None, "owl": None}


def test_the_size__is_told_by_the_annotations_area__or_the_boxs():
    box = [10, 10, 100, 100]
    by_mask = evaluate_perfect(truth_of((100, 3, box, {"area": 50.0}))).compute()
    assert "AP_small" in by_mask
    assert "AP_large" not in by_mask
    plain = truth_of((100, 3, box))
    for key in ("area", "iscrowd"):
        del plain["annotations"][0][key]
    evaluator = DetectionEvaluator(plain, IDS)
    evaluator.update([100], [found([[10, 10, 110, 110]], [0])])
    assert "AP_large" in evaluator.compute()


def test_crowds__are_ignored__hit_or_missed():
    crowd = (
        100,
        3,
        [300, 200, 100, 100],
        {"iscrowd": 1, "segmentation": {"counts": [], "size": []}},
    )
    truth = truth_of((100, 3, [10, 20, 20, 25]), crowd)
    missed = evaluate_perfect(truth)
    assert missed.compute()["AP"] == pytest.approx(1.0)
    hit = DetectionEvaluator(truth, IDS)
    inside = [[10, 20, 30, 45], [310, 210, 340, 260], [350, 250, 390, 290]]
    hit.update([100], [found(inside, [0, 0, 0], [0.5, 0.9, 0.8])])
    assert hit.compute()["AP"] == pytest.approx(1.0)
    assert hit.confusion_matrix().sum() == 1


def test_an_ignore_flag__ignores_nothing():
    truth = truth_of((100, 3, [10, 20, 20, 25], {"ignore": 1}))
    evaluator = DetectionEvaluator(truth, IDS)
    assert evaluator.compute()["AP"] == 0.0


def test_the_mean_of_the_classes__is_ap():
    generator = torch.Generator().manual_seed(0)
    evaluator = DetectionEvaluator(TRUTH, IDS)
    for image_id in (100, 101):
        exact = perfect(TRUTH, image_id)
        noise = 4 * torch.randn(exact.boxes.shape, generator=generator)
        scores = torch.rand(len(exact), generator=generator)
        evaluator.update([image_id], [Detections(exact.boxes + noise, scores, exact.labels)])
    values = list(evaluator.per_class_ap().values())
    assert sum(values) / 3 == pytest.approx(evaluator.compute()["AP"])
    assert 0 < evaluator.compute()["AP"] < 1


def test_a_box_off_by_some_pixels__counts_up_to_its_iou():
    evaluator = DetectionEvaluator(truth_of((100, 3, [0, 0, 100, 100])), IDS)
    evaluator.update([100], [found([[0, 0, 100, 72]], [0])])
    metrics = evaluator.compute()
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] == 0.0
    assert metrics["AP"] == pytest.approx(0.5)  # 0.5, 0.55, 0.6, 0.65, 0.7


def test_nothing_is_printed(capsys):
    evaluate_perfect(TRUTH).compute()
    assert capsys.readouterr() == ("", "")


def test_the_ground_truth__is_not_changed():
    truth = copy.deepcopy(TRUTH)
    evaluate_perfect(truth).compute()
    assert truth == TRUTH


def test_reset__forgets_the_detections():
    evaluator = evaluate_perfect(TRUTH)
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    evaluator.reset()
    assert evaluator.compute()["AP"] == 0.0
    evaluator.update([100], [perfect(TRUTH, 100)])
    assert 0 < evaluator.compute()["AP"] < 1


def test_the_fast_evaluation__equals_the_reference():
    generator = random.Random(0)
    truth, results = truth_of(images=40), []
    for image in truth["images"]:
        for _ in range(generator.randrange(5)):
            box = [generator.uniform(5, 200) for _ in range(4)]
            category = generator.choice(IDS)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "iscrowd": int(generator.random() < 0.1),
                }
            )
            for _ in range(4):
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category if generator.random() < 0.8 else 3,
                        "bbox": [side + generator.gauss(0, 8) for side in box[:2]] + box[2:],
                        "score": round(generator.random(), 1),  # with ties
                    }
                )
    slow, fast = (
        score_results(results, truth, coco_eval=each) for each in ("pycocotools", "faster")
    )
    assert 0.05 < slow.compute()["AP"] < 0.95
    assert fast.compute() == pytest.approx(slow.compute(), abs=1e-6)
    assert fast.per_class_ap() == pytest.approx(slow.per_class_ap(), abs=1e-6)
    for name, curve in slow.pr_curves(iou=0.75).items():
        assert fast.pr_curves(iou=0.75)[name] == pytest.approx(curve, abs=1e-6)
    nothing = score_results([], truth, coco_eval="faster").compute()
    assert nothing == dict.fromkeys(METRICS, 0.0)
    assert score_results([], truth_of(), coco_eval="faster").compute() == {}


def test_the_fast_evaluation__says_what_it_needs(monkeypatch):
    monkeypatch.setattr("vpt.evaluation.detection.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'vpt\[fast\]'"):
        DetectionEvaluator(TRUTH, IDS, coco_eval="faster")


# ----------------------------------------------------------------------------------------- curves


def test_pr_curves__fall_where_a_false_positive_comes_first():
    truth = truth_of((100, 3, [0, 0, 50, 50]), (101, 3, [0, 0, 50, 50]))
    evaluator = DetectionEvaluator(truth, IDS)
    evaluator.update([100], [found([[0, 0, 50, 50], [200, 200, 250, 250]], [0, 0], [0.9, 0.8])])
    evaluator.update([101], [found([[0, 0, 50, 50]], [0], [0.7])])
    curve = evaluator.pr_curves()["cat"]
    assert len(curve) == 101
    assert curve[0] == curve[50] == pytest.approx(1.0)
    assert curve[51] == curve[100] == pytest.approx(2 / 3)
    assert evaluator.pr_curves(iou=0.95)["cat"] == curve


# ------------------------------------------------------------------------------ confusion matrix


def test_confusions__by_hand():
    truth = truth_of(
        (100, 3, [0, 0, 50, 50]),
        (100, 7, [100, 100, 50, 50]),
        (101, 20, [0, 0, 50, 50]),
    )
    evaluator = DetectionEvaluator(truth, IDS)
    evaluator.update(
        [100, 101],
        [
            found(
                [[0, 0, 50, 50], [100, 100, 150, 150], [300, 300, 350, 350]],
                [0, 2, 1],
                [0.9, 0.8, 0.7],
            ),
            found([[0, 0, 50, 50]], [2], [0.3]),
        ],
    )
    assert evaluator.confusion_matrix().tolist() == [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
    ]
    assert evaluator.confusion_matrix(score=0.2)[2].tolist() == [0, 0, 1, 0]
    strict = evaluator.confusion_matrix(score=0.95)
    assert strict[:, 3].tolist() == [1, 1, 1, 0]
    assert strict.sum() == 3


def test_a_box_that_was_found_twice__is_one_hit_and_one_false_positive():
    evaluator = DetectionEvaluator(truth_of((100, 3, [0, 0, 50, 50])), IDS)
    evaluator.update([100], [found([[0, 0, 50, 50], [0, 0, 50, 48]], [0, 0], [0.9, 0.8])])
    matrix = evaluator.confusion_matrix()
    assert matrix[0, 0] == 1
    assert matrix[3, 0] == 1
    assert matrix.sum() == 2


def test_a_detection__takes_a_box_of_its_own_class__before_a_nearer_one():
    truth = truth_of((100, 3, [0, 0, 100, 100]), (100, 7, [0, 0, 100, 90]))
    evaluator = DetectionEvaluator(truth, IDS)
    evaluator.update([100], [found([[0, 0, 100, 90], [0, 0, 100, 90]], [0, 1], [0.9, 0.8])])
    assert evaluator.confusion_matrix().diagonal().tolist() == [1, 1, 0, 0]


# ---------------------------------------------------------------------------------------- results


def test_results__are_xywh_in_hundredths__with_category_ids():
    exact = found([[10.123456, 20.0, 30.5, 45.25]], [1], [0.75])
    assert to_records(7, exact, IDS) == [
        {"image_id": 7, "category_id": 7, "bbox": [10.12, 20.0, 20.38, 25.25], "score": 0.75}
    ]


def test_results__written_and_scored__give_the_same_numbers(tmp_path):
    evaluator = DetectionEvaluator(TRUTH, IDS)
    generator = torch.Generator().manual_seed(1)
    for image_id in (100, 101):
        exact = perfect(TRUTH, image_id)
        noise = 3 * torch.randn(exact.boxes.shape, generator=generator)
        evaluator.update([image_id], [Detections(exact.boxes + noise, exact.scores, exact.labels)])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(evaluator.results()))
    scored = score_results(path, TRUTH)
    assert scored.compute() == evaluator.compute()
    assert scored.per_class_ap() == evaluator.per_class_ap()
    assert torch.equal(scored.confusion_matrix(), evaluator.confusion_matrix())
    assert score_results([], TRUTH).compute()["AP"] == 0.0


def test_ids_as_texts__are_read_as_numbers():
    records = [
        {**each, "image_id": str(each["image_id"])} for each in evaluate_perfect(TRUTH).results()
    ]
    assert score_results(records, TRUTH).compute()["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf[]", b"[" * 100_000])
def test_a_results_file__is_read_as_carefully_as_annotations(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    if content.endswith(b"]"):
        assert score_results(path, TRUTH).compute()["AP"] == 0.0
    else:
        with pytest.raises(DataError, match="cannot be read as JSON"):
            score_results(path, TRUTH)


def test_a_sliver__matches_itself():
    truth = truth_of((100, 3, [5.127, 5, 0.024, 20]))
    assert evaluate_perfect(truth).compute()["AP"] == pytest.approx(1.0)


def test_boxes_as_xyxy__would_be_noticed():
    """In a results file the corners score visibly less than the exact hit that they are."""
    records = evaluate_perfect(TRUTH).results()
    for record in records:
        x, y, width, height = record["bbox"]
        record["bbox"] = [x, y, x + width, y + height]
    assert score_results(records, TRUTH).compute()["AP"] < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "result 1: image 9 is not in the ground truth; known are the ids 100"),
        ({"image_id": [100]}, r"result 1: image \[100\] is not in the ground truth"),
        ({"image_id": None}, "result 1: names no image"),
        ({"category_id": {}}, "result 1: category id {} is not in"),
        ({"bbox": [1, 2, 3, 10**400]}, "result 1: needs bbox .* all finite"),
        ({"bbox": [1, 2, -3, 4]}, "result 1: needs bbox"),
        ({"bbox": [1, 2, 3, float("nan")]}, "result 1: needs bbox .* all finite"),
        ({"score": float("nan")}, r"result 1: needs a number in 0\.\.1 as score, not NaN"),
        ({"score": True}, r"result 1: needs a number in 0\.\.1 as score, not true"),
        ({"score": "0.9"}, 'as score, not "0.9"'),
        ({"score": 90}, "as score, not 90; divide percents by 100"),
        ({"bbox": None}, "it has none, and no segmentation that outlines anything"),
        ({"category_id": 1}, "result 1: category id 1 is not in the ground truth; known are 3, 7"),
        ({"bbox": [1, 2, 3]}, r"result 1: needs bbox \[x, y, width, height\], all finite"),
        ({"score": None}, "as score, not null"),
        ({"category_id": 0}, "category id 0 is not in the ground truth; known are 3, 7"),
        ({"category_id": "blue whale"}, 'category id "blue whale" is not in'),
        ({"image_id": "x.png"}, 'result 1: image "x.png" is not in the ground truth'),
    ],
)
def test_results_that_do_not_fit__are_refused__with_their_place(change, message):
    records = evaluate_perfect(TRUTH).results()
    records[1].update(change)
    with pytest.raises(DataError, match=message):
        score_results(records, TRUTH)


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense"])
def test_a_file_that_holds_no_results__is_refused__by_name(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"results\.json: "):
        score_results(path, TRUTH)
    with pytest.raises(DataError, match=r"missing\.json: cannot be read"):
        score_results(tmp_path / "missing.json", TRUTH)


def test_an_image_that_comes_twice__is_refused():
    evaluator = DetectionEvaluator(TRUTH, IDS)
    evaluator.update([100], [NOTHING])
    with pytest.raises(DataError, match="image id 100 was evaluated twice"):
        evaluator.update([100], [NOTHING])


def test_an_unknown_image__is_refused():
    with pytest.raises(
        DataError, match="image id 5 is not in the ground truth; known are 100, 101"
    ):
        DetectionEvaluator(TRUTH, IDS).update([5], [NOTHING])


def test_categories_that_do_not_fit__are_refused():
    with pytest.raises(DataError, match="category ids 8 are not in the ground truth"):
        DetectionEvaluator(TRUTH, (3, 7, 20, 8))
    with pytest.raises(DataError, match=r"annotation 3 has category id 20, .* its own are 3, 7"):
        DetectionEvaluator(TRUTH, (3, 7))
