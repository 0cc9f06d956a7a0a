"""A signal to `vpt train` before its first step and after its last one."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

import vpt.config
import vpt.runs.training
from tests.fixtures import make_folder
from tests.training import make_config
from vpt.cli import main
from vpt.config import dump
from vpt.engine.interrupt import exiting_at_once, stop_request


@pytest.fixture
def config(tmp_path):
    data = make_folder(tmp_path / "data", classes=2, images=2)
    path = tmp_path / "config.yaml"
    path.write_text(dump(make_config(tmp_path / "run", data, train__epochs=1)))
    return path


def code_of(work, *arguments):
    """Exit code of a forked process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def train_with_a_signal(config, number, place, name, *options):
    """The command, with stderr in a file; a signal comes when it calls a function of ours."""
    real = getattr(place, name)

    def signalling(*args, **kwargs):
        signal.raise_signal(number)
        return real(*args, **kwargs)

    setattr(place, name, signalling)
    file = os.open(config.with_name("stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    main(["train", str(config), *options])


MOMENTS = [
    (vpt.config, "load_config"),
    (vpt.runs.training, "build"),
    (vpt.runs.training, "scanned"),
    (vpt.runs.training, "flops_of"),
]


def test_sigterm_outside_the_steps__exits_with_75__and_resume_goes_on(
    config, tmp_path, monkeypatch
):
    for number, (place, name) in enumerate(MOMENTS):
        options = ["--resume"] * (number > 0)
        work = (train_with_a_signal, config, signal.SIGTERM, place, name, *options)
        assert code_of(*work) == 75, name
        said = (tmp_path / "stderr").read_text()
        assert said == "vpt: stopped by SIGTERM outside the training steps; go on with --resume\n"
    monkeypatch.setattr(vpt.runs.training, "flops_of", lambda experiment, log: None)
    with pytest.raises(SystemExit) as left:
        main(["train", str(config), "--resume"])
    assert left.value.code == 0
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(("options", "code"), [((), 130), (("--resume",), 75)])
def test_ctrl_c_before_the_first_step__can_go_on_only_where_a_run_may_be(options, code, config):
    work = (train_with_a_signal, config, signal.SIGINT, vpt.config, "load_config", *options)
    assert code_of(*work) == code


def _loop_and_end():
    with exiting_at_once(75, "by {signal}", on_sigint=True):
        with stop_request() as stop:
            signal.raise_signal(signal.SIGTERM)
            if stop.signal_name != "SIGTERM":
                os._exit(1)
        signal.raise_signal(signal.SIGTERM)
    os._exit(2)


def test_a_loop_inside__answers_by_itself__and_after_it_signals_end_the_process():
    assert code_of(_loop_and_end) == 75


def test_handlers__are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with exiting_at_once(75, "", on_sigint=False):
        assert signal.getsignal(signal.SIGTERM) != before[0]
        assert signal.getsignal(signal.SIGINT) == before[1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
