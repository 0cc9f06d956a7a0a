"""CLIP evaluations end to end, on a handful of images and the bundled CLIP."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.fixtures import make_folder
from tests.protocols.comparisons import write_yaml
from vpt.api import load_prompt
from vpt.cli import main
from vpt.data import evaluation_transform, few_shot, load_descriptor, read_splits, restrict_classes
from vpt.engine.interrupt import Interrupted
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, DataError, RunError, VptError
from vpt.evaluation import ClipEvaluation
from vpt.protocols.clip_eval import evaluate_clip, load_clip_eval
from vpt.runs import evaluate_split, measure_prompt, predict_images

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CLASSES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Five classes, of which the first three are the base half; a descriptor with names."""
    folder = make_folder(tmp_path_factory.mktemp("photos"), classes=CLASSES, images=4)
    descriptor = {
        "name": "tiny photographs",
        "format": "folder",
        "root": str(folder),
        "text": {
            "class_names": {f"class_{n}": f"number {n}" for n in range(CLASSES)},
            "templates": ["a photo of the {}.", "{c}"],
        },
    }
    return write_yaml(folder / "photos.yaml", descriptor)


def values(run_dir: Path, data: Path, **changes):
    return {
        "run_dir": str(run_dir),
        "protocols": ["zero_shot", "few_shot", "base_to_new"],
        "shots": [1, 2],
        "base_to_new_shots": 2,
        "seeds": [1, 2],
        "base": {
            "backbone": "bundled/glyph_clip",
            "data": {
                "dataset": str(data), "batch_size": 4, "num_workers": 0, "transform": "none",
                "sampling": "coop",
            },
            "optim": {"lr": 0.01},
            "train": {"epochs": 1, "select": "last", "device": "cpu", "keep_checkpoints": 2},
        },
        "methods": {
            "linear_probe": {"prompt": "none", "head": "linear"},
            "vpt_deep": {"prompt": {"name": "vpt_deep", "num_tokens": 2}},
            "ivlp": {
                "prompt": {"name": "vpt_deep", "num_tokens": 2},
                "head": {"name": "zero_shot", "context": {"num_tokens": 2}},
                "loss": {"consistency": {"image": 10, "text": 25, "logits": 1}},
            },
        },
        "threads": 1,
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory, data) -> tuple[Path, ClipEvaluation]:
    place = tmp_path_factory.mktemp("evaluation")
    path = write_yaml(place / "clip.yaml", values(place / "run", data))
    return path, evaluate_clip(load_clip_eval(path))


def test_an_evaluation__measures_every_protocol_and_every_method(done):
    _, result = done
    assert result.zero_shot.images == 4 * CLASSES
    assert [few.shots for few in result.few_shot] == [1, 2]
    for few in result.few_shot:
        assert list(few.methods) == ["linear_from_text", "linear_probe", "vpt_deep", "ivlp"]
        assert all(len(runs.runs) == 2 for runs in few.methods.values())
    halves = result.base_to_new
    assert halves is not None
    assert list(halves.methods) == ["vpt_deep", "ivlp"]  # a linear probe knows no new classes
    assert set(halves.zero_shot_base.per_class) == {"class_0", "class_1", "class_2"}
    assert set(halves.zero_shot_new.per_class) == {"class_3", "class_4"}
    assert halves.methods["vpt_deep"].new[0].images == 8
    assert result.setting["templates"] == ["a photo of the {}.", "{c}"]
    assert result.setting["names_in_sentences"][0] == "number 0"
    assert ClipEvaluation.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_an_evaluation__done_again__trains_nothing_and_measures_the_same(done):
    path, result = done
    before = {p: p.stat().st_mtime_ns for p in (path.parent / "run").rglob("*.safetensors")}
    assert len(before) > 20
    again = evaluate_clip(load_clip_eval(path))
    assert replace(again, seconds=0.0) == replace(result, seconds=0.0)
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


def test_results_of_other_texts__are_not_passed_off_as_these(done, data, tmp_path):
    path, _ = done
    changed = yaml.safe_load(data.read_text())
    changed["text"]["templates"] = ["a drawing of the {}."]
    other = write_yaml(tmp_path / "photos.yaml", changed)
    shutil.copytree(path.parent / "run", tmp_path / "run")
    config = values(tmp_path / "run", data)
    before = data.read_text()
    try:
        data.write_text(other.read_text())
        with pytest.raises(RunError, match="other head"):
            evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", config)))
    finally:
        data.write_text(before)


def test_zero_shot_and_methods__share_preprocessing__and_each_has_its_own_precision(
    data, tmp_path, monkeypatch
):
    import vpt.protocols.clip_setup as clip_setup

    seen = []
    original = clip_setup.evaluate_split

    def spy(model, split, transform, **options):
        seen.append((transform.preprocess, options["precision"]))
        return original(model, split, transform, **options)

    monkeypatch.setattr(clip_setup, "evaluate_split", spy)
    config = values(tmp_path / "run", data, protocols=["base_to_new"], seeds=[1])
    config["base"]["data"]["preprocess"] = "imagenet"
    config["methods"] = {
        "vpt_deep": config["methods"]["vpt_deep"] | {"train": {"precision": "bf16"}}
    }
    result = evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", config)))
    file = tmp_path / "run/base_to_new/vpt_deep/2_shots/seed_1/prompt.safetensors"
    own = read_prompt_header(file).preprocess.preprocess().to_dict()
    assert all(preprocess.to_dict() == own for preprocess, _ in seen)
    assert result.setting["preprocess"] == own
    # zero-shot on all, the new classes after the base run, zero-shot on each half
    assert sorted(precision for _, precision in seen) == ["bf16", "fp32", "fp32", "fp32"]


def test_a_run__draws_its_images_by_the_coop_rule_and_keeps_which(done):
    path, _ = done
    split = json.loads(
        (path.parent / "run/few_shot/vpt_deep/2_shots/seed_1/split.json").read_text()
    )
    assert len(split["train"]) == 2 * CLASSES
    assert len(split["val"]) == 2 * CLASSES
    assert len(split["test"]) == 4 * CLASSES
    base = json.loads(
        (path.parent / "run/base_to_new/vpt_deep/2_shots/seed_1/split.json").read_text()
    )
    # sampling comes before the cut: the same images of the classes that are kept
    kept = {key for key in split["train"] if key.split("/")[1] in ("class_0", "class_1", "class_2")}
    assert set(base["train"]) == kept


def test_new_classes__are_measured_with_the_prompt_of_the_base_run(done, data):
    path, result = done
    file = path.parent / "run/base_to_new/vpt_deep/2_shots/seed_2/prompt.safetensors"
    new = restrict_classes(read_splits(load_descriptor(data)), "new")
    assert read_prompt_header(file).class_names == ["class_0", "class_1", "class_2"]
    model = load_prompt(file, class_names=new.class_names, text_names=new.text_names)
    transform = evaluation_transform(model.preprocess)
    metrics, _ = evaluate_split(model, new.require("test"), transform, device=CPU, num_workers=0)
    assert result.base_to_new is not None
    assert result.base_to_new.methods["vpt_deep"].new[1].metrics == pytest.approx(metrics)


def test_a_prompt_file__is_measured_beside_zero_shot__and_on_other_names(done, data, tmp_path):
    path, result = done
    runs = path.parent / "run"
    own = runs / "few_shot/vpt_deep/2_shots/seed_1/prompt.safetensors"
    base = runs / "base_to_new/vpt_deep/2_shots/seed_1/prompt.safetensors"
    changed = values(tmp_path / "x", data, protocols=["zero_shot"])
    changed["prompt_files"] = [str(own), str(base)]
    again = evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", changed)))
    first, second = again.prompt_files
    assert not first.class_names_differ
    assert second.class_names_differ
    expected = result.few_shot[1].methods["vpt_deep"].runs[0].metrics
    assert first.measured.metrics == pytest.approx(expected, abs=1e-6)
    assert len(second.measured.per_class) == CLASSES
    metrics, *_ = measure_prompt(base, data, device="cpu", num_workers=0, names="data")
    assert second.measured.metrics == pytest.approx(metrics)
    with pytest.raises(VptError, match="--names data"):
        measure_prompt(base, data, device="cpu", num_workers=0)


def test_predictions__of_a_clip_prompt__need_only_the_file(done, data):
    path, _ = done
    file = path.parent / "run/few_shot/ivlp/1_shots/seed_1/prompt.safetensors"
    image = next(data.parent.glob("test/class_0/*.png"))
    [row] = predict_images(load_prompt(file), [image], device=CPU, top_k=9)
    assert set(row.top) == {f"class_{n}" for n in range(CLASSES)}
    [other] = predict_images(load_prompt(file, class_names=["a", "b"]), [image], device=CPU)
    assert other.label in ("a", "b")


def test_the_test_split__is_not_read_before_a_run_has_ended(data, tmp_path, monkeypatch):
    seen: list[str] = []
    import vpt.runs.feeding as feeding

    original = feeding.ImageDataset

    def spy(split, *words, **options):
        seen.append(split.name)
        return original(split, *words, **options)

    monkeypatch.setattr(feeding, "ImageDataset", spy)
    config = values(tmp_path / "run", data, protocols=["few_shot"], shots=[1], seeds=[1])
    config["methods"] = {"vpt_deep": config["methods"]["vpt_deep"]}
    evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", config)))
    # zero-shot, then twice: pictures of the start, train, validate, pictures of errors, test
    assert seen == ["test", *["train", "train", "val", "val", "test"] * 2]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command__writes_results_tables_and_records(done, capsys):
    path, result = done
    assert run("clip-eval", path) == 0
    printed = capsys.readouterr().out
    assert "Zero-shot" in printed
    assert "VPT-deep" in printed
    folder = path.parent / "run"
    written = ClipEvaluation.from_dict(json.loads((folder / "result.json").read_text()))
    assert written.few_shot == result.few_shot
    assert (folder / "table.md").exists()
    assert (folder / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(p.read_text()) for p in (folder / "clip_benchmark").glob("*.json")]
    assert {record["task"] for record in records} == {"zeroshot_classification"}


def test_several_configs__give_their_average(done, data, tmp_path, capsys):
    path, _ = done
    other = write_yaml(tmp_path / "clip.yaml", values(tmp_path / "run", data, seeds=[1]))
    assert run("clip-eval", path, other, "shots=[1]", "seeds=[1]") == 0
    assert "2 data sets" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("methods.zero_shot={}", "free baseline"),
        ("methods.vpt_deep.data={shots: 3}", "same for all methods"),
        ("base.data.shots=3", "set by the protocol"),
        ("seeds=[1, 1]", "repeat"),
        ("protocols=[zero_shoot]", "zero_shot"),
        ("methods={}", "needs methods"),
        ("base.backbone=timm/test_vit", "is no CLIP"),
        ("methods.vpt_deep.prompt.num_token=3", "num_tokens"),
        ("base.head={name: zero_shot, templatez: []}", "templates"),
        ("linear_from_text.data={dataset: other}", "same for all methods"),
        ("linear_from_text.head=linear", "leave it out"),
        ("base.data.selection=split.json", "set by the protocol"),
    ],
)
def test_a_mistake_in_the_config__is_named(data, tmp_path, override, says):
    path = write_yaml(tmp_path / "clip.yaml", values(tmp_path / "run", data))
    with pytest.raises(ConfigError, match=says):
        load_clip_eval(path, [override])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_names": ["one", "two"]}, "tiny photographs"),
        ({"class_names": {"clas_1": "one"}}, "class_1"),
        ({"class_names": ["a", "b", "c", "d", ""]}, "has no name"),
        ({"class_names": ["a", "b", "c", "d", "a"]}, "'a'"),
        ({"templates": ["a photo"]}, "a photo"),
        ({"class_names": ["a", "b", "c", "d", "e " * 40]}, "tokens"),
    ],
)
def test_names_and_templates_that_do_not_fit__are_one_line_and_exit_code_2(
    data, tmp_path, change, says, capfd
):
    described = {"name": "tiny photographs", "format": "folder", "root": str(data.parent)}
    descriptor = write_yaml(tmp_path / "photos.yaml", {**described, "text": change})
    config = write_yaml(tmp_path / "clip.yaml", values(tmp_path / "run", descriptor))
    assert run("clip-eval", config, "--protocols", "zero_shot") == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert says in line


def test_the_quickstart_and_the_shipped_configs__are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = sorted(Path("configs").glob("clip_*.yaml"))
    evaluations = [path for path in found if path.name != "clip_vpt.yaml"]
    assert len(evaluations) >= 4
    for path in evaluations:
        config = load_clip_eval(path)
        assert config.seeds == [1, 2, 3]
        assert f"configs/{path.name}" in path.read_text()


def test_seeds__draw_other_images(data):
    train = read_splits(load_descriptor(data)).require("train")
    assert few_shot(train, 1, 1).samples != few_shot(train, 1, 2).samples


def test_unreadable_images__are_refused_once_for_all_runs(tmp_path):
    folder = make_folder(tmp_path / "photos", classes=2, images=2)
    (folder / "test/class_0/0.png").write_bytes(b"no image")
    config = values(tmp_path / "run", folder, protocols=["zero_shot"])
    with pytest.raises(DataError, match="1 unreadable"):
        evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", config)))


def test_a_directory_with_other_files__is_not_trained_into(data, tmp_path):
    place = tmp_path / "run/few_shot/linear_from_text/1_shots/seed_1"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    config = values(tmp_path / "run", data, protocols=["few_shot"])
    with pytest.raises(RunError, match=r"notes\.txt"):
        evaluate_clip(load_clip_eval(write_yaml(tmp_path / "clip.yaml", config)))
    assert (place / "notes.txt").read_text() == "mine"


def test_asking_for_one_protocol__keeps_the_results_of_the_others(done, data, tmp_path, capsys):
    path, _ = done
    shutil.copytree(path.parent / "run", tmp_path / "run")
    config = write_yaml(tmp_path / "clip.yaml", values(tmp_path / "run", data))
    assert run("clip-eval", config) == 0
    prompt = tmp_path / "run/few_shot/vpt_deep/1_shots/seed_1/prompt.safetensors"
    assert run("clip-eval", config, "--protocols", "zero_shot", "--prompt", prompt) == 0
    written = ClipEvaluation.from_dict(json.loads((tmp_path / "run/result.json").read_text()))
    assert len(written.prompt_files) == 1
    assert [few.shots for few in written.few_shot] == [1, 2]
    assert written.base_to_new is not None
    assert (tmp_path / "run/few_shot.png").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{config}", "{config}"], "give each its own"),
        (["{config}", "--prompt", "nowhere.safetensors"], "nowhere.safetensors"),
        (["{config}", "base.data.dataset=nowhere"], "nowhere"),
        (["{config}", "--protocols", ""], "protocols"),
        (["{single}"], "use it with vpt train"),
        (["seeds=[1]"], "name a config"),
        (["{config}", "methods={each: {head: {name: zero_shot, context: {class_specific: true}}}}"],
         "no method can do base_to_new"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line__is_one_line_before_anything_is_computed(
    data, tmp_path, capfd, words, says
):
    config = write_yaml(tmp_path / "clip.yaml", values(tmp_path / "run", data))
    single = ROOT / "configs/clip_vpt.yaml"
    named = {"{config}": config, "{single}": single}
    assert run("clip-eval", *[named.get(word, word) for word in words]) == 2
    captured = capfd.readouterr()
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert "top-1" not in captured.out


def test_a_signal__says_that_the_same_command_goes_on__and_it_does(data, tmp_path, monkeypatch):
    import vpt.engine.fit as fit

    config = values(tmp_path / "run", data, protocols=["few_shot"], shots=[1], seeds=[1])
    path = write_yaml(tmp_path / "clip.yaml", config)
    original = fit.set_learning_rates
    with monkeypatch.context() as patch:

        def signalling(*words):
            signal.raise_signal(signal.SIGTERM)
            return original(*words)

        patch.setattr(fit, "set_learning_rates", signalling)
        with pytest.raises(Interrupted, match="the same command goes on from there"):
            evaluate_clip(load_clip_eval(path))
    assert evaluate_clip(load_clip_eval(path)).few_shot[0].shots == 1
