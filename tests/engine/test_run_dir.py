import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from vpt.engine.checkpoint import CheckpointStore
from vpt.engine.events import Events
from vpt.engine.run_dir import (
    environment,
    free_bytes,
    open_run_directory,
    write_json_atomic,
    write_text_atomic,
)
from vpt.errors import RunError

RACE = """
import sys
from pathlib import Path
from vpt.engine.run_dir import open_run_directory
from vpt.errors import RunError

for line in sys.stdin:
    try:
        run = open_run_directory(Path(line.strip()), mode="new")
        answer = "won"
    except RunError as error:
        run, answer = None, str(error)
    sys.stdout.write(answer + "\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    if run is not None:
        run.close()
    sys.stdout.write("closed\\n")
    sys.stdout.flush()
"""

DIE_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from vpt.engine.run_dir import open_run_directory

run = open_run_directory(Path(sys.argv[1]), mode="new")
child = os.fork()
if child == 0:
    sys.stdout.write(f"{os.getpid()}\\n")
    sys.stdout.flush()
    time.sleep(60)
time.sleep(60)
"""


def python(script, *args):
    return subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def fill(path):
    with open_run_directory(path, mode="new") as run:
        for file in (run.config, run.best_prompt, run.last_prompt, run.split, run.result):
            write_text_atomic(file, "x")
        write_json_atomic(run.environment, environment())
        CheckpointStore(run.checkpoints).save(1, {}, {})
        with Events(run.path, resume_step=None) as events:
            events.scalars(1, {"loss": 1.0})


def test_run_directory__new__created_with_its_parents(tmp_path):
    with open_run_directory(tmp_path / "a" / "b", mode="new") as run:
        assert run.path.is_dir()
        assert run.best_prompt == tmp_path / "a" / "b" / "prompt.safetensors"


def test_run_directory__new_on_a_lone_lock__counts_as_empty(tmp_path):
    for _ in range(2):
        with open_run_directory(tmp_path, mode="new"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_run_directory__new_on_someones_folder__refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for mode, reason in (
        ("new", "not empty .*use --resume or --overwrite"),
        ("overwrite", r"thesis\.tex is not a run's file"),
        ("resume", r"holds no run to resume, but thesis\.tex"),
    ):
        with pytest.raises(RunError, match=reason):
            open_run_directory(tmp_path, mode=mode)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_directory__resume_on_an_empty_folder__starts_fresh(tmp_path):
    with open_run_directory(tmp_path / "new", mode="resume") as run:
        assert run.path.is_dir()


def test_run_directory__resume__keeps_all_but_leftovers(tmp_path):
    fill(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / ".result.json.0123abcd.tmp").write_text("half")
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".tmp"}
    with open_run_directory(tmp_path, mode="resume"):
        pass
    assert set(tmp_path.rglob("*")) == before


def test_run_directory__overwrite__removes_everything_a_run_wrote(tmp_path):
    fill(tmp_path)
    assert len(list(tmp_path.rglob("*"))) >= 11
    with open_run_directory(tmp_path, mode="overwrite"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("foreign", ["notes.md", "checkpoints/best.txt", "tensorboard/sub/a"])
def test_run_directory__overwrite_with_a_foreign_file__nothing_removed(tmp_path, foreign):
    fill(tmp_path)
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("mine")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(RunError, match=foreign.removesuffix("/a")):
        open_run_directory(tmp_path, mode="overwrite")
    assert set(tmp_path.rglob("*")) == before


def test_run_directory__overwrite_through_a_link__refused(tmp_path):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    fill(run)
    (run / "tensorboard").rename(elsewhere)
    (run / "tensorboard").symlink_to(elsewhere)
    with pytest.raises(RunError, match="tensorboard is not a run's file"):
        open_run_directory(run, mode="overwrite")
    assert list(elsewhere.iterdir())


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_run_directory__in_use__refused_naming_the_holder(tmp_path, mode):
    holder = open_run_directory(tmp_path, mode="new")
    with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .* since 20"):
        open_run_directory(tmp_path, mode=mode)
    holder.close()
    holder.close()
    with open_run_directory(tmp_path, mode=mode):
        pass


def test_run_directory__a_file_is_there__one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot use .*file as a run directory"):
        open_run_directory(tmp_path / "file", mode="new")


def test_run_directory__two_started_together__exactly_one_wins(tmp_path):
    with python(RACE) as first, python(RACE) as second:
        racers = (first, second)
        for repeat in range(30):
            for racer in racers:
                racer.stdin.write(f"{tmp_path / str(repeat)}\n")
            for racer in racers:
                racer.stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers]
            assert answers.count("won") == 1
            winner = racers[answers.index("won")]
            assert f"in use by process {winner.pid} on" in max(answers, key=len)
            for racer in racers:
                racer.stdin.write("close\n")
                racer.stdin.flush()
                assert racer.stdout.readline() == "closed\n"
        for racer in racers:
            racer.stdin.close()


def test_run_directory__holder_killed_while_its_worker_lives__free_at_once(tmp_path):
    with python(DIE_WITH_A_CHILD, str(tmp_path)) as holder:
        worker = int(holder.stdout.readline())
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            open_run_directory(tmp_path, mode="resume")
        holder.kill()
        holder.wait()
        os.kill(worker, 0)
        with open_run_directory(tmp_path, mode="resume"):
            pass
        os.kill(worker, signal.SIGKILL)


def test_write_atomic__text_and_json__read_back(tmp_path):
    write_text_atomic(tmp_path / "a.yaml", "name: ä\n")
    write_json_atomic(tmp_path / "a.json", {"top1": 0.5})
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8") == "name: ä\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"top1": 0.5}


def test_write_atomic__fails_before_the_rename__old_text_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(RunError, match=r"cannot write .*Input/output error"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_atomic__nan__refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_environment__is_json__names_versions():
    values = json.loads(json.dumps(environment()))
    assert values["torch"]
    assert values["torch_threads"] >= 1
    assert isinstance(values["cuda_devices"], list)


def test_free_bytes__path_that_does_not_exist_yet__that_of_its_disk(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0
