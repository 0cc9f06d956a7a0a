"""What a run shows in TensorBoard at its end, read back as TensorBoard reads it."""

from __future__ import annotations

import json

import pytest
import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import vpt.runs.showing
import vpt.runs.training
from tests.fixtures import make_folder
from tests.training import make_config, prompt_tensors
from vpt.engine.events import Events
from vpt.engine.projector import Points, write_projector
from vpt.engine.run_dir import open_run_directory
from vpt.evaluation import ClassificationEvaluator
from vpt.runs import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), classes=3, images=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The directory of a finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(path, data, train__epochs=1, optim__lr=1e-6))
    return path


def shown(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def hparams_of(events, tag):
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


# -------------------------------------------------------------------------------------- settings


def test_settings_and_final_metrics__are_in_the_runs_own_files(run):
    events = shown(run)
    settings = hparams_of(events, "session_start_info").session_start_info.hparams
    assert settings["optim.lr"].number_value == 1e-6
    assert settings["prompt.name"].string_value == "vpt_deep"
    assert settings["train.early_stopping"].string_value == "null"
    assert settings["prompt.shared"].string_value == "false"
    result = json.loads((run / "result.json").read_text())
    infos = hparams_of(events, "experiment").experiment.metric_infos
    names = {info.name.tag for info in infos}
    assert {"best/val_top1", "best/test_top1"} <= names <= set(events.Tags()["scalars"])
    (point,) = events.Scalars("best/test_top1")
    assert point.value == pytest.approx(result["test"]["top1"])
    assert all(path.is_file() for path in (run / "tensorboard").iterdir())
    assert "best/" not in (run / "metrics.jsonl").read_text()


# ------------------------------------------------------------------------------------- mistakes


def test_the_worst_mistakes__are_the_most_confident_ones__first():
    evaluator = ClassificationEvaluator(3)
    logits = torch.tensor([[2.0, 0, 0], [3.0, 0, 0], [0, 9.0, 0], [0, 0, 1.0]])
    evaluator.update(logits[:3], torch.tensor([1, 2, 1]))
    evaluator.update(logits[3:], torch.tensor([0]))
    found = evaluator.worst_mistakes(2)
    assert [(each.place, each.label, each.predicted) for each in found] == [(1, 2, 0), (0, 1, 0)]
    assert found[0].confidence == pytest.approx(float(logits[1].softmax(0)[0]))
    assert found[0].loss == pytest.approx(-float(logits[1].log_softmax(0)[2]))
    assert len(evaluator.worst_mistakes(9)) == 3


def test_the_worst_errors__are_shown_with_file_classes_and_loss(run, data):
    events = shown(run)
    (image,) = events.Images("val/worst_errors")
    (text,) = events.Tensors("val/worst_errors/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0].split() == ["image", "true", "predicted", "confidence", "loss"]
    rows = [line.split() for line in lines[1:]]
    assert 1 <= len(rows) <= 16
    confidences = []
    for number, (count, key, true, predicted, confidence, loss) in enumerate(rows, 1):
        assert int(count) == number
        assert (data / "val" / key.removeprefix("val/")).is_file()
        assert true == key.split("/")[-2] != predicted
        assert predicted in {"class_0", "class_1", "class_2"}
        confidences.append(float(confidence))
        assert float(loss) > 0
    assert confidences == sorted(confidences, reverse=True)
    side = 32 + 2 * vpt.runs.showing._BORDER
    assert (image.width // side) * (image.height // side) >= len(rows)
    assert image.width % side == image.height % side == 0


def test_large_images__are_shown_small_enough_for_every_best_epoch():
    assert vpt.runs.showing._shrunk(torch.rand(2, 3, 448, 224)).shape == (2, 3, 96, 48)
    small = torch.rand(2, 3, 32, 96)
    assert vpt.runs.showing._shrunk(small) is small


def test_a_model_without_errors__shows_none(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassificationEvaluator, "worst_mistakes", lambda self, count: [])
    train(make_config(tmp_path / "run", data, train__epochs=1))
    assert "val/worst_errors" not in shown(tmp_path / "run").Tags()["images"]


# --------------------------------------------------------------------------------------- points


def points_of(folder):
    """name -> (values, names), found as the projector finds them."""
    config = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    found = {}
    for embedding in config.embeddings:
        lines = (folder / embedding.tensor_path).read_text().splitlines()
        values = torch.tensor([[float(value) for value in line.split("\t")] for line in lines])
        names = (folder / embedding.metadata_path).read_text().splitlines()
        found[embedding.tensor_name] = (values, names)
    return found


def test_tokens_and_classes__of_the_best_epoch__are_points_with_names(run):
    points = points_of(run / "tensorboard")
    tensors = prompt_tensors(run)
    tokens, names = points["prompt_tokens"]
    assert names == [f"{layer}/{token}" for layer in range(6) for token in range(2)]
    torch.testing.assert_close(tokens, tensors["prompt.tokens"].flatten(0, 1), rtol=1e-5, atol=0)
    weights, names = points["class_weights"]
    assert names == ["class_0", "class_1", "class_2"]
    torch.testing.assert_close(weights, tensors["head.weight"], rtol=1e-5, atol=0)


def test_points__replace_those_before__and_one_name_is_one_line(tmp_path):
    write_projector(tmp_path, {"one": Points(torch.ones(2, 3), ["a\tb", "c\nd"])})
    assert points_of(tmp_path)["one"][1] == ["a b", "c d"]
    write_projector(tmp_path, {"one": Points(torch.zeros(1, 3), ["e"])})
    assert list(points_of(tmp_path)) == ["one"]
    assert points_of(tmp_path)["one"][1] == ["e"]


def test_a_cloud_of_too_many_numbers__is_left_out(tmp_path):
    clouds = {"large": Points(torch.zeros(2**11, 2**10), ["x"] * 2**11)}
    write_projector(tmp_path, {**clouds, "small": Points(torch.zeros(1, 1), ["x"])})
    assert list(points_of(tmp_path)) == ["small"]


@pytest.mark.parametrize("mode", ["overwrite", "resume"])
def test_a_run_directory__knows_the_files_as_its_own(run, data, tmp_path, mode):
    config = make_config(tmp_path / "run", data, train__epochs=1)
    train(config)
    files = {path.name for path in (config.run_dir / "tensorboard").iterdir()}
    assert "projector_config.pbtxt" in files
    if mode == "resume":  # stopped right before the result: the end is done again
        (config.run_dir / "result.json").unlink()
    train(config, mode=mode)
    events = "events.out.tfevents"
    again = {path.name for path in (config.run_dir / "tensorboard").iterdir()}
    assert {name for name in again if not name.startswith(events)} == {
        name for name in files if not name.startswith(events)
    }
    assert set(points_of(config.run_dir / "tensorboard")) == {"prompt_tokens", "class_weights"}
    with open_run_directory(config.run_dir, mode="overwrite"):
        assert not (config.run_dir / "tensorboard").exists()


# ------------------------------------------------------------------------------------- failures


def test_a_failure_to_show__is_one_line_each__and_no_end_of_the_run(data, tmp_path, monkeypatch):
    def failing(*args, **options):
        raise ValueError("no\nway")

    monkeypatch.setattr(ClassificationEvaluator, "worst_mistakes", failing)
    monkeypatch.setattr(Events, "hparams", failing)
    monkeypatch.setattr(vpt.runs.showing, "write_projector", failing)
    lines: list[str] = []
    result = train(make_config(tmp_path / "run", data, train__epochs=1), log=lines.append)
    assert result.finished == "done"
    told = [line for line in lines if "TensorBoard" in line]
    assert told == [
        f"TensorBoard shows no {what}, the run goes on: ValueError: no way"
        for what in ("errors", "settings", "tokens")
    ]


def test_without_tensorboard__nothing_is_shown_and_nothing_told_twice(data, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    lines: list[str] = []

    class Blocked(Events):
        def _start_tensorboard(self, folder, purge_step):
            raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vpt.runs.training, "Events", Blocked)
        train(make_config(run_dir, data, train__epochs=1), log=lines.append)
    assert len([line for line in lines if "TensorBoard" in line]) == 1
    assert not (run_dir / "tensorboard").exists()
