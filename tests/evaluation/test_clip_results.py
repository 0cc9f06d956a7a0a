import json
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.clip_examples import (
    CLASSES,
    SEEDS,
    TOPS,
    make_base_to_new,
    make_evaluation,
    make_few_shot,
    make_measured,
    make_runs,
    make_setting,
)
from vpt.evaluation import (
    BaseAndNew,
    ClipEvaluation,
    FewShot,
    average_base_to_new,
    harmonic_mean,
    short_names,
    to_clip_benchmark,
)

# Base and new accuracies in percent, ViT-B/16 of OpenAI, 16 shots, from the papers' tables of
# 11 data sets; CLIP's and MaPLe's published averages are those of MaPLe's.
PUBLISHED = {
    "zero_shot": [
        (72.43, 68.14), (96.84, 94.00), (91.17, 97.26), (63.37, 74.89), (72.08, 77.80),
        (90.10, 91.22), (27.19, 36.29), (69.36, 75.35), (53.24, 59.90), (56.48, 64.05),
        (70.53, 77.50),
    ],
    "maple": [
        (76.66, 70.54), (97.74, 94.36), (95.43, 97.76), (72.94, 74.00), (95.92, 72.46),
        (90.71, 92.05), (37.44, 35.61), (80.82, 78.70), (80.36, 59.18), (94.07, 73.23),
        (83.00, 78.66),
    ],
}  # fmt: skip

shares = st.floats(0, 1)
pairs_of_shares = st.lists(st.tuples(shares, shares), min_size=1, max_size=5)


def published_results() -> list[ClipEvaluation]:
    results = []
    for zero_shot, maple in zip(*PUBLISHED.values(), strict=True):
        measured = [make_measured(value / 100, CLASSES[:4]) for value in zero_shot]
        base, new = ((value / 100,) for value in maple)
        halves = BaseAndNew(*measured, {"maple": make_base_to_new("maple", base, new)})
        results.append(make_evaluation(base_to_new=halves))
    return results


@pytest.mark.parametrize(
    ("method", "base", "new", "published", "mean_of_each"),
    [("zero_shot", 69.34, 74.22, 71.70, 71.59), ("maple", 82.28, 75.14, 78.55, 78.27)],
)
def test_the_average_of_eleven_data_sets__is_the_published_one(
    method, base, new, published, mean_of_each
):
    average = average_base_to_new(published_results(), method)
    assert {key: round(100 * value, 2) for key, value in average.items()} == {
        "base_mean": base,
        "new_mean": new,
        "harmonic_mean_of_means": published,
        "mean_of_harmonic_means": mean_of_each,
    }


def test_the_average__refuses_data_sets_without_the_method():
    with pytest.raises(ValueError, match="no base-to-new result of vpt_deep on EuroSAT"):
        average_base_to_new([make_evaluation(), make_evaluation(base_to_new=None)], "vpt_deep")
    with pytest.raises(ValueError, match="no base-to-new result of ivlp"):
        average_base_to_new([make_evaluation()], "ivlp")
    with pytest.raises(ValueError, match="no results"):
        average_base_to_new([], "vpt_deep")


def test_mean_and_sample_spread__over_the_seeds():
    runs = make_runs("vpt_deep", 16, (0.5, 0.6, 0.7))
    assert runs.top1_mean == pytest.approx(0.6)
    assert runs.top1_std == pytest.approx(0.1)
    assert runs.mean("loss") == pytest.approx(1.4)
    assert runs.std("loss") == pytest.approx(0.1)
    assert make_runs("vpt_deep", 16, (0.5,)).top1_std == 0


def test_both_harmonic_means__by_hand():
    method = make_base_to_new("vpt_deep", (0.8, 0.4), (0.4, 0.4))
    assert method.base_mean == pytest.approx(0.6)
    assert method.new_mean == pytest.approx(0.4)
    assert method.harmonic_mean_of_means == pytest.approx(2 * 0.6 * 0.4 / 1.0)
    assert method.mean_of_harmonic_means == pytest.approx((0.64 / 1.2 + 0.4) / 2)


def test_the_harmonic_mean__of_nothing_right_is_zero():
    assert harmonic_mean(0, 0) == harmonic_mean(0.5, 0) == 0


@given(shares, shares)
def test_the_harmonic_mean__lies_between_the_lower_and_the_arithmetic_mean(first, second):
    mean = harmonic_mean(first, second)
    assert min(first, second) - 1e-12 <= mean <= (first + second) / 2 + 1e-12
    assert mean == pytest.approx(harmonic_mean(second, first))


@given(pairs_of_shares)
def test_the_published_harmonic_mean__is_never_below_the_mean_of_each_seeds(pairs):
    method = make_base_to_new("any", *zip(*pairs, strict=True))
    assert method.mean_of_harmonic_means <= method.harmonic_mean_of_means + 1e-12
    if len(pairs) == 1:
        assert method.mean_of_harmonic_means == pytest.approx(method.harmonic_mean_of_means)


@given(shares, shares, st.integers(1, 4))
def test_both_harmonic_means__are_the_same_where_all_seeds_are(base, new, seeds):
    method = make_base_to_new("any", (base,) * seeds, (new,) * seeds)
    assert method.mean_of_harmonic_means == pytest.approx(method.harmonic_mean_of_means)


@given(pairs_of_shares)
def test_the_average_over_data_sets__keeps_the_order_of_both_conventions(pairs):
    results = [
        make_evaluation(
            base_to_new=BaseAndNew(
                make_measured(0.5), make_measured(0.5), {"any": make_base_to_new("any", (b,), (n,))}
            )
        )
        for b, n in pairs
    ]
    average = average_base_to_new(results, "any")
    assert average["mean_of_harmonic_means"] <= average["harmonic_mean_of_means"] + 1e-12
    assert average["mean_of_harmonic_means"] == pytest.approx(
        fmean(harmonic_mean(base, new) for base, new in pairs)
    )


def test_forgetting__is_what_zero_shot_has_more_on_new_classes():
    halves = make_evaluation().base_to_new
    assert halves.forgetting("vpt_deep") == pytest.approx(0.65 - 0.6)
    assert halves.forgetting("coop") == pytest.approx(0.65 - 0.66)


def test_the_best_free_baseline__is_the_better_one_at_these_shots():
    result = make_evaluation()
    assert result.best_free_baseline(1) == ("zero_shot", 0.56)
    assert result.best_free_baseline(16) == ("linear_from_text", pytest.approx(0.79))
    assert result.best_free_baseline(None) == ("zero_shot", 0.56)
    assert result.best_free_baseline(4) == ("zero_shot", 0.56)


def test_the_best_free_baseline__without_a_linear_one_or_with_an_equal_one__is_zero_shot():
    alone = FewShot(1, {"vpt_deep": make_runs("vpt_deep", 1, (0.6,))})
    equal = FewShot(4, {"linear_from_text": make_runs("linear_from_text", 4, (0.56,))})
    result = make_evaluation(few_shot=(alone, equal))
    assert result.best_free_baseline(1) == ("zero_shot", 0.56)
    assert result.best_free_baseline(4) == ("zero_shot", 0.56)


def test_a_gain__is_over_the_best_free_baseline__and_may_be_a_loss():
    result = make_evaluation()
    assert result.gain("vpt_deep", 1) == pytest.approx(0.61 - 0.56)
    assert result.gain("vpt_deep", 16) == pytest.approx(0.83 - 0.79)
    assert result.gain("vpt_shallow", 16) == pytest.approx(0.76 - 0.79)
    assert result.gain("linear_from_text", 16) == 0
    for unknown in (("coop", 16), ("vpt_deep", 4)):
        with pytest.raises(KeyError, match="was not measured"):
            result.gain(*unknown)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"base_to_new": None},
        {"prompt_files": (), "few_shot": ()},
        {"few_shot": (make_few_shot(16, seeds=1),)},
    ],
)
def test_a_result__survives_json(changes):
    result = make_evaluation(**changes)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert ClipEvaluation.from_dict(json.loads(text)) == result
    assert json.loads(text) == ClipEvaluation.from_dict(json.loads(text)).to_dict()


def test_the_json__tells_every_derived_number_and_what_a_gain_is_over():
    values = make_evaluation().to_dict()
    few = values["few_shot"][1]
    assert few["best_free_baseline"] == {
        "method": "linear_from_text",
        "top1": pytest.approx(0.79),
    }
    deep = few["methods"]["vpt_deep"]
    assert deep["gain"] == pytest.approx(0.04)
    assert deep["gain_over"] == "linear_from_text"
    assert deep["top1_mean"] == deep["means"]["top1"] == pytest.approx(0.83)
    assert deep["top1_std"] == deep["stds"]["top1"] == pytest.approx(0.01)
    assert "gain" not in few["methods"]["linear_from_text"]
    assert values["few_shot"][0]["methods"]["vpt_deep"]["gain_over"] == "zero_shot"
    assert values["prompt_files"][1]["gain"] == pytest.approx(-0.06)
    assert values["prompt_files"][1]["gain_over"] == "zero_shot"
    halves = values["base_to_new"]
    assert halves["zero_shot_harmonic_mean"] == pytest.approx(2 * 0.6 * 0.65 / 1.25)
    coop = halves["methods"]["coop"]
    assert coop["forgetting"] == pytest.approx(-0.01)
    assert coop["harmonic_mean_of_means"] == pytest.approx(2 * 0.9 * 0.66 / 1.56)
    assert coop["mean_of_harmonic_means"] == pytest.approx(2 * 0.9 * 0.66 / 1.56)


def csv_row(record: dict) -> dict:
    """How CLIP_benchmark makes a line of its CSV file from a record."""
    row = {**record["metrics"], **{k: v for k, v in record.items() if k != "metrics"}}
    row["model_fullname"] = row["model"] + " " + row["pretrained"]
    return row


def test_the_clip_benchmark_records__become_flat_rows_that_can_be_told_apart():
    result = make_evaluation()
    records = json.loads(json.dumps(to_clip_benchmark(result), allow_nan=False))
    rows = [csv_row(record) for record in records]
    few_shot = 2 * len(TOPS) * len(SEEDS)
    halves = 2 * (1 + 2 * len(SEEDS))
    assert len(rows) == 1 + 2 + few_shot + halves
    assert len({tuple(row) for row in rows}) == 1
    assert len({(row["dataset"], row["model_fullname"]) for row in rows}) == len(rows)
    keys = ("method", "classes", "shots", "seed", "prompt_file")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)
    for row in rows:
        numbers = {"acc1", "acc5", "mean_per_class_recall"}
        assert all(isinstance(value, str) for key, value in row.items() if key not in numbers)
        assert row["task"] == "zeroshot_classification"
        assert row["language"] == "en"


def test_the_clip_benchmark_records__have_the_numbers_of_their_run():
    rows = [csv_row(record) for record in to_clip_benchmark(make_evaluation())]
    assert rows[0] == {
        "acc1": 0.56,
        "acc5": 0.78,
        "mean_per_class_recall": pytest.approx(0.55),
        "dataset": "EuroSAT",
        "model": "ViT-B-16",
        "pretrained": "openai",
        "task": "zeroshot_classification",
        "language": "en",
        "method": "zero_shot",
        "classes": "all",
        "shots": "",
        "seed": "",
        "prompt_file": "",
        "model_fullname": "ViT-B-16 openai",
    }
    assert [row["model"] for row in rows[1:3]] == [
        "ViT-B-16+seed_1/prompt",
        "ViT-B-16+seed_2/prompt",
    ]
    assert [row["acc1"] for row in rows[1:3]] == [0.7, 0.5]
    deep = next(row for row in rows if row["model"] == "ViT-B-16+vpt_deep-16shot-seed2")
    assert (deep["acc1"], deep["method"], deep["shots"], deep["seed"]) == (
        0.83,
        "vpt_deep",
        "16",
        "2",
    )
    new = [row for row in rows if row["dataset"] == "EuroSAT/new"]
    assert [row["acc1"] for row in new] == [0.65, 0.7, 0.5, 0.6, 0.66, 0.66, 0.66]
    assert {row["acc5"] for row in new} == {None}


@pytest.mark.parametrize(("classes", "acc5"), [(4, None), (5, 1.0), (8, 0.78)])
def test_the_clip_benchmark_records__have_no_acc5_below_five_classes(classes, acc5):
    zero_shot = make_measured(0.56, CLASSES[:classes])
    assert to_clip_benchmark(make_evaluation(zero_shot=zero_shot))[0]["metrics"]["acc5"] == acc5


def test_the_clip_benchmark_records__of_the_bundled_clip__need_no_tag():
    setting = make_setting(model="bundled/glyph_clip", pretrained="")
    record = to_clip_benchmark(make_evaluation(setting=setting))[0]
    assert csv_row(record)["model_fullname"] == "bundled/glyph_clip "


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([], []),
        (["runs/x/prompt.safetensors"], ["prompt"]),
        (["a/p.safetensors", "b/p.safetensors"], ["a/p", "b/p"]),
        (["p.safetensors", "b/p.safetensors"], ["p", "b/p"]),
        (["a/s/p.bin", "b/s/p.bin", "b/s/q.bin"], ["a/s/p", "b/s/p", "b/s/q"]),
        (["p.bin", "p.bin"], ["p", "p"]),
    ],
)
def test_short_names__keep_as_many_folders_as_tell_files_apart(files, names):
    assert short_names(files) == names
