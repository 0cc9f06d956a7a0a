"""What a sweep's database says of it, as typed results; also of a sweep that is still at work."""

from __future__ import annotations

from pathlib import Path

from vpt.errors import ConfigError
from vpt.evaluation.energy import energies, total
from vpt.evaluation.sweep import SweepTrial, TestedRun, UnitResult
from vpt.protocols.study import Done, Record, read_studies
from vpt.protocols.study_database import opened_storage
from vpt.protocols.sweep_config import SweepConfig, load_sweep, sweep_in


def find_sweep(place: Path) -> SweepConfig:
    """The sweep of a config file or of a run_dir.

    Raises:
        ConfigError: it is neither.
    """
    if not place.exists():
        raise ConfigError(f"{place}: no such file or folder; name a sweep's run_dir or its config")
    return sweep_in(place) if place.is_dir() else load_sweep(place)


def read_sweep(config: SweepConfig) -> tuple[UnitResult, ...]:
    """Every method on every task, as far as it has come, in the config's order.

    Raises:
        ConfigError: the sweep has not begun.
        RunError: its database cannot be used.
    """
    missing = ConfigError(f"the sweep '{config.title}' has not begun; run it with `vpt sweep`")
    if config.storage is None and not (config.run_dir / "study.db").is_file():
        raise missing
    with opened_storage(config.storage_url) as storage:
        records = read_studies(storage, f"{config.title}/")
    searches = {_place(record): record for record in records if record.about["stage"] == "search"}
    tested = {_place(record): record for record in records if record.about["stage"] == "tested"}
    if not searches:
        raise missing
    return tuple(_unit(searches[place], tested.get(place)) for place in sorted(searches))


def _place(record: Record) -> tuple[int, int]:
    task, method = record.about["place"]
    return task, method


def _unit(search: Record, tested: Record | None) -> UnitResult:
    about, setting = search.about, search.setting
    return UnitResult(
        sweep=about["sweep"],
        suite=about["suite"],
        group=about["group"],
        task=about["task"],
        method=about["method"],
        backbone=about["backbone"],
        metric=setting["metric"],
        train_on=setting["train_on"],
        planned_trials=setting["trials"],
        trials=tuple(_trial(done) for done in search.done),
        space=setting["search"]["space"],
        chosen=None if tested is None else tested.setting["chosen"],
        seeds=() if tested is None else tuple(tested.setting["seeds"]),
        runs=() if tested is None else tuple(_run(done) for done in tested.done),
        planned_tasks=about["planned_tasks"],
    )


def _trial(done: Done) -> SweepTrial:
    return SweepTrial(
        params=done.params,
        value=done.value,
        pruned=done.pruned,
        diverged=done.result.get("diverged"),
        seconds=done.result.get("seconds", 0.0),
        energy=total(*(energies(run["energy"]) for run in done.result.get("runs", ()))),
    )


def _run(done: Done) -> TestedRun:
    seed = done.params["seed"]
    assert isinstance(seed, int)
    details = dict(done.result)
    return TestedRun(seed, details.pop("test", None) or {}, details)
