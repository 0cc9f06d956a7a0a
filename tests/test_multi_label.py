"""Images of several classes, from the data to the predictions; and mixed images on the way."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import vpt
import vpt.engine.fit
import vpt.engine.prompt_file
from tests.multi_label import make_squares
from tests.protocols.comparisons import write_yaml
from tests.protocols.test_sweep import sweep_values
from tests.test_cli import fails_in_one_line, run
from tests.test_runs import assert_same_run, attempts_until_done, signal_in_training
from tests.training import make_config, result_without_time
from vpt.data import EpochBatches, Mixing
from vpt.engine.fit import fit
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, DataError, PromptFileError
from vpt.evaluation import MultiLabelEvaluator
from vpt.experiment import build
from vpt.protocols.comparison import compare, load_comparison
from vpt.protocols.sweep import sweep
from vpt.protocols.sweep_config import load_sweep
from vpt.protocols.sweep_results import read_sweep
from vpt.reports.data_check import check_data, finding_lines, summary_table, to_json
from vpt.reports.data_page import data_page
from vpt.runs import measure_prompt, predict_images, probe, train
from vpt.runs.feeding import fit_data
from vpt.structures import Batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A descriptor: 32 images to train on, to choose by and to test."""
    root = tmp_path_factory.mktemp("squares")
    return make_squares(root, copies=4, splits=("train", "val", "test"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory, squares) -> Path:
    """The directory of a run that had time to learn."""
    path = tmp_path_factory.mktemp("runs") / "learned"
    train(config_of(path, squares, train__epochs=12, train__select="last"))
    return path


def config_of(path: Path, squares: Path, **changes):
    given = {
        "backbone": "bundled/glyph_vit",
        "data__batch_size": 8,
        "data__transform": "none",
        "optim__lr": 0.02,
        **changes,
    }
    return make_config(path, squares, **given)


def model_of(**options):
    torch.manual_seed(0)
    return vpt.create_model(
        "timm/test_vit",
        {"name": "vpt_deep", "num_tokens": 2},
        class_names=["a", "b", "c"],
        pretrained=False,
        image_size=32,
        multi_label=True,
        **options,
    )


def batch_of(size: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    targets = (torch.rand(size, 3, generator=generator) < 0.4).float()
    return Batch(images, targets, torch.arange(size))


# The loss


def test_the_loss__is_torchs_binary_cross_entropy():
    model, batch, weights = model_of().eval(), batch_of(5), torch.tensor([0.5, 1.0, 4.0])
    logits = model(batch.images)
    plain = model.loss(batch)["loss"]
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, batch.labels))
    weighted = model.loss(batch, class_weights=weights, label_smoothing=0.2)["loss"]
    targets = batch.labels * 0.8 + 0.1
    positive, negative = F.logsigmoid(logits), F.logsigmoid(-logits)
    expected = -(weights * targets * positive + (1 - targets) * negative).mean()
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0)])
def test_accumulated_batches__give_the_gradient_of_one_big_batch(squares, tmp_path, weights):
    parts = [batch_of(5, 1), batch_of(5, 2), batch_of(2, 3)]
    whole = Batch(*(torch.cat([getattr(b, f) for b in parts]) for f in vars(parts[0])))
    moved = []
    for count, given in ((3, parts), (1, [whole])):
        config = make_config(tmp_path, squares, optim__name="sgd", optim__accumulation=count)
        experiment = build(config)
        model = model_of()
        before = [p.detach().clone() for p in model.trainable_parameters()]
        settings = vpt.engine.fit.FitSettings(
            experiment.settings.optim, 0, 1, accumulation=count, class_weights=weights, select="mAP"
        )
        data = vpt.engine.fit.FitData(
            lambda epoch, skip, given=given: given[skip:],
            len(given),
            lambda given=given: given,
            MultiLabelEvaluator(3),
        )
        assert fit(model, data, settings, device=CPU).step == 1
        pairs = zip(model.trainable_parameters(), before, strict=True)
        moved.append([a.detach() - b for a, b in pairs])
    for one, other in zip(*moved, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)


def test_balanced_class_weights__are_negatives_over_positives(squares, tmp_path):
    (tmp_path / "rare.csv").write_text("path,a,b\n" + rows_of(squares, [1, 0, 0, 1], [1, 1, 1, 0]))
    text = f"name: x\nformat: csv\nroot: {squares.parent}\nfile: {tmp_path}/rare.csv\n"
    rare = tmp_path / "rare.yaml"
    rare.write_text(f"{text}splits: {{val: {{fraction: 0.3}}}}\ncolumns: {{classes: remaining}}\n")
    experiment = build(config_of(tmp_path / "run", rare, loss__class_weights="balanced"))
    counts = experiment.splits.require("train").class_counts()
    images = len(experiment.splits.require("train"))
    assert experiment.settings.class_weights == tuple((images - n) / n for n in counts)
    always = tmp_path / "always.yaml"
    (tmp_path / "always.csv").write_text("path,a,b\n" + rows_of(squares, [1] * 4, [1, 0, 1, 0]))
    always.write_text(rare.read_text().replace("rare.csv", "always.csv"))
    with pytest.raises(ConfigError, match="every training image is of class 'a'"):
        build(config_of(tmp_path / "run", always, loss__class_weights="balanced"))


def rows_of(squares: Path, *columns: list[int]) -> str:
    lines = [
        f"train/{number:03d}.png,{','.join(map(str, values))}"
        for number, values in enumerate(zip(*columns, strict=True))
    ]
    return "\n".join(lines) + "\n"


# A run


def test_a_run__learns_each_colour__and_leaves_average_precisions(learned):
    result = result_without_time(learned)
    # By chance a class with half of the images has an average precision of about 0.5.
    assert result["test"]["mAP"] > 0.7
    assert result["test"]["micro_f1"] > 0.6
    assert set(result["test"]) == {"mAP", "macro_f1", "micro_f1", "loss"}
    per_class = result["test_per_class"]
    assert set(per_class) == {"blue", "green", "red"}
    assert sum(per_class.values()) / 3 == pytest.approx(result["test"]["mAP"])


def test_the_best_epoch__is_chosen_by_map_unless_said_otherwise(squares, tmp_path):
    assert build(config_of(tmp_path, squares)).settings.select == "mAP"
    chosen = config_of(tmp_path, squares, train__select="micro_f1")
    assert build(chosen).settings.select == "micro_f1"


MIX = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}


def test_stopped_after_every_step__ends_bit_identical_whatever_the_workers(
    squares, tmp_path, monkeypatch
):
    changes = {
        "backbone": {"name": "timm/test_vit", "pretrained": False, "image_size": 32},
        "data__mix": MIX,
        "data__transform": {"name": "random_resized_crop", "rand_augment": {}},
        "loss__label_smoothing": 0.1,
        "loss__class_weights": "balanced",
        "optim__accumulation": 2,
        "prompt__dropout": 0.1,
    }
    train(config_of(tmp_path / "whole", squares, **changes))
    signal_in_training(monkeypatch, lambda step: True)
    config = config_of(tmp_path / "parts", squares, **changes, data__num_workers=1)
    assert attempts_until_done(config) == result_without_time(tmp_path / "whole")["steps"]
    monkeypatch.undo()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("several", [True, False])
def test_mixed_images__change_the_training_but_not_the_validation(
    several, squares, tmp_path, monkeypatch
):
    seen = []
    original = vpt.models.Classifier.loss

    def spy(self, batch, **options):
        seen.append(batch)
        return original(self, batch, **options)

    monkeypatch.setattr(vpt.models.Classifier, "loss", spy)
    data = squares if several else Path(__file__).parents[1] / "datasets/digits.yaml"
    changes = {"train__max_steps": 2, "train__epochs": 1, "data__batch_size": 4}
    config = config_of(tmp_path, data, data__mix={"mixup_alpha": 1.0}, **changes)
    experiment = build(config)
    classes = len(experiment.splits.class_names)
    fed = fit_data(experiment, CPU)
    state = fit(experiment.model, fed, experiment.settings, device=CPU)
    assert state.best is not None
    assert len(seen) == 2
    assert all(batch.labels.shape == (4, classes) for batch in seen)
    plain = next(iter(fed.train(0, 0)))
    assert not torch.equal(seen[0].images, plain.images)
    assert ((seen[0].labels > 0) & (seen[0].labels < 1)).any()
    assert experiment.settings.mixing == Mixing(mixup_alpha=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__shots": 1}, "data.shots needs one class per image"),
        ({"data__balance": True}, "data.balance needs one class per image"),
        ({"data__classes": "base"}, "data.classes base needs one class per image"),
        ({"train__select": "top1"}, "train.select top1 is no metric of multi-label data; use mAP"),
        (
            {"backbone": "bundled/glyph_clip", "head": "zero_shot"},
            "head zero_shot compares the classes with each other",
        ),
        ({"loss__class_weights": [1.0, 2.0]}, "2 values for 3 classes"),
    ],
)
def test_what_makes_no_sense_of_label_sets__is_refused(squares, tmp_path, change, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build(config_of(tmp_path, squares, **change))


def test_map_of_one_class_per_image__is_refused(tmp_path):
    digits = Path(__file__).parents[1] / "datasets/digits.yaml"
    with pytest.raises(ConfigError, match=r"train.select mAP is no metric of single-label data"):
        build(config_of(tmp_path, digits, train__select="mAP"))


def test_validation_without_any_label__is_refused_but_not_for_the_last_epoch(squares, tmp_path):
    (tmp_path / "x.csv").write_text(
        "path,tags,part\ntrain/000.png,,val\ntrain/001.png,red,train\ntrain/002.png,,train\n"
    )
    text = f"name: x\nformat: csv\nroot: {squares.parent}\nfile: {tmp_path}/x.csv\n"
    (tmp_path / "x.yaml").write_text(
        f"{text}columns: {{labels: tags, separator: '|', split: part}}\n"
    )
    with pytest.raises(DataError, match=r"no image of 'val' .* has a label: mAP cannot choose"):
        build(config_of(tmp_path / "run", tmp_path / "x.yaml"))
    last = config_of(tmp_path / "run", tmp_path / "x.yaml", train__select="last")
    assert set(train(last).val) == {"micro_f1", "loss"}


def test_a_probe_and_a_comparison__are_refused(squares, tmp_path):
    with pytest.raises(DataError, match="a probe needs one class per image"):
        probe(config_of(tmp_path, squares, prompt="none"))
    root = Path(__file__).parents[1]
    changes = [f"base.data.dataset={squares}", f"run_dir={tmp_path}/c", "base.data.shots=null"]
    with pytest.raises(DataError, match="a comparison by top-1 needs one class per image"):
        compare(load_comparison(root / "configs/quickstart.yaml", changes))


def test_a_sweep__is_by_map__and_by_top1_refused_before_anything_is_trained(squares, tmp_path):
    values = sweep_values(tmp_path / "run", squares)
    values["base"]["data"].pop("shots", None)
    with pytest.raises(DataError, match="metric top1 needs one class per image"):
        sweep(load_sweep(write_yaml(tmp_path / "sweep.yaml", values)))
    config = load_sweep(write_yaml(tmp_path / "sweep.yaml", {**values, "metric": "mAP"}))
    sweep(config)
    for unit in read_sweep(config):
        assert len(unit.tests) == 2
        assert all(
            run.test["mAP"] == value for run, value in zip(unit.runs, unit.tests, strict=True)
        )


# The prompt file


def test_a_prompt_file__says_that_it_is_multi_label__and_predicts_the_same(tmp_path):
    model, images = model_of(), torch.randn(3, 3, 32, 32)
    vpt.save_prompt(model, tmp_path / "a.safetensors")
    header = read_prompt_header(tmp_path / "a.safetensors")
    assert header.multi_label
    assert header.requires == ["multi_label"]
    again = vpt.load_prompt(tmp_path / "a.safetensors", backbone=model.backbone)
    expected = model.eval().predict(images)
    assert torch.equal(again.predict(images), expected)
    assert torch.equal(expected, model(images).sigmoid())
    assert torch.equal(again.predict(images, probabilities="sigmoid"), expected)
    with pytest.raises(ConfigError, match="softmax probabilities are of one class per image"):
        again.predict(images, probabilities="softmax")


def test_a_reader_that_knows_no_label_sets__refuses_the_file(tmp_path, monkeypatch):
    vpt.save_prompt(model_of(), tmp_path / "a.safetensors")
    older = vpt.engine.prompt_file.KNOWN_FEATURES - {"multi_label"}
    monkeypatch.setattr(vpt.engine.prompt_file, "KNOWN_FEATURES", older)
    with pytest.raises(PromptFileError, match=r"requires the feature 'multi_label'; .*pip install"):
        read_prompt_header(tmp_path / "a.safetensors")


def test_a_file_of_one_class_per_image__requires_nothing_new(tmp_path):
    model = vpt.create_model("timm/test_vit", num_classes=2, pretrained=False, image_size=32)
    vpt.save_prompt(model, tmp_path / "a.safetensors")
    assert read_prompt_header(tmp_path / "a.safetensors").requires == []


def test_init_from__takes_the_prompt_but_not_the_head_of_another_kind(learned, squares, tmp_path):
    path = learned / "prompt.safetensors"
    same = build(config_of(tmp_path, squares, train__init_from=str(path))).model
    file = vpt.load_prompt(path)
    assert torch.equal(same.head.weight, file.head.weight)
    names = "splits: {val: {fraction: 0.5}}\nclasses: [blue, green, red]"
    (tmp_path / "one.csv").write_text(
        "path,label\n" + "".join(f"train/{n:03d}.png,{n % 3}\n" for n in range(12))
    )
    one = tmp_path / "one.yaml"
    one.write_text(
        f"name: x\nformat: csv\nroot: {squares.parent}\nfile: {tmp_path}/one.csv\n{names}\n"
    )
    other = build(config_of(tmp_path / "run", one, train__init_from=str(path))).model
    assert torch.equal(other.prompt.tokens, file.prompt.tokens)
    assert not torch.equal(other.head.weight, file.head.weight)


# Evaluate, predict, check


def test_evaluate__gives_the_runs_own_metrics_and_each_class(learned, squares, capsys):
    prompt = learned / "prompt.safetensors"
    metrics, *_ = measure_prompt(prompt, squares, device="cpu", num_workers=0)
    result = result_without_time(learned)
    overall = {k: v for k, v in metrics.items() if "/" not in k}
    assert overall == pytest.approx(result["test"], rel=1e-6)  # other batches, other last bits
    assert {k[3:]: v for k, v in metrics.items() if "/" in k} == result["test_per_class"]
    assert run("evaluate", prompt, "--data", squares, "--num-workers", 0)[0] == 0
    assert f"red     {metrics['AP/red']:.1%}" in capsys.readouterr().out


def test_evaluate__of_the_other_kind__is_refused(learned, squares, tmp_path):
    prompt = learned / "prompt.safetensors"
    (tmp_path / "one.csv").write_text("path,label,part\ntest/000.png,red,test\n")
    (tmp_path / "one.yaml").write_text(
        f"name: x\nformat: csv\nroot: {squares.parent}\nfile: {tmp_path}/one.csv\n"
        "columns: {split: part}\n"
    )
    words = ("evaluate", prompt, "--data", tmp_path / "one.yaml")
    fails_in_one_line(*words, saying="one.yaml is of one class per image")


def test_predict__writes_all_classes_above_the_threshold(learned, squares, capsys):
    prompt, folder = learned / "prompt.safetensors", squares.parent / "test"
    assert run("predict", prompt, folder, "--min-score", 0.6)[0] == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    images = sorted(str(path) for path in folder.glob("*.png"))
    model = vpt.load_prompt(prompt)
    found = list(predict_images(model, map(Path, images), device=CPU, top_k=2, min_score=0.6))
    expected = [
        (each.image, name, f"{value:.6f}")
        for each in found
        for name, value in (each.labels or {"": None}).items()
        if value is not None
    ]
    assert [(r["image"], r["class"], r["probability"]) for r in rows if r["class"]] == expected
    assert {row["image"] for row in rows} == set(images)
    assert any(len(each.labels) > 1 for each in found)
    assert any(not each.labels for each in found)
    assert all(value >= 0.6 for each in found for value in each.labels.values())
    assert run("predict", prompt, folder, "--format", "jsonl", "--top-k", 2)[0] == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == {"image", "classes", "top"} and len(line["top"]) == 2 for line in lines)
    assert all(
        line["classes"] == {name: p for name, p in line["classes"].items() if p >= 0.5}
        for line in lines
    )


def test_predict__with_what_means_nothing_here__is_refused(learned, squares, tmp_path):
    prompt, folder = learned / "prompt.safetensors", squares.parent / "test"
    words = ("predict", prompt, folder, "--probabilities", "softmax")
    fails_in_one_line(*words, saying="this model is multi-label; use sigmoid")
    model = vpt.create_model("bundled/glyph_vit", num_classes=2)
    vpt.save_prompt(model, tmp_path / "one.safetensors")
    words = ("predict", tmp_path / "one.safetensors", folder, "--min-score", 0.5)
    fails_in_one_line(*words, saying="--min-score has no meaning")


def test_data_check__counts_labels_and_images_without(squares):
    check = check_data(squares)
    assert check.healthy
    train_split = check.splits["train"]
    assert (train_split.images, train_split.class_counts) == (32, (16, 16, 16))
    assert train_split.negatives == 4
    assert dict(train_split.labels_per_image)["0"] == 4
    assert dict(train_split.labels_per_image)["2"] == 12
    assert any("4 of 32 images of 'train' have no label" in line for line in finding_lines(check))
    assert [str(column.header) for column in summary_table(check).columns][2:4] == [
        "labels",
        "without label",
    ]
    assert to_json(check)["splits"]["train"]["labels_per_image"]["1"] == 12
    page = data_page(check)
    assert "labels per image" in page
    assert "blue, red" in page
    assert "no label" in page


def test_an_epochs_order__is_that_of_any_data(squares, tmp_path):
    experiment = build(config_of(tmp_path, squares))
    batches = fit_data(experiment, CPU).train(0, 0)
    indices = [batch.indices.tolist() for batch in batches]
    order = EpochBatches(32, 8, seed=0, epoch=0)
    assert indices == [[index for _, index in each] for each in order]
