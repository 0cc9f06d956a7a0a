"""The points of a search, handed out to any number of workers: none is lost, none done twice.

A study of Optuna's keeps them, in a database that workers on one machine or many share. Its points
are put there at its start, one waiting trial each; a worker only ever takes what waits. While it
works it gives signs of life. A trial without one for too long is failed by whoever notices, and its
point waits again; so does that of a worker that was asked to stop. Time is taken by each watcher's
own clock, from when it last saw a change, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpt.errors import ConfigError
from vpt.seeding import derive_seed

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

Value = bool | int | float | str | None
Params = Mapping[str, Value]

_SETTING, _ABOUT = "setting", "about"  # of a study
_POINT, _ALIVE, _RESULT, _WORKER = "point", "alive", "result", "worker"  # of a trial
_SIGNS = 4  # of life within a study's patience


@dataclass(frozen=True)
class Range:
    """Numbers to draw from.

    Attributes:
        low: the least; whole numbers are drawn if both ends are whole.
        high: the most.
        log: draw evenly in the logarithm.
    """

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Sequence[Value] | Range]
"""What may be chosen, by the name of the parameter."""


@dataclass(frozen=True)
class Done:
    """A point that is over.

    Attributes:
        point: its number.
        params: what was tried.
        value: of the objective; None where it was pruned before it had one.
        pruned: given up early.
        result: what the job left, JSON values.
    """

    point: int
    params: Params
    value: float | None
    pruned: bool
    result: Mapping[str, Any]


class GivenUp(Exception):  # noqa: N818 - no error: it asks for no mending
    """This point will not be among the best (pruned), or it is another worker's by now (lost)."""

    def __init__(self, *, lost: bool):
        super().__init__("lost" if lost else "pruned")
        self.lost = lost


class Claim:
    """A point that this worker has taken.

    Attributes:
        point: its number in the study.
        params: what to try.
    """

    def __init__(self, trial: Trial, point: int, params: Params):
        self.point, self.params = point, params
        self._trial = trial
        self._lost = threading.Event()

    def report(self, step: int, value: float) -> None:
        """Tell the objective after a step.

        Raises:
            GivenUp: it is not worth going on, or another worker has taken the point over.
        """
        if self._lost.is_set():
            raise GivenUp(lost=True)
        with _unless_finished(), _quiet():
            self._trial.report(value, step)
            if self._trial.should_prune():
                raise GivenUp(lost=False)

    def keep(self, result: Mapping[str, Any]) -> None:
        """Let the study keep what is known of a point that is given up; JSON values."""
        with _unless_finished():
            self._trial.set_user_attr(_RESULT, dict(result))

    @contextlib.contextmanager
    def signs_of_life(self, seconds: float) -> Iterator[None]:
        """Give them from now on, every so many seconds, until the context is left."""
        over = threading.Event()
        thread = threading.Thread(target=self._live, args=(seconds, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _live(self, seconds: float, over: threading.Event) -> None:
        from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

        for number in itertools.count():
            try:
                self._trial.set_user_attr(_ALIVE, number)
            except UpdateFinishedTrialError:  # someone took this worker for dead
                self._lost.set()
                return
            except StorageInternalError:  # the database may be back at the next sign
                pass
            if over.wait(seconds):
                return


class PointStudy:
    """A study whose points are given from the start.

    Attributes:
        name: in the database.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        points: Sequence[Params],
        space: Space,
        setting: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        seed: int,
        patience: float,
        pruner: BasePruner | None = None,
    ):
        """Open a study, or create it with all its points waiting.

        Args:
            storage: of `study_database.open_storage`.
            name: in the database.
            points: what is fixed of each; the rest of the space is drawn by TPE when it is taken.
            space: of the parameters.
            setting: all that the values depend on, as JSON values; must be what it was.
            about: where the study belongs, for reports; JSON values.
            seed: of what is drawn.
            patience: seconds without a sign of life after which a point is another worker's.
            pruner: decides at reports; None never prunes.

        Raises:
            ConfigError: there is a study of that name and another setting.
        """
        import optuna

        self.name, self._points, self._space, self._seed = name, points, space, seed
        self._patience = patience
        self._stalls = _Stalls(patience)
        self._mine: int | None = None
        how: dict[str, Any] = {
            "storage": storage,
            "study_name": name,
            "sampler": _sampler(seed),
            "pruner": pruner or optuna.pruners.NopPruner(),
        }
        try:
            self._study = optuna.create_study(**how, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            self._study = optuna.load_study(**how)
        else:
            for point in range(len(points)):
                self._put(point)
        self._check_setting(json.loads(json.dumps(setting)))
        if self._study.user_attrs.get(_ABOUT) is None:
            self._study.set_user_attr(_ABOUT, dict(about or {}))

    def _check_setting(self, setting: dict[str, Any]) -> None:
        before = self._study.user_attrs.get(_SETTING)
        if before is None:
            self._study.set_user_attr(_SETTING, setting)
        else:
            _refuse_other(self.name, before, setting)

    def take(self) -> Claim | None:
        """A point that waits, now this worker's; None where none does."""
        import optuna

        waiting = (optuna.trial.TrialState.WAITING,)
        while self._study.get_trials(deepcopy=False, states=waiting):
            trial = self._study.ask()
            point = trial.user_attrs.get(_POINT)
            if point is None or self._is_double(trial.number, point):
                # Another worker took the last one, or a point was put there twice.
                self._tell(trial.number, optuna.trial.TrialState.FAIL)
                continue
            self._mine = trial.number
            trial.set_user_attr(_WORKER, f"process {os.getpid()} on {socket.gethostname()}")
            return Claim(trial, point, self._suggested(trial, point))
        return None

    def _is_double(self, number: int, point: int) -> bool:
        return any(trial.number < number for trial in self._live().get(point, ()))

    def _suggested(self, trial: Trial, point: int) -> dict[str, Value]:
        """The point's parameters: fixed ones as they are, others drawn."""
        self._study.sampler = _sampler(derive_seed("sweep", self._seed, point))
        return {name: _suggest(trial, name, choices) for name, choices in self._space.items()}

    def work(self, claim: Claim, job: Callable[[Claim], tuple[float, dict[str, Any]]]) -> bool:
        """Do a point's job and keep its value and result; whether they count.

        They do not where another worker took this one for dead and the point over.
        What the job raises is raised here, and the point waits again.
        """
        from optuna.trial import TrialState

        trial = claim._trial
        try:
            with claim.signs_of_life(self._patience / _SIGNS):
                value, result = job(claim)
                claim.keep(result)
        except GivenUp as given_up:
            if given_up.lost:
                return False
            return self._tell(trial.number, TrialState.PRUNED)
        except BaseException:
            self._give_back(trial.number)
            raise
        finally:
            self._mine = None
        return self._tell(trial.number, TrialState.COMPLETE, value)

    def look_after(self) -> None:
        """Let the points wait again whose workers have been silent for too long."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING and trial.number != self._mine:
                sign = trial.user_attrs.get(_ALIVE)
                if self._stalls.is_stalled(("trial", trial.number), sign):
                    self._give_back(trial.number)
        live = self._live()
        for point in range(len(self._points)):
            if point not in live and self._stalls.is_stalled(("point", point), len(trials)):
                self._put(point)

    def is_over(self) -> bool:
        """Whether every point is done."""
        return len(self.done()) == len(self._points)

    def done(self) -> tuple[Done, ...]:
        """The points that are over, in their order."""
        return done_points(self._study)

    def counts(self) -> dict[str, int]:
        """Points by what becomes of them: 'done', 'running', 'waiting'."""
        from optuna.trial import TrialState

        found = {"done": len(self.done()), "running": 0}
        for trials in self._live().values():
            states = {trial.state for trial in trials}
            if TrialState.RUNNING in states and not states & _ended():
                found["running"] += 1
        return {**found, "waiting": len(self._points) - sum(found.values())}

    def _live(self) -> dict[int, list[FrozenTrial]]:
        """Each point's trials that have not failed."""
        from optuna.trial import TrialState

        found: dict[int, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state != TrialState.FAIL and _POINT in trial.user_attrs:
                found.setdefault(trial.user_attrs[_POINT], []).append(trial)
        return found

    def _tell(self, number: int, state: Any, value: float | None = None) -> bool:
        """End a trial, unless another worker has; whether this one did."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._study.tell(number, value, state=state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _give_back(self, number: int) -> None:
        """Fail a trial; whoever does it puts the point there again, as far as it got."""
        from optuna.trial import TrialState

        if self._tell(number, TrialState.FAIL):
            trial = self._study.get_trials(deepcopy=False)[number]
            if _POINT in trial.user_attrs:
                self._put(trial.user_attrs[_POINT], like=trial)

    def _put(self, point: int, like: FrozenTrial | None = None) -> None:
        """A trial of a point that waits; like another one: with what was drawn and reported."""
        import optuna

        with _quiet():
            trial = optuna.create_trial(
                state=optuna.trial.TrialState.WAITING,
                params=None if like is None else like.params,
                distributions=None if like is None else like.distributions,
                user_attrs={_POINT: point},
                system_attrs={"fixed_params": dict(self._points[point])},
                intermediate_values=None if like is None else like.intermediate_values,
            )
        self._study.add_trial(trial)


class _Stalls:
    """Since when things have been as they are, by this process's own clock."""

    def __init__(self, patience: float):
        self._patience = patience
        self._seen: dict[Hashable, tuple[Any, float]] = {}

    def is_stalled(self, thing: Hashable, state: Any) -> bool:
        now = time.monotonic()
        before = self._seen.get(thing)
        if before is None or before[0] != state:
            self._seen[thing] = (state, now)
            return False
        return now - before[1] >= self._patience


@dataclass(frozen=True)
class Record:
    """What a study's database says of it.

    Attributes:
        about: where it belongs.
        setting: all that its values depend on.
        done: its points that are over.
    """

    about: Mapping[str, Any]
    setting: Mapping[str, Any]
    done: tuple[Done, ...]


def read_studies(storage: BaseStorage, prefix: str) -> list[Record]:
    """The studies whose names begin so, as far as they have come."""
    import optuna

    names = [name for name in optuna.get_all_study_names(storage) if name.startswith(prefix)]
    found = []
    for name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        attrs = study.user_attrs
        if _SETTING in attrs and _ABOUT in attrs:  # else its creator was killed
            found.append(Record(attrs[_ABOUT], attrs[_SETTING], done_points(study)))
    return found


def refuse_other_settings(storage: BaseStorage, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what was begun otherwise, before anything is changed.

    Args:
        storage: of the studies.
        settings: by a study's name; those that are there already must have had these.

    Raises:
        ConfigError: one had another setting.
    """
    import optuna

    begun = set(optuna.get_all_study_names(storage))
    for name in filter(begun.__contains__, settings):
        study = optuna.load_study(study_name=name, storage=storage)
        if (before := study.user_attrs.get(_SETTING)) is not None:
            _refuse_other(name, before, json.loads(json.dumps(settings[name])))


def _refuse_other(name: str, before: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    changed = sorted(key for key in setting if before.get(key) != setting[key])
    if changed:
        raise ConfigError(
            f"study '{name}' was begun with other settings ({', '.join(changed)}); "
            "go back to them, or give the sweep another name and run_dir"
        )


def done_points(study: optuna.Study) -> tuple[Done, ...]:
    """The points of a study that are over, in their order."""
    from optuna.trial import TrialState

    found = {}
    for trial in study.get_trials(deepcopy=False, states=tuple(_ended())):
        pruned = trial.state == TrialState.PRUNED
        found[trial.user_attrs[_POINT]] = Done(
            trial.user_attrs[_POINT],
            dict(trial.params),
            trial.value,
            pruned,
            trial.user_attrs.get(_RESULT, {}),
        )
    return tuple(found[point] for point in sorted(found))


def _ended() -> set[Any]:
    from optuna.trial import TrialState

    return {TrialState.COMPLETE, TrialState.PRUNED}


def _sampler(seed: int) -> BaseSampler:
    """Draws each parameter on its own, when it is asked for, so that the seed can be a point's."""
    import optuna

    # Nor do draws depend on what runs besides, as on a trial that a killed worker left behind.
    return optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=False, constant_liar=False)


def _suggest(trial: Trial, name: str, choices: Sequence[Value] | Range) -> Value:
    if not isinstance(choices, Range):
        chosen: Value = trial.suggest_categorical(name, choices)
        return chosen
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return trial.suggest_int(name, choices.low, choices.high, log=choices.log)
    return trial.suggest_float(name, choices.low, choices.high, log=choices.log)


@contextlib.contextmanager
def _unless_finished() -> Iterator[None]:
    """A trial that another worker has ended is lost to this one."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        yield
    except UpdateFinishedTrialError as error:
        raise GivenUp(lost=True) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings: of experimental options, of steps that are reported again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
