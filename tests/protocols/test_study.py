import multiprocessing
import os
import random
import time
from collections import Counter

import optuna
import pytest

import vpt.protocols.study
from vpt.errors import ConfigError, RunError
from vpt.protocols.study import GivenUp, PointStudy, Range
from vpt.protocols.study_database import open_storage

VALUES = [1, 2, 3, 4]
PATIENCE = 0.4


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def study_at(url, *, points=None, space=None, patience=PATIENCE, setting=None, **options):
    return PointStudy(
        open_storage(url),
        "study",
        points=[{"x": x} for x in VALUES] if points is None else points,
        space={"x": VALUES} if space is None else space,
        setting=setting or {"what": "squares"},
        seed=0,
        patience=patience,
        **options,
    )


def square(claim):
    x = claim.params["x"]
    return float(x * x), {"x": x}


def do_all(study, job=square):
    while not study.is_over():
        claim = study.take()
        if claim is not None:
            study.work(claim, job)
        else:
            study.look_after()
            time.sleep(0.02)


def states(url):
    """Each point's trials' states."""
    found = {}
    for trial in optuna.load_study(study_name="study", storage=open_storage(url)).trials:
        found.setdefault(trial.user_attrs.get("point"), []).append(trial.state.name)
    return found


def assert_done_once(url, points):
    found = states(url)
    found.pop(None, None)  # taken when nothing waited any more
    assert found.keys() == set(range(points))
    for trials in found.values():
        assert Counter(trials)["COMPLETE"] == 1
        assert "RUNNING" not in trials


def in_child(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_a_study__does_each_point_once__in_order(url):
    study = study_at(url)
    do_all(study)
    assert [(each.params["x"], each.value, each.result) for each in study.done()] == [
        (x, x * x, {"x": x}) for x in VALUES
    ]
    assert study.take() is None
    assert states(url) == {point: ["COMPLETE"] for point in range(4)}


def test_a_study__opened_with_another_setting__is_refused_by_the_keys(url):
    study_at(url)
    with pytest.raises(ConfigError, match=r"begun with other settings \(what\)"):
        study_at(url, setting={"what": "cubes"})


def test_workers_at_once__share_the_points__and_do_none_twice(url, tmp_path):
    points = [{"x": x} for x in range(16)]

    def noting(claim):
        (tmp_path / f"{claim.point}_{os.getpid()}").touch()
        return 0.0, {}

    def work():
        do_all(study_at(url, points=points, space={"x": list(range(16))}, patience=60), noting)

    workers = [in_child(work) for _ in range(4)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    done = [path.name.split("_") for path in tmp_path.glob("*_*")]
    assert sorted(int(point) for point, _ in done) == list(range(16))
    assert len({worker for _, worker in done}) > 1
    assert_done_once(url, 16)


def test_workers_killed_20_times_at_random_moments__lose_nothing(url):
    points = [{"x": x} for x in range(12)]
    moments = random.Random(0)

    def slow(claim):
        time.sleep(0.15)
        return float(claim.params["x"]), {}

    def work():
        do_all(study_at(url, points=points, space={"x": list(range(12))}), slow)

    workers, kills = [in_child(work) for _ in range(3)], 0
    while kills < 20:
        time.sleep(moments.uniform(0, 0.15))
        place = moments.randrange(3)
        if workers[place].exitcode is None:
            workers[place].kill()
            workers[place].join()
            kills += 1
        workers[place] = in_child(work)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert_done_once(url, 12)
    done = study_at(url, points=points, space={"x": list(range(12))}).done()
    assert [each.value for each in done] == list(range(12))


def test_a_worker_killed_before_its_first_sign_of_life__is_followed_by_another(url, monkeypatch):
    def die(claim):
        os._exit(9)

    study_at(url)
    monkeypatch.setattr(vpt.protocols.study.Claim, "_live", lambda self, seconds, over: None)
    in_child(lambda: do_all(study_at(url), die)).join()
    monkeypatch.undo()
    assert states(url)[0] == ["RUNNING"]
    do_all(study_at(url))
    assert_done_once(url, 4)


def test_a_worker_killed_while_it_puts_the_points__is_completed_by_another(url, monkeypatch):
    put = PointStudy._put

    def dying(self, point, like=None):
        if point == 2:
            os._exit(9)
        put(self, point, like)

    monkeypatch.setattr(PointStudy, "_put", dying)
    in_child(lambda: study_at(url)).join()
    monkeypatch.undo()
    assert states(url).keys() == {0, 1}
    do_all(study_at(url))
    assert_done_once(url, 4)


def test_a_worker_that_was_only_silent__loses_its_point__and_counts_no_second_time(
    url, tmp_path, monkeypatch
):
    def slow(claim):
        (tmp_path / "began").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return -1.0, {}

    def work():
        study = study_at(url)
        counted = study.work(study.take(), slow)
        os._exit(0 if not counted else 1)

    monkeypatch.setattr(vpt.protocols.study.Claim, "_live", lambda self, seconds, over: None)
    worker = in_child(work)
    monkeypatch.undo()
    while not (tmp_path / "began").exists():
        time.sleep(0.005)
    study = study_at(url)
    do_all(study)
    (tmp_path / "go").touch()
    worker.join()
    assert worker.exitcode == 0
    assert_done_once(url, 4)
    assert [each.value for each in study.done()] == [1, 4, 9, 16]


def test_a_job_that_raises__is_raised__and_its_point_waits_with_what_it_reported(url):
    study = study_at(url)

    def failing(claim):
        claim.report(0, 0.5)
        raise RunError("disk full")

    with pytest.raises(RunError, match="disk full"):
        study.work(study.take(), failing)
    assert study.counts() == {"done": 0, "running": 0, "waiting": 4}
    again = optuna.load_study(study_name="study", storage=open_storage(url)).trials[-1]
    assert (again.user_attrs["point"], again.intermediate_values) == (0, {0: 0.5})
    do_all(study)
    assert_done_once(url, 4)


def test_a_point_put_there_twice__is_done_once(url):
    study = study_at(url)
    study._put(1)
    do_all(study)
    assert_done_once(url, 4)
    assert Counter(states(url)[1])["COMPLETE"] == 1


def test_points_that_are_drawn__differ__stay_in_their_ranges__and_keep_their_draws(url):
    space = {"rate": Range(1e-4, 1e-1, log=True), "rank": Range(1, 8), "name": ["a", "b"]}
    study = study_at(url, points=[{}] * 15, space=space)

    def judged(claim):
        return -abs(claim.params["rate"] - 0.01), {}

    def failing(claim):
        raise RunError("no")

    first = study.take()
    with pytest.raises(RunError):
        study.work(first, failing)
    do_all(study, judged)
    params = [each.params for each in study.done()]
    assert params[0] == first.params
    assert len({each["rate"] for each in params}) == 15
    assert all(1e-4 <= each["rate"] <= 1e-1 for each in params)
    assert all(each["rank"] in range(1, 9) and each["name"] in "ab" for each in params)


def test_draws__depend_on_seed_and_point__not_on_the_worker(tmp_path):
    space = {"rate": Range(0.0, 1.0)}
    drawn = []
    for name in ("one", "other"):
        study = study_at(f"sqlite:///{tmp_path / name}", points=[{}] * 3, space=space)
        do_all(study, lambda claim: (0.0, {}))
        drawn.append([each.params for each in study.done()])
    assert drawn[0] == drawn[1]


def test_draws__depend_on_what_is_done__not_on_what_a_killed_worker_left_running(tmp_path):
    drawn = []
    for noticed in (False, True):
        url = f"sqlite:///{tmp_path / str(noticed)}"
        study = study_at(url, points=[{}] * 13, space={"rate": Range(0.0, 1.0)})
        study.take()  # by the one that is killed
        for _ in range(11):
            study.work(study.take(), lambda claim: (claim.params["rate"], {}))
        if noticed:
            study._give_back(0)
        claim = study.take()
        drawn.append((claim.point, claim.params))
    assert drawn[0] == drawn[1]


def test_a_poor_point__is_given_up__and_never_the_best(url):
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0)
    study = study_at(url, pruner=pruner)
    steps = Counter()

    def falling(claim):
        for step in range(3):
            steps[claim.point] += 1
            claim.report(step, -float(claim.params["x"]))
        return -float(claim.params["x"]), {}

    do_all(study, falling)
    assert [each.pruned for each in study.done()] == [False, False, True, True]
    assert steps == {0: 3, 1: 3, 2: 1, 3: 1}


def test_a_lost_point__ends_at_its_next_report(url):
    study, other = study_at(url), study_at(url)

    def robbed(claim):
        other._give_back(0)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            claim.report(0, 1.0)
            time.sleep(0.01)
        raise AssertionError("it goes on for ever")

    assert study.work(study.take(), robbed) is False
    do_all(other)
    assert_done_once(url, 4)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nowhere/at/all/study.db", "storage sqlite:////nowhere/at/all/study.db cannot"),
        ("sqlite:///:memory:", "storage sqlite:///:memory: is in memory"),
        ("gibberish", "storage gibberish cannot be used: Could not parse"),
        (
            "postgresql+psycopg://me:sec:r@et@127.0.0.1:1/studies",
            "storage postgresql+psycopg://me@127.0.0.1:1/studies",
        ),
    ],
)
def test_a_storage_that_cannot_be_used__is_one_line_without_its_password(url, message):
    with pytest.raises((ConfigError, RunError)) as caught:
        open_storage(url)
    assert str(caught.value).startswith(message)
    assert "sec" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_given_up__says_why():
    assert [str(GivenUp(lost=lost)) for lost in (True, False)] == ["lost", "pruned"]
