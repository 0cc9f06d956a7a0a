import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

import vpt.data.loading.loader
import vpt.protocols.sweep
from tests.fixtures import make_folder
from tests.protocols.comparisons import comparison_values, write_yaml
from tests.protocols.postgres import installed, server
from vpt.engine.interrupt import Interrupted
from vpt.errors import ConfigError, DataError, DivergedError, RunError
from vpt.protocols.comparison import compare, load_comparison
from vpt.protocols.study_database import opened_storage
from vpt.protocols.sweep import sweep
from vpt.protocols.sweep_config import best_of, load_sweep
from vpt.protocols.sweep_results import find_sweep, read_sweep


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos") / "photos", images=3)


def sweep_values(run_dir, data):
    values = comparison_values(run_dir, data)
    values["search"] = {
        "space": {name: {"optim.lr": rates} for name, rates in values.pop("learning_rates").items()}
    }
    return {**values, "patience": 2}


@pytest.fixture
def values(tmp_path, data):
    return sweep_values(tmp_path / "run", data)


@pytest.fixture
def load(tmp_path, values):
    """Reads the config back with changes to the values."""

    def loading(**changes):
        return load_sweep(write_yaml(tmp_path / "sweep.yaml", {**values, **changes}))

    return loading


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A finished sweep, and how many images of each split were decoded for it."""
    folder, reads = tmp_path_factory.mktemp("finished"), Counter()
    load_sample = vpt.data.loading.loader.load_sample

    def counting(split, sample, value_range=None):
        reads[split.name] += 1
        return load_sample(split, sample, value_range)

    config = load_sweep(write_yaml(folder / "sweep.yaml", sweep_values(folder / "run", data)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vpt.data.loading.loader, "load_sample", counting)
        sweep(config)
    return config, reads


def counted(units):
    """What a sweep found, without times and places."""
    return [
        (
            u.method,
            u.chosen,
            [(t.params, t.value) for t in u.trials],
            [(r.seed, r.test) for r in u.runs],
        )
        for u in units
    ]


def trials_of(config):
    """{study: {point: states of its trials}}."""
    found = {}
    with opened_storage(config.storage_url) as storage:
        for name in optuna.get_all_study_names(storage):
            points = found.setdefault(name, {})
            for trial in optuna.load_study(study_name=name, storage=storage).trials:
                if "point" in trial.user_attrs:
                    points.setdefault(trial.user_attrs["point"], []).append(trial.state.name)
    return found


def assert_complete(config):
    found = trials_of(config)
    assert len(found) == 2 * len(list(config.units()))
    for points in found.values():
        for states in points.values():
            assert Counter(states)["COMPLETE"] == 1
            assert "RUNNING" not in states


def test_a_sweep__chooses_and_measures_what_a_comparison_does(finished, data, tmp_path):
    config, _ = finished
    expected = compare(
        load_comparison(
            write_yaml(tmp_path / "plain.yaml", comparison_values(tmp_path / "plain", data))
        )
    )
    for unit in read_sweep(config):
        method = expected.methods[unit.method]
        assert unit.chosen == {"optim.lr": method.lr}
        assert unit.tests == method.test_top1
        assert [(t.params["optim.lr"], t.value) for t in unit.trials] == [
            (trial.lr, trial.mean) for trial in method.trials
        ]
        assert unit.detail("prompt_bytes") > 0
        assert unit.detail("parameters")["trained"] == method.trained_parameters
        assert unit.is_over


def test_a_sweep__reads_test_images_once_a_tested_run__and_keeps_no_trials_weights(finished):
    config, reads = finished
    assert reads["test"] == 6 * len(config.methods) * len(config.seeds)
    trials = sorted(config.run_dir.glob("*/trial_*/seed_100"))
    assert len(trials) == 4
    for run in trials:
        assert (run / "result.json").exists()
        assert json.loads((run / "result.json").read_text())["test"] is None
        assert not list(run.rglob("*.safetensors"))
    assert len(list(config.run_dir.glob("*/seed_*/prompt.safetensors"))) == 4


def test_a_finished_sweep__is_not_done_again(finished, monkeypatch):
    config, _ = finished
    before = counted(read_sweep(config))
    monkeypatch.setattr(vpt.protocols.sweep, "train", None)
    sweep(config)
    assert counted(read_sweep(config)) == before


def test_a_sweep__into_a_folder_of_something_else__is_refused(load):
    config = load()
    config.run_dir.mkdir()
    (config.run_dir / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files and no sweep"):
        sweep(config)


def test_a_sweep__of_another_name_or_other_settings__is_refused(finished, load, values):
    values["run_dir"] = str(finished[0].run_dir)
    with pytest.raises(RunError, match="another name or storage"):
        sweep(load(name="other"))
    values["base"]["train"]["epochs"] = 3
    with pytest.raises(ConfigError, match=r"linear/search' was begun with other settings \(base\)"):
        sweep(load())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1, 2]}, r"linear/tested' was begun with other settings \(seeds\)"),
        ({"metric": "mean_class_accuracy"}, r"linear/search' .* \(metric\)"),
    ],
)
def test_a_refused_sweep__leaves_what_is_written_of_the_first(changes, message, finished, load):
    folder = finished[0].run_dir
    before = (folder / "sweep.yaml").read_text()
    with pytest.raises(ConfigError, match=message):
        sweep(load(run_dir=str(folder), **changes))
    assert (folder / "sweep.yaml").read_text() == before


def test_another_methods_settings__are_refused_before_the_first_ones_work(finished, load, values):
    values["run_dir"] = str(finished[0].run_dir)
    values["methods"]["vpt_deep"] = {"prompt": {"name": "vpt_deep", "num_tokens": 3}}
    with pytest.raises(ConfigError, match=r"vpt_deep/search' .* \(method\)"):
        sweep(load())


def test_a_sweeps_folder__is_read_from_anywhere__and_after_it_was_moved(
    finished, tmp_path, monkeypatch
):
    moved = shutil.copytree(finished[0].run_dir, tmp_path / "moved")
    text = (moved / "sweep.yaml").read_text()
    (moved / "sweep.yaml").write_text(text.replace(str(finished[0].run_dir), "runs/run"))
    monkeypatch.chdir(tmp_path)
    assert counted(read_sweep(find_sweep(moved))) == counted(read_sweep(finished[0]))


def test_train_and_val__is_what_the_tested_runs_learn_from(load, values):
    values["base"]["train"]["select"] = "last"
    del values["base"]["data"]["shots"]
    config = load(train_on="train_and_val")
    sweep(config)
    split = json.loads((config.run_dir / "linear/seed_0/split.json").read_text())
    assert len(split["train"]) == 12
    assert "val" not in split
    trial = json.loads((config.run_dir / "linear/trial_000/seed_100/split.json").read_text())
    assert len(trial["train"]) == len(trial["val"]) == 6


def test_a_trial_that_diverges__counts_as_nothing__and_the_sweep_goes_on(load, monkeypatch):
    train = vpt.protocols.sweep.train

    def diverging(run, **options):
        if run.optim.lr == 0.01 and run.seed == 100:
            raise DivergedError("the loss is not finite")
        return train(run, **options)

    monkeypatch.setattr(vpt.protocols.sweep, "train", diverging)
    config = load()
    monkeypatch.setattr(vpt.protocols.sweep, "discard_weights", lambda path: None)
    sweep(config)
    for unit in read_sweep(config):
        assert [trial.diverged for trial in unit.trials] == [None, "the loss is not finite"]
        assert unit.chosen == {"optim.lr": 0.001}
    assert_complete(config)


class _FirstAlone(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.number > 0 and trial.last_step == 1


def test_poor_trials__are_given_up__and_leave_their_curves_alone(load, monkeypatch):
    monkeypatch.setattr(vpt.protocols.sweep, "_pruner", lambda config: _FirstAlone())
    config = load()
    sweep(config)
    for unit in read_sweep(config):
        assert [trial.pruned for trial in unit.trials] == [False, True]
        assert unit.trials[1].seconds > 0
        assert unit.chosen == {"optim.lr": 0.001}
    given_up = config.run_dir / "linear/trial_001/seed_100"
    assert (given_up / "metrics.jsonl").exists()
    assert not list(given_up.rglob("*.safetensors"))


def test_a_data_set_without_a_test_split__is_refused_before_the_search(load, values, tmp_path):
    values["base"]["data"]["dataset"] = str(make_folder(tmp_path / "two", splits=("train", "val")))
    with pytest.raises(DataError, match="no 'test' split"):
        sweep(load())


def test_tpe__draws_as_many_for_each_method(load, values):
    space = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    values["search"] = {"sampler": "tpe", "trials": 3}
    values["search"]["space"] = {
        "linear": space,
        "vpt_deep": {**space, "prompt.num_tokens": [1, 2]},
    }
    config = load()
    sweep(config)
    for unit in read_sweep(config):
        assert len(unit.trials) == 3
        rates = [trial.params["optim.lr"] for trial in unit.trials]
        assert len(set(rates)) == 3
        assert all(1e-4 <= rate <= 0.1 for rate in rates)
    run = json.loads((config.run_dir / "vpt_deep/seed_0/result.json").read_text())
    assert run["trained_parameters"]["prompt"] % unit.chosen["prompt.num_tokens"] == 0


def test_a_suite__sweeps_every_task__in_its_order(load, values, data, tmp_path):
    paths = []
    for name in ("birds", "cars"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}!\nformat: folder\nroot: {data}\n")
        paths.append(str(tmp_path / f"{name}.yaml"))
    suite = write_yaml(
        tmp_path / "suite.yaml", {"name": "Two", "groups": {"A": paths[:1], "B": paths[1:]}}
    )
    with pytest.raises(ConfigError, match="dataset is set by the suite; leave it out"):
        load(suite=str(suite))
    del values["base"]["data"]["dataset"]
    config = load(suite=str(suite))
    sweep(config)
    places = [(u.suite, u.group, u.task, u.method) for u in read_sweep(config)]
    assert places == [
        ("Two", group, task, method)
        for group, task in (("A", "birds!"), ("B", "cars!"))
        for method in ("linear", "vpt_deep")
    ]
    assert all(unit.planned_tasks == {"A": 1, "B": 1} for unit in read_sweep(config))
    assert (config.run_dir / "cars/vpt_deep/seed_1/prompt.safetensors").exists()


# ---------------------------------------------------------------------------------------- workers


def _work(config):
    code = 0
    try:
        sweep(config)
    except Interrupted:
        code = 75
    os._exit(code)


def start(config):
    process = multiprocessing.get_context("fork").Process(target=_work, args=(config,))
    process.start()
    return process


def killed_often(config, *, kills, longest, seed):
    """Two workers, of which one is killed at a random moment, again and again."""
    moments, workers = random.Random(seed), [start(config), start(config)]
    while kills and any(worker.exitcode is None for worker in workers):
        time.sleep(moments.uniform(0, longest))
        place = moments.randrange(2)
        if workers[place].exitcode is None:
            workers[place].kill()
            workers[place].join()
            kills -= 1
        workers[place] = start(config)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return kills


@pytest.mark.parametrize(
    ("kills", "seed"), [(4, 0), *(pytest.param(20, n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_workers_killed_at_random_moments__lose_nothing(kills, seed, load, values, tmp_path):
    values["base"]["train"]["checkpoint_seconds"] = 1e-6
    values["base"]["train"]["epochs"] = 4 if kills == 4 else 12
    expected = load(run_dir=str(tmp_path / "expected"))
    sweep(expected)
    config = load()
    assert killed_often(config, kills=kills, longest=1.0, seed=seed) == 0
    assert_complete(config)
    assert counted(read_sweep(config)) == counted(read_sweep(expected))


@pytest.mark.skipif(installed() is None, reason="no PostgreSQL server is installed")
def test_workers_that_share_a_postgresql_server__killed_or_not__do_all_once(load, values):
    values["base"]["train"]["checkpoint_seconds"] = 1e-6
    with server(installed()) as url:
        config = load(storage=url, name="shared")
        assert killed_often(config, kills=2, longest=1.0, seed=3) == 0
        assert_complete(config)
        assert all(unit.is_over for unit in read_sweep(config))


def test_a_signal__stops_a_worker_soon__and_the_same_command_goes_on_at_once(load, values):
    values["base"]["train"]["epochs"] = 400
    values["methods"] = {"linear": values["methods"]["linear"]}
    values["search"]["space"] = {"linear": {"optim.lr": [0.01]}}
    config = load(patience=600)
    worker = start(config)
    running = config.run_dir / "linear/trial_000/seed_100/metrics.jsonl"
    while not running.exists() or running.read_bytes().count(b"\n") < 5:
        time.sleep(0.02)
    began = time.monotonic()
    os.kill(worker.pid, signal.SIGTERM)
    worker.join()
    assert worker.exitcode == 75
    assert time.monotonic() - began < 10
    assert trials_of(config)["run/linear/search"] == {0: ["FAIL", "WAITING"]}
    lines = len(running.read_text().splitlines())
    worker = start(config)  # which waits for nothing, however long the patience
    while len(running.read_text().splitlines()) <= lines:
        time.sleep(0.02)
    worker.kill()
    worker.join()


def test_an_unfinished_sweep__can_be_read(load, monkeypatch):
    config = load()
    with pytest.raises(ConfigError, match="has not begun"):
        read_sweep(config)
    train, count = vpt.protocols.sweep.train, []

    def stopping(run, **options):
        count.append(run)
        if len(count) > 3:
            raise RunError("disk full")
        return train(run, **options)

    monkeypatch.setattr(vpt.protocols.sweep, "train", stopping)
    with pytest.raises(RunError, match="disk full"):
        sweep(config)
    (unit,) = read_sweep(find_sweep(config.run_dir))
    assert (len(unit.trials), len(unit.runs), unit.is_over) == (2, 1, False)
    monkeypatch.undo()
    sweep(config)
    assert_complete(config)


# ----------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trial_seeds": []}, "trial_seeds are missing"),
        ({"trial_seeds": [0]}, "also in seeds"),
        ({"search": {"space": {"linear": {"optim.lr": [1]}}}}, "give a space for each method"),
        (
            {"search": {"space": {"linear": {"optim.lr": [1, 2]}, "vpt_deep": {"optim.lr": [1]}}}},
            "grids differ in size",
        ),
        (
            {"search": {"space": {"linear": {"optim.lr": {"low": 1, "high": 2}}}}},
            "space.linear.optim.lr is a range",
        ),
        (
            {"search": {"sampler": "tpe", "space": {"linear": {}, "vpt_deep": {}}}},
            "tpe needs trials",
        ),
        (
            {"search": {"space": {"linear": {"seed": [1]}, "vpt_deep": {"seed": [1]}}}},
            "seed is the same for all runs",
        ),
        (
            {
                "search": {
                    "space": {"linear": {"data.train_on": ["train"]}, "vpt_deep": {"seed": [1]}}
                }
            },
            "data.train_on is the same for all runs",
        ),
        (
            {"search": {"space": {"linear": {"optim.lr": [1, 1]}, "vpt_deep": {"optim.lr": [1]}}}},
            "repeat a value",
        ),
        (
            {"search": {"space": {"linear": {"optim.rl": [1]}, "vpt_deep": {"optim.lr": [1]}}}},
            "optim.rl: unknown key; did you mean 'optim.lr'",
        ),
        (
            {"search": {"space": {"linear": {"optim.lr": [-1]}, "vpt_deep": {"optim.lr": [1]}}}},
            "method linear: optim.lr: value -1 is not allowed",
        ),
    ],
)
def test_a_config_that_is_unfair_or_wrong__is_told_in_lines(changes, message, load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(**changes)
    assert message in str(caught.value)
    assert all(
        line.startswith((str(tmp_path), "method linear")) for line in str(caught.value).splitlines()
    )


def test_the_best__is_the_highest__then_the_lowest_rate__then_the_first():
    tried = [
        ({"optim.lr": 3, "x": 0}, 0.5),
        ({"optim.lr": 1, "x": 1}, 0.5),
        ({"optim.lr": 1, "x": 2}, 0.5),
    ]
    assert best_of(tried) == {"optim.lr": 1, "x": 1}
    assert best_of([*tried, ({"optim.lr": 9}, 0.6)]) == {"optim.lr": 9}


SHIPPED = {
    "sweeps/digits": (8, 1),
    "vtab/adamw": (5, 19),
    "vtab/paper_prompts": (40, 19),
    "vtab/paper_baselines": (16, 19),
    "fgvc/adamw": (5, 5),
    "fgvc/paper_prompts": (36, 5),
    "fgvc/paper_baselines": (16, 5),
}


def test_the_shipped_sweeps__load__with_as_many_trials_and_tasks_as_they_say(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    folders = ("sweeps", "vtab", "fgvc")
    found = {
        f"{folder}/{path.stem}": path
        for folder in folders
        for path in (root / "configs" / folder).glob("*.yaml")
    }
    assert found.keys() == SHIPPED.keys()
    for name, path in found.items():
        config = load_sweep(path)
        assert (config.search.trials_per_method, len(config.tasks())) == SHIPPED[name]
