"""Energy of a run: what its hardware counts, what is estimated, and why something is missing.

A GPU counts its own energy (NVML), and so do processors under Linux (RAPL), where their counters
may be read; codecarbon estimates the whole machine's. Without them a run goes on, and says so.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from vpt.evaluation.energy import Energy, EnergyState, absent

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """Counts the energy of one part of a machine.

    Attributes:
        scope: see `Energy`.
        state: 'measured' or 'estimated'.
    """

    scope: str
    state: EnergyState

    def read(self) -> float:
        """Joules since some moment, never fewer than before."""

    def close(self) -> None:
        """Free what the counter holds."""


class EnergyMeter:
    """Energy since the last look, of several counters; it is never the reason that a run ends.

    Args:
        counters: or in a counter's place an absent energy, which says why there is none.
    """

    def __init__(self, counters: Sequence[Counter | Energy]):
        self._counters: list[Counter] = []
        self._last: dict[str, float] = {}
        self._absent: dict[str, Energy] = {}
        self._scopes = [each.scope for each in counters]
        for each in counters:
            if isinstance(each, Energy):
                self._absent[each.scope] = each
            else:
                self._counters.append(each)
                self._look(each)

    def take(self) -> tuple[Energy, ...]:
        """The energy of every scope since the last `take`, or since the meter was made."""
        found = {counter.scope: self._look(counter) for counter in self._counters}
        return tuple({**self._absent, **found}[scope] for scope in self._scopes)

    def close(self) -> None:
        """Stop counting."""
        for counter in self._counters:
            _guarded(counter.close, counter.scope)
        self._counters = []

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _look(self, counter: Counter) -> Energy:
        now = _guarded(counter.read, counter.scope)
        if isinstance(now, Energy):
            self._absent[counter.scope] = now
            self._counters = [each for each in self._counters if each is not counter]
            return now
        before = self._last.get(counter.scope, now)
        self._last[counter.scope] = now
        return Energy(now - before, counter.scope, counter.state)


def _guarded(call: Callable[[], Any], scope: str) -> Any:
    """What a call gives; drivers and trackers fail in ways of their own, which end no run."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return absent(scope, " ".join(f"{type(error).__name__}: {error}".split()))


def open_meter(device: torch.device) -> EnergyMeter:
    """A meter of the machine, and of a GPU that the run is on.

    What cannot be counted here is in its readings as absent, with the reason.
    """
    counters: list[Counter | Energy] = []
    if device.type == "cuda":
        counters.append(_guarded(lambda: open_gpu(device), "gpu"))
    counters.append(_guarded(lambda: open_packages(POWERCAP), "cpu package"))
    counters.append(_guarded(open_machine, "machine"))
    return EnergyMeter(counters)


class GpuCounter:
    """The counter of an NVIDIA GPU, of all its work; from Volta on.

    Args:
        nvml: nvidia-ml-py's module.
        uuid: 'GPU-...', of the device.
    """

    scope = "gpu"
    state: EnergyState = "measured"

    def __init__(self, nvml: Any, uuid: str):
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.read()  # fails here where the GPU has no such counter

    def read(self) -> float:
        """See `Counter.read`; NVML counts millijoules since its driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def close(self) -> None:
        """See `Counter.close`."""
        self._nvml.nvmlShutdown()


def open_gpu(device: torch.device) -> Counter | Energy:
    """The counter of a CUDA device."""
    nvml = _optional("pynvml")
    if nvml is None:
        return absent("gpu", "nvidia-ml-py is not installed: pip install 'vpt[energy]'")
    return GpuCounter(nvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")


class PackageCounter:
    """RAPL's counters of all processor packages.

    Args:
        folders: one for each package, with `energy_uj` and `max_energy_range_uj`.
    """

    scope = "cpu package"
    state: EnergyState = "measured"

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders
        self._ranges = [_number(folder / "max_energy_range_uj") for folder in folders]
        self._last = [_number(folder / "energy_uj") for folder in folders]
        self._sum = 0

    def read(self) -> float:
        """See `Counter.read`; a counter that began anew since the last look is followed."""
        for place, folder in enumerate(self._folders):
            now = _number(folder / "energy_uj")
            grown = now - self._last[place]
            self._sum += grown if grown >= 0 else grown + self._ranges[place]
            self._last[place] = now
        return self._sum / 1e6

    def close(self) -> None:
        """See `Counter.close`: files are opened for each look."""


def open_packages(root: Path) -> Counter | Energy:
    """The counter of the processor packages below a powercap folder."""
    folders = [
        folder
        for folder in sorted(root.glob("intel-rapl:*"))
        if (folder / "name").is_file() and (folder / "name").read_text().startswith("package")
    ]
    if not folders:
        return absent("cpu package", f"no processor with RAPL counters in {root}")
    try:
        return PackageCounter(folders)
    except PermissionError as error:
        return absent("cpu package", f"{error.filename} is readable by root alone")


def _number(path: Path) -> int:
    return int(path.read_text())


class MachineCounter:
    """codecarbon's estimate of processors, memory and GPUs, from their load and nominal power.

    It writes no file, sends nothing, and prints nothing.

    Args:
        codecarbon: the module.
    """

    scope = "machine"
    state: EnergyState = "estimated"

    def __init__(self, codecarbon: Any):
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it listens
        self._kilowatt_hours: float | None = None
        self._tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code="USA",  # one is asked for; what its power plants emit is not used
            output_methods=[],
            output_handlers=[self],  # for `out`
            emissions_endpoint=None,
            allow_multiple_runs=True,  # without, it takes the handlers of SIGTERM and Ctrl-C
            log_level="critical",
            tracking_mode="machine",
        )
        self._tracker.start()
        self.read()

    def read(self) -> float:
        """See `Counter.read`."""
        self._tracker.flush()
        if self._kilowatt_hours is None:  # it logs its errors, and goes on
            raise RuntimeError("codecarbon does not work here")
        return self._kilowatt_hours * 3.6e6

    def close(self) -> None:
        """See `Counter.close`."""
        self._tracker.stop()

    def out(self, so_far: Any, since: Any) -> None:
        """Called by codecarbon with what it has counted."""
        del since
        self._kilowatt_hours = float(so_far.energy_consumed)

    live_out = out

    def exit(self) -> None:
        """Called by codecarbon at its end."""


def open_machine() -> Counter | Energy:
    """The counter of the machine, by codecarbon."""
    codecarbon = _optional("codecarbon")
    if codecarbon is None:
        return absent("machine", "codecarbon is not installed: pip install 'vpt[carbon]'")
    return MachineCounter(codecarbon)


def _optional(name: str) -> Any:
    """A package that may be missing, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
