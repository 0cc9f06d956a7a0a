"""What a run shows in TensorBoard at its end, read back as TensorBoard reads it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
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
from vpt.runs.drawing import draw_tiles


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), classes=3, images=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """The directory of a finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(path, data, train__epochs=1, optim__lr=1e-6))
    return path


@pytest.fixture
def no_matrix(monkeypatch):
    """The matrix, which has tests, is most of the time of a tiny run."""
    picture = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(vpt.runs.showing, "draw_confusion_matrix", lambda *args, **options: picture)


def shown(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def hparams_of(events, tag):
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


# -------------------------------------------------------------------------------------- settings


def test_settings_that_tell__stand_beside_curves_that_the_run_has(run):
    events = shown(run)
    settings = hparams_of(events, "session_start_info").session_start_info.hparams
    assert settings["optim.lr"].number_value == 1e-6
    assert settings["prompt.name"].string_value == "vpt_deep"
    assert settings["seed"].number_value == 0
    assert "train.early_stopping" not in settings
    assert not {key for key in settings if key.startswith(("run_dir", "data.root"))}
    assert "optim.momentum" not in settings
    infos = hparams_of(events, "experiment").experiment.metric_infos
    names = {info.name.tag for info in infos}
    assert {"best/top1", "best/loss"} <= names <= set(events.Tags()["scalars"])
    assert "best/" not in (run / "metrics.jsonl").read_text()


@pytest.mark.usefixtures("no_matrix")
def test_the_best_epoch_so_far__is_a_curve_with_a_point_at_each_validation(data, tmp_path):
    run = tmp_path / "run"
    train(make_config(run, data, train__epochs=3))
    events = shown(run)
    values = [point.value for point in events.Scalars("val/top1")]
    best = [point.value for point in events.Scalars("best/top1")]
    assert best == [max(values[: number + 1]) for number in range(3)]
    result = json.loads((run / "result.json").read_text())
    assert best[-1] == pytest.approx(result["val"]["top1"])
    counts = {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]}
    assert min(counts.values()) == 3, counts


def test_what_came_of_the_run__is_a_table_of_text(run):
    (text,) = shown(run).Tensors("result/text_summary")
    head, val, test = text.tensor_proto.string_val[0].decode().splitlines()
    result = json.loads((run / "result.json").read_text())
    for row, name in ((val, "val"), (test, "test")):
        found = dict(zip(head.split(), row.split()[1:], strict=True))
        assert row.split()[0] == name
        assert found == {key: f"{result[name][key]:.4f}" for key in head.split()}


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
    side = vpt.runs.showing._TILE
    assert side > 100
    assert (image.width // side) * (image.height // side) >= len(rows)


# ------------------------------------------------------------------------------------- pictures


def test_a_run__leaves_pictures_beside_its_result(run):
    for name, least in (("confusion_matrix.png", 600), ("worst_errors.png", 300)):
        with Image.open(run / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) >= least
    assert "test/confusion_matrix" in shown(run).Tags()["images"]


@pytest.mark.usefixtures("no_matrix")
def test_without_a_test_split__the_confusions_are_those_of_validation(tmp_path):
    data = make_folder(tmp_path / "data", classes=3, images=3)
    shutil.rmtree(data / "test")
    train(make_config(tmp_path / "run", data, train__epochs=1))
    assert (tmp_path / "run/confusion_matrix.png").is_file()
    assert "val/confusion_matrix" in shown(tmp_path / "run").Tags()["images"]


def test_a_trial__leaves_no_pictures(data, tmp_path):
    train(make_config(tmp_path / "run", data, train__epochs=1), read_test=False)
    assert list((tmp_path / "run").glob("*.png")) == []


def test_a_small_image__is_enlarged_pixel_by_pixel__a_large_one_shrunk():
    small = Image.new("RGB", (2, 1), "red")
    small.putpixel((1, 0), (0, 0, 255))
    large = Image.new("L", (400, 800), 0)
    picture = draw_tiles([(small, ["a", "b"]), (large, ["", ""])], side=100, title="two")
    pixels = np.asarray(picture)
    assert (pixels == (255, 0, 0)).all(-1).sum() == (pixels == (0, 0, 255)).all(-1).sum() == 50 * 50
    black = (pixels == 0).all(-1)[: 25 + 100, 116:]
    assert black.sum() == 50 * 100


@pytest.mark.parametrize("count", [1, 4, 5, 16])
def test_tiles__stand_in_rows_of_four(count):
    tile = (Image.new("RGB", (10, 10)), ["a name that is far too long for it" * 9, "短い名前"])
    picture = draw_tiles([tile] * count, side=100, title="名前 " * 99)
    assert picture.width == 8 + 108 * min(count, 4)
    assert picture.height == 25 + 142 * -(-count // 4)


@pytest.mark.usefixtures("no_matrix")
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


@pytest.mark.usefixtures("no_matrix")
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


@pytest.mark.usefixtures("no_matrix")
def test_a_failure_to_show__is_one_line_each__and_no_end_of_the_run(data, tmp_path, monkeypatch):
    def failing(*args, **options):
        raise ValueError("no\nway")

    monkeypatch.setattr(ClassificationEvaluator, "worst_mistakes", failing)
    monkeypatch.setattr(Events, "hparams", failing)
    monkeypatch.setattr(vpt.runs.showing, "write_projector", failing)
    lines: list[str] = []
    result = train(make_config(tmp_path / "run", data, train__epochs=1), log=lines.append)
    assert result.finished == "done"
    assert [line for line in lines if "shows no" in line] == [
        f"the run shows no {what} and goes on: ValueError: no way"
        for what in ("errors", "settings", "tokens")
    ]


@pytest.mark.usefixtures("no_matrix")
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
