"""What `--resume` says and does where files of the run are damaged, missing, or other ones."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import vpt.runs.training
from tests.fixtures import make_folder
from tests.training import make_config, metrics_lines, prompt_tensors, same_bits
from vpt.engine.checkpoint import CheckpointStore
from vpt.engine.fit import Outputs
from vpt.engine.interrupt import Interrupted
from vpt.engine.run_dir import open_run_directory
from vpt.errors import RunError, VptError
from vpt.runs import train
from vpt.runs.best import restore_best

EPOCHS = 3


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vpt.runs.training, "flops_of", lambda experiment, log: None)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), classes=2, images=2)


def config_of(path, data):
    return make_config(path, data, train__epochs=EPOCHS, train__select="last")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("finished") / "run"
    train(config_of(path, data))
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, data):
    """A run that was stopped after two of its three epochs."""
    path = tmp_path_factory.mktemp("stopped") / "run"

    def stop(epoch, metrics):
        if epoch == 1:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        train(config_of(path, data), on_validation=stop)
    return path


@pytest.fixture
def run(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "garbage": lambda path: path.write_bytes(b"\xff\x00\x93 not of a run\n" * 9),
    "a number": lambda path: path.write_text("5\n"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}
ODD = ("a folder", "a fifo", "a link to nothing")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["config.yaml", "identity.json", "split.json", "prompt.safetensors"]
)
def test_what_a_run_cannot_go_on_without__is_named_in_one_line__before_training(
    name, damage, run, data, monkeypatch
):
    if (name, damage) == ("config.yaml", "cut"):  # cut within a comment or a value it may be valid
        (run / name).write_text((run / name).read_text().partition("optim:")[0] + "optim: {na")
    else:
        DAMAGES[damage](run / name)
    monkeypatch.setattr(vpt.runs.training, "fit", lambda *a, **o: pytest.fail("trains"))
    with pytest.raises(VptError) as caught:
        train(config_of(run, data), mode="resume")
    assert str(caught.value).startswith(str(run / name))
    assert "\n" not in str(caught.value)
    assert len(CheckpointStore(run / "checkpoints").paths()) >= 2


@pytest.mark.parametrize("content", ['{"train": 5}', '{"train": [[1]]}', '{"boxes_sha256": []}'])
def test_a_record_of_the_splits__of_another_form__is_damaged(content, run, data):
    (run / "split.json").write_text(content)
    with pytest.raises(RunError, match=r"split\.json is damaged"):
        train(config_of(run, data), mode="resume")


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ODD])
def test_lost_curves__are_a_warning__and_the_run_ends_the_same(damage, run, data, finished):
    DAMAGES[damage](run / "metrics.jsonl")
    said: list[str] = []
    train(config_of(run, data), mode="resume", log=said.append)
    (warning,) = [line for line in said if "metrics.jsonl has lost" in line]
    assert "lines up to step" in warning
    assert same_bits(prompt_tensors(run), prompt_tensors(finished))
    expected = metrics_lines(finished)
    kept = metrics_lines(run)
    assert kept[-1] == expected[-1]
    assert all(line in expected for line in kept)


def test_lost_tensorboard_curves__are_a_warning(run, data):
    shutil.rmtree(run / "tensorboard")
    said: list[str] = []
    train(config_of(run, data), mode="resume", log=said.append)
    assert len([line for line in said if "tensorboard has lost its curves" in line]) == 1


@pytest.mark.parametrize("damage", ODD)
@pytest.mark.parametrize("name", ["metrics.jsonl", "prompt_last.safetensors", "result.json"])
def test_what_cannot_be_a_file_of_the_run__is_refused_at_once(name, damage, run, data):
    (run / name).touch()
    DAMAGES[damage](run / name)
    with pytest.raises(RunError, match=rf"{name} is no regular file"):
        train(config_of(run, data), mode="resume")


def test_checkpoints_that_are_no_folder__are_refused(run, data):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    with pytest.raises(RunError, match="checkpoints is no folder"):
        train(config_of(run, data), mode="resume")


@pytest.mark.parametrize("name", ["environment.json", "prompt_last.safetensors"])
def test_what_is_written_anew_or_only_read_by_people__may_be_damaged(name, run, data, finished):
    (run / name).write_bytes(b"garbage")
    train(config_of(run, data), mode="resume")
    assert same_bits(prompt_tensors(run), prompt_tensors(finished))


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in (*ODD, "missing")])
def test_a_damaged_result__is_measured_again(damage, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    expected = json.loads((run / "result.json").read_text())
    DAMAGES[damage](run / "result.json")
    said: list[str] = []
    train(config_of(run, data), mode="resume", log=said.append)
    assert f"{run / 'result.json'} is damaged; the end of the run is done again" in said
    again = json.loads((run / "result.json").read_text())
    assert (again["test"], again["val"], again["steps"]) == tuple(
        expected[key] for key in ("test", "val", "steps")
    )


def test_a_damaged_result_without_checkpoints__is_refused(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"result\.json is damaged; start anew with --overwrite"):
        train(config_of(run, data), mode="resume")


def test_a_finished_run_whose_prompt_file_is_gone__says_so(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "prompt.safetensors").unlink()
    said: list[str] = []
    train(config_of(run, data), mode="resume", log=said.append)
    assert said[-1] == f"{run / 'prompt.safetensors'} is missing; --overwrite trains it anew"


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_checkpoint__damaged_records_are_written_anew(damage, run, data, finished):
    """But what cannot be replaced as a file is refused."""
    shutil.rmtree(run / "checkpoints")
    DAMAGES[damage](run / "identity.json")
    if damage in ODD:
        with pytest.raises(RunError, match=r"identity\.json is no regular file"):
            train(config_of(run, data), mode="resume")
        return
    train(config_of(run, data), mode="resume")
    assert same_bits(prompt_tensors(run), prompt_tensors(finished))


# ------------------------------------------------------------------------- the best prompt file


class _Killed(BaseException):
    """Passes through everything, as a kill does."""


def test_a_prompt_file_of_which_no_checkpoint_knows__gives_way_to_the_one_before(
    run, data, monkeypatch
):
    """So that a repeated epoch that comes out worse, as one may on a GPU, tests the right one."""
    before = (run / "prompt.safetensors").read_bytes()

    def kill(*args, **options):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(vpt.runs.training, "show_errors", kill)
        with pytest.raises(_Killed):
            train(config_of(run, data), mode="resume")
    assert (run / "prompt.safetensors").read_bytes() != before
    with open_run_directory(run, mode="resume") as opened:
        checkpoint = CheckpointStore(opened.checkpoints).load_newest(lambda line: None)
        restore_best(opened, checkpoint)
        restore_best(opened, checkpoint)
    assert (run / "prompt.safetensors").read_bytes() == before
    assert not (run / "prompt_previous.safetensors").exists()


def test_a_file_system_without_hard_links__keeps_the_one_before_as_well(
    data, tmp_path, monkeypatch
):
    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("vpt.runs.best.os.link", refuse)
    test_a_prompt_file_of_which_no_checkpoint_knows__gives_way_to_the_one_before(
        _stopped_run(tmp_path, data), data, monkeypatch
    )


def _stopped_run(tmp_path, data):
    def stop(epoch, metrics):
        if epoch == 1:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "run", data), on_validation=stop)
    return tmp_path / "run"


def test_a_prompt_file_that_is_exchanged_during_the_run__is_not_tested(data, tmp_path, monkeypatch):
    config = config_of(tmp_path / "run", data)
    real = vpt.runs.training.fit

    def exchanging(*args, **options):
        state = real(*args, **options)
        shutil.copy(tmp_path / "run" / "prompt_previous.safetensors",
                    tmp_path / "run" / "prompt.safetensors")  # fmt: skip
        return state

    monkeypatch.setattr(vpt.runs.training, "fit", exchanging)
    with pytest.raises(RunError, match=r"prompt\.safetensors was changed while the run trained"):
        train(config)
    assert not (tmp_path / "run" / "result.json").exists()
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"prompt\.safetensors is not the file of this run's best"):
        train(config, mode="resume")


def test_a_finished_run__keeps_no_file_of_an_earlier_epoch(finished):
    names = {path.name for path in finished.glob("prompt*")}
    assert names == {"prompt.safetensors", "prompt_last.safetensors"}


def test_outputs__without_a_file__know_no_hash():
    assert Outputs().on_best({}) is None
