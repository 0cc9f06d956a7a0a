"""Energy as a value: what was counted, of which part of a machine, and sums of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

EnergyState = Literal["measured", "estimated", "absent"]


@dataclass(frozen=True)
class Energy:
    """Energy of one part of a machine.

    Attributes:
        joules: None where it is absent.
        scope: 'gpu' (the run's GPU alone), 'cpu package' (all of the machine's processors) or
            'machine' (processors, memory and GPUs). All of them count what others do there too.
        state: 'measured' by a counter of the hardware, 'estimated', or 'absent'.
        reason: why it is absent.
    """

    joules: float | None
    scope: str
    state: EnergyState
    reason: str | None = None

    def __add__(self, later: Energy) -> Energy:
        """The energy of both; absent where one is, for part of a sum is none."""
        if self.joules is None or later.joules is None:
            return absent(self.scope, self.reason or later.reason)
        state: EnergyState = "measured" if self.state == later.state == "measured" else "estimated"
        return Energy(self.joules + later.joules, self.scope, state)


def absent(scope: str, reason: str | None) -> Energy:
    """No energy, and why."""
    return Energy(None, scope, "absent", reason)


def total(*readings: Sequence[Energy]) -> tuple[Energy, ...]:
    """The sums of readings, by scope; a scope that one of them does not know is absent."""
    by_scope = [{energy.scope: energy for energy in reading} for reading in readings if reading]
    sums = []
    for scope in dict.fromkeys(scope for reading in by_scope for scope in reading):
        first, *later = (
            reading.get(scope, absent(scope, "not counted all the time")) for reading in by_scope
        )
        sums.append(sum(later, first))
    return tuple(sums)


def energies(values: Iterable[Mapping[str, Any]]) -> tuple[Energy, ...]:
    """The inverse of `asdict` of each."""
    return tuple(Energy(**value) for value in values)
