"""Sweeps: any number of workers choose each method's settings on validation, then test them.

A unit is one method on one task. Its search is a study whose points are parameter sets; when all
are over, the best one by validation is trained once per seed and tested, the points of a second
study. Every run has a directory of its own, named after its point: whoever takes over a point goes
on from its newest checkpoint, and a finished run's result stands. So a worker killed at any moment
costs at most what its run had done since that checkpoint.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vpt.backbones import Backbone
from vpt.config import RunConfig, dump
from vpt.engine.interrupt import Interrupted, StopRequest, stop_request
from vpt.engine.run_dir import discard_weights, write_text_atomic
from vpt.errors import DivergedError, RunError, RunInUseError
from vpt.experiment import backbone_of, load_splits
from vpt.protocols.methods import Log
from vpt.protocols.setup import cpu_threads
from vpt.protocols.study import Claim, GivenUp, PointStudy, Value, refuse_other_settings
from vpt.protocols.study_database import opened_storage
from vpt.protocols.sweep_config import SWEEP_FILE, SweepConfig, Unit, best_of, sweep_in
from vpt.protocols.workers import run_apart
from vpt.runs import RunResult, train
from vpt.storage.atomic_file import is_leftover

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

_POLL_SECONDS = 0.5
_TELL_SECONDS = 60  # between lines that say what is waited for

Stage = Literal["search", "tested"]


def sweep(config: SweepConfig, *, workers: int = 1, log: Log = lambda line: None) -> None:
    """Work on a sweep until all of it is over.

    The same call in another process, or on another machine that reaches the storage, is one more
    worker; after an interruption it goes on.

    Args:
        config: of `load_sweep`.
        workers: processes to start here; 1 works in this one.
        log: takes plain lines; with several workers a function that can be pickled.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal.
    """
    _write_config(config)
    if workers == 1:
        work(config, log=log)
        return
    lost: list[int] = []
    run_apart(
        {number: partial(work, config, log=log) for number in range(workers)},
        processes=workers,
        lost=lost.append,
    )
    if len(lost) == workers:
        raise RunError(
            "every worker ended without a word, perhaps for want of memory; try fewer workers"
        )


def _write_config(config: SweepConfig) -> None:
    """The resolved config, for reports; a folder of something else is refused."""
    folder = config.run_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir() if not is_leftover(path.name)}
    except OSError as error:
        raise RunError(f"cannot use {folder} for a sweep: {error.strerror}") from error
    if names and SWEEP_FILE not in names:
        raise RunError(f"{folder} holds other files and no sweep; set another run_dir")
    if SWEEP_FILE in names:
        before = sweep_in(folder)
        if (before.title, before.storage_url) != (config.title, config.storage_url):
            raise RunError(
                f"{folder} holds the sweep '{before.title}' of another name or storage; set "
                "another run_dir"
            )
        _check_settings(config)
    write_text_atomic(folder / SWEEP_FILE, dump(config))


def _check_settings(config: SweepConfig) -> None:
    """Refuse other settings than all the studies were begun with, not only the first one's."""
    settings = {}
    for unit in config.units():
        setting = config.setting(unit)
        settings[_study_name(config, unit, "search")] = setting
        settings[_study_name(config, unit, "tested")] = {**setting, "seeds": config.seeds}
    with opened_storage(config.storage_url) as storage:
        refuse_other_settings(storage, settings)


def _study_name(config: SweepConfig, unit: Unit, stage: Stage) -> str:
    return f"{config.title}/{unit}/{stage}"


def work(config: SweepConfig, *, log: Log = lambda line: None) -> None:
    """Be one worker: take points until the whole sweep is over.

    Raises:
        VptError: anything that a user can fix.
        Interrupted: a signal; what was begun waits for another worker.
    """
    with (
        stop_request() as stop,
        cpu_threads(config.threads),
        opened_storage(config.storage_url) as storage,
    ):
        worker = _Worker(config, storage, log)
        last = time.monotonic()
        while not worker.is_over():
            if stop:
                raise _stopped(stop)
            if worker.do_one():
                last = time.monotonic()
                continue
            if time.monotonic() - last > _TELL_SECONDS:
                log(worker.waits_for())
                last = time.monotonic()
            time.sleep(_POLL_SECONDS)


def _stopped(stop: StopRequest) -> Interrupted:
    return Interrupted(f"stopped by {stop.signal_name}; the same command goes on")


class _Worker:
    """A worker's studies, opened as it comes to them."""

    def __init__(self, config: SweepConfig, storage: BaseStorage, log: Log):
        self._config, self._storage, self._log = config, storage, log
        self._units = list(config.units())
        self._over: set[tuple[Unit, Stage]] = set()
        self._studies: dict[tuple[Unit, Stage], PointStudy] = {}
        self._backbone: Backbone | None = None

    def is_over(self) -> bool:
        """Whether every unit is searched and tested."""
        return all(self._is_over(unit, "tested") for unit in self._units)

    def do_one(self) -> bool:
        """Do the first point that waits, if one does."""
        for unit in self._units:
            if not self._is_over(unit, "search"):
                if self._do_point(unit, "search"):
                    return True
            elif not self._is_over(unit, "tested") and self._do_point(unit, "tested"):
                return True
        return False

    def waits_for(self) -> str:
        """What other workers are at, in a line."""
        running = sum(
            study.counts()["running"]
            for place, study in self._studies.items()
            if place not in self._over
        )
        return (
            f"waiting for {running} run{'s' * (running != 1)} of other workers; one that is silent "
            f"for {self._config.patience:g} s is taken over"
        )

    def _is_over(self, unit: Unit, stage: Stage) -> bool:
        if (unit, stage) in self._over:
            return True
        if stage == "tested" and not self._is_over(unit, "search"):
            return False
        if not self._study(unit, stage).is_over():
            return False
        self._over.add((unit, stage))
        return True

    def _study(self, unit: Unit, stage: Stage) -> PointStudy:
        if (unit, stage) not in self._studies:
            opened = self._open_search(unit) if stage == "search" else self._open_tested(unit)
            self._studies[unit, stage] = opened
        return self._studies[unit, stage]

    def _open_search(self, unit: Unit) -> PointStudy:
        config = self._config
        splits = load_splits(self._example(unit))[1]
        splits.require("test")  # or all would be searched in vain
        if config.metric == "mAP":
            splits.require_multi_label("metric mAP")
        else:
            splits.require_single_label(f"metric {config.metric}")
        return PointStudy(
            self._storage,
            _study_name(config, unit, "search"),
            points=config.search.points(unit.method),
            space=config.search.space_of(unit.method),
            setting=config.setting(unit),
            about={**config.about(unit), "stage": "search"},
            seed=config.search.seed,
            patience=config.patience,
            pruner=_pruner(config),
        )

    def _open_tested(self, unit: Unit) -> PointStudy:
        config = self._config
        chosen = chosen_params(self._study(unit, "search"))
        seeds: list[Value] = list(config.seeds)
        return PointStudy(
            self._storage,
            _study_name(config, unit, "tested"),
            points=[{"seed": seed} for seed in seeds],
            space={"seed": seeds},
            setting={**config.setting(unit), "chosen": chosen, "seeds": seeds},
            about={**config.about(unit), "stage": "tested"},
            seed=0,
            patience=config.patience,
        )

    def _do_point(self, unit: Unit, stage: Stage) -> bool:
        """Do a point of a study, if one waits; else see to those of silent workers."""
        study = self._study(unit, stage)
        claim = study.take()
        if claim is None:
            study.look_after()
            return False
        job = self._try_out if stage == "search" else self._test
        try:
            if not study.work(claim, partial(job, unit)):
                self._log(f"{unit}: another worker took this one's run over")
        except RunInUseError as error:  # of one that is alive, but was too silent
            self._log(f"{error}; trying again later")
            time.sleep(min(self._config.patience, 10))
        except Interrupted as stop:
            raise Interrupted(f"{str(stop).split(';')[0]}; the same command goes on") from stop
        return True

    def _try_out(self, unit: Unit, claim: Claim) -> tuple[float, dict[str, Any]]:
        """The mean validation metric of a parameter set over the trial seeds."""
        config, began = self._config, time.monotonic()
        results = []
        for number, seed in enumerate(config.trial_seeds):
            run = config.trial_config(unit, claim.params, point=claim.point, seed=seed)

            def validated(
                epoch: int, metrics: dict[str, float], first: int = number * run.train.epochs
            ) -> None:
                claim.report(first + epoch, metrics[config.metric])

            try:
                results.append(self._train(run, read_test=False, on_validation=validated))
            except GivenUp as given_up:
                if not given_up.lost:
                    claim.keep({"seconds": time.monotonic() - began})
                    discard_weights(run.run_dir)
                    self._tell(unit, claim, "given up")
                raise
            except DivergedError as error:
                discard_weights(run.run_dir)
                self._tell(unit, claim, str(error))
                return 0.0, {"diverged": str(error), "seconds": time.monotonic() - began}
            discard_weights(run.run_dir)
        value = statistics.fmean(result.val[config.metric] for result in results)
        seconds = sum(result.seconds for result in results)
        self._tell(unit, claim, f"validation {config.metric} {value:.1%}, {seconds:.1f} s")
        return value, {"runs": [_kept(result) for result in results], "seconds": seconds}

    def _test(self, unit: Unit, claim: Claim) -> tuple[float, dict[str, Any]]:
        """The test metric of the chosen parameters with one seed."""
        config = self._config
        seed = claim.params["seed"]
        assert isinstance(seed, int)
        chosen = chosen_params(self._study(unit, "search"))
        run = config.tested_config(unit, chosen, seed=seed)
        try:
            result = self._train(run)
        except DivergedError as error:
            self._log(f"{unit}, seed {seed}: {error}")
            return 0.0, {"diverged": str(error)}
        assert result.test is not None
        value = result.test[config.metric]
        self._log(f"{unit}, seed {seed}: test {config.metric} {value:.1%}, {result.seconds:.1f} s")
        return value, {**_kept(result), "run_dir": str(run.run_dir)}

    def _train(self, run: RunConfig, **options: Any) -> RunResult:
        if self._backbone is None:
            self._backbone = backbone_of(self._any_run())
        return train(run, mode="resume", backbone=self._backbone, **options)

    def _any_run(self) -> RunConfig:
        """The same for every worker: a backbone without weights is drawn by its seed."""
        return self._example(self._units[0])

    def _example(self, unit: Unit) -> RunConfig:
        params = self._config.search.examples(unit.method)[0]
        return self._config.tested_config(unit, params, seed=self._config.seeds[0])

    def _tell(self, unit: Unit, claim: Claim, what: str) -> None:
        params = ", ".join(f"{key} {value}" for key, value in claim.params.items())
        trials = self._config.search.trials_per_method
        self._log(f"{unit}, trial {claim.point + 1}/{trials} ({params}): {what}")


def chosen_params(search: PointStudy) -> dict[str, Value]:
    """The best parameters of a search that is over."""
    complete = [(each.params, each.value) for each in search.done() if not each.pruned]
    return dict(best_of([(params, value) for params, value in complete if value is not None]))


def _kept(result: RunResult) -> dict[str, Any]:
    """What a study keeps of a run."""
    values = asdict(result)
    del values["test_per_class"]
    return values


def _pruner(config: SweepConfig) -> BasePruner | None:
    import optuna

    prune = config.search.prune
    if prune is None:
        return None
    return optuna.pruners.MedianPruner(prune.startup_trials, prune.warmup_epochs)
