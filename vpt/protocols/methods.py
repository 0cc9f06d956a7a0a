"""What comparisons of methods share: the config, who may set what, the folder of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vpt.config import Schema
from vpt.config.run import Positive
from vpt.errors import RunError
from vpt.evaluation.comparison import Trial
from vpt.evaluation.energy import total
from vpt.protocols.setup import (
    OWN_KEYS,
    SHARED_KEYS,
    Name,
    Seed,
    Threads,
    refuse_flat_data,
    refuse_keys,
)
from vpt.runs import Tried

Log = Callable[[str], None]

Rate = Positive


class MethodsConfig(Schema):
    """Which methods are compared, on what and on which seeds."""

    run_dir: Path = Field(description="folder of the result and of all runs; new or empty")
    base: dict[str, Any] = Field(
        description="a run's config without run_dir and seed, common to all methods"
    )
    methods: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)] = Field(
        description="what each method changes in the base: prompt, tuning, optim, train, .."
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        description="of the runs that are tested"
    )
    trial_seeds: list[Seed] = Field(
        default_factory=list,
        description="of the runs that choose between settings; none of `seeds`",
    )
    threads: Threads | None = Field(
        None, description="CPU threads, on which the last bits depend; null: torch's own number"
    )

    @field_validator("base")
    @classmethod
    def _check_base(cls, base: dict[str, Any]) -> dict[str, Any]:
        refuse_flat_data(base)
        refuse_keys(base, OWN_KEYS, "is set by the comparison; leave it out")
        return base

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for changes in methods.values():
            refuse_keys(changes, OWN_KEYS, "is set by the comparison; leave it out")
            refuse_keys(changes, SHARED_KEYS, "is the same for all methods; set it in base")
        return methods

    @field_validator("seeds", "trial_seeds")
    @classmethod
    def _check_distinct(cls, seeds: list[int], info: ValidationInfo) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{info.field_name} {seeds} repeat a seed; use each once")
        return seeds

    @model_validator(mode="after")
    def _check_trial_seeds(self) -> MethodsConfig:
        if common := set(self.seeds) & set(self.trial_seeds):
            raise ValueError(f"trial_seeds {sorted(common)} are also in seeds; use other ones")
        return self


class RatesConfig(MethodsConfig):
    """Which methods are compared, from which learning rates and on which seeds."""

    learning_rates: dict[str, Annotated[list[Rate], Field(min_length=1)]] = Field(
        description="the values of optim.lr that each method tries, equally many for all; a "
        "single one is taken untried"
    )

    @model_validator(mode="after")
    def _check_fairness(self) -> RatesConfig:
        if self.learning_rates.keys() != self.methods.keys():
            raise ValueError(
                f"learning_rates are of {sorted(self.learning_rates)}, methods are "
                f"{sorted(self.methods)}; give a list for each method"
            )
        counts = {name: len(set(rates)) for name, rates in self.learning_rates.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"learning_rates differ in number ({counts}); give every method equally many"
            )
        if self.rates_to_try and not self.trial_seeds:
            raise ValueError("trial_seeds are missing: seeds of the runs that choose the rates")
        return self

    @property
    def rates_to_try(self) -> dict[str, list[float]]:
        """`learning_rates` of the methods that have a choice."""
        return {name: rates for name, rates in self.learning_rates.items() if len(rates) > 1}

    @property
    def trials_per_method(self) -> int:
        """Learning rates that each method tries; the same number for all."""
        return max((len(rates) for rates in self.rates_to_try.values()), default=0)


def prepare_run_dir(run_dir: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse before the trials what the first run would refuse after them.

    Args:
        run_dir: of the comparison.
        overwrite: what is there may be replaced.
        resume: what is there is gone on with.

    Raises:
        RunError: the folder is not empty.
    """
    if overwrite:  # an interrupted comparison should not stand beside the result of another
        (run_dir / "result.json").unlink(missing_ok=True)
    elif not resume and run_dir.is_dir() and any(run_dir.iterdir()):
        raise RunError(
            f"{run_dir} is not empty; remove it, use --overwrite, or set another run_dir"
        )


def trial_of(lr: float, tried: Sequence[Tried], metric: str) -> Trial:
    """One learning rate tried on every trial seed, judged by a metric of validation."""
    return Trial(
        lr,
        tuple(each.val[metric] for each in tried),
        sum(each.seconds for each in tried),
        total(*(each.energy for each in tried)),
    )
