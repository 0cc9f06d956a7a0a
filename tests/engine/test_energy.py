"""Energy: counters in the hardware's place, readings that add up, reasons where there is none."""

from __future__ import annotations

import itertools
import json
import sys
import types
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpt.engine import energy
from vpt.engine.energy import (
    EnergyMeter,
    GpuCounter,
    MachineCounter,
    PackageCounter,
    open_gpu,
    open_meter,
    open_packages,
)
from vpt.evaluation.energy import Energy, absent, energies, total


class Nvml:
    """The three functions of nvidia-ml-py that are called, over a counter of millijoules."""

    def __init__(self, millijoules):
        self._millijoules = iter(millijoules)
        self.uuid = None

    def nvmlInit(self):
        pass

    def nvmlShutdown(self):
        self.uuid = None

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.uuid = uuid
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        value = next(self._millijoules)
        if isinstance(value, Exception):
            raise value
        return value


class Codecarbon:
    """codecarbon's tracker, as far as it is used: it tells its handlers kWh so far."""

    def __init__(self, kilowatt_hours):
        self.kilowatt_hours = iter(kilowatt_hours)
        self.stopped = False

    def OfflineEmissionsTracker(self, **options):
        self.options = options
        return self

    def start(self):
        pass

    def flush(self):
        for value in itertools.islice(self.kilowatt_hours, 1):
            so_far = types.SimpleNamespace(energy_consumed=value)
            for handler in self.options["output_handlers"]:
                handler.out(so_far, None)

    def stop(self):
        self.flush()
        self.stopped = True


def write_package(root, place, microjoules, span=1_000_000, name=None):
    folder = root / f"intel-rapl:{place}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name or f'package-{place}'}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder


# ------------------------------------------------------------------------------------- counters


def test_a_gpu__counts_joules_since_the_last_look__as_measured():
    nvml = Nvml([5_000, 5_000, 6_500, 16_500])
    meter = EnergyMeter([GpuCounter(nvml, "GPU-1234")])
    assert nvml.uuid == "GPU-1234"
    assert meter.take() == (Energy(1.5, "gpu", "measured"),)
    assert meter.take() == (Energy(10.0, "gpu", "measured"),)
    meter.close()
    assert nvml.uuid is None


def test_a_gpu__whose_driver_fails_later__is_absent_from_then_on():
    meter = EnergyMeter([GpuCounter(Nvml([0, 0, 2_000, RuntimeError("GPU is\nlost")]), "GPU-1")])
    assert meter.take() == (Energy(2.0, "gpu", "measured"),)
    lost = Energy(None, "gpu", "absent", "RuntimeError: GPU is lost")
    assert meter.take() == meter.take() == (lost,)
    meter.close()


def test_a_gpu__without_the_extra__is_absent_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = open_gpu(torch.device("cuda"))
    assert found.state == "absent"
    assert "pip install 'vpt[energy]'" in found.reason


def test_a_gpu__is_found_by_its_own_name(monkeypatch):
    nvml = Nvml([0, 0, 3_000])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = types.SimpleNamespace(uuid="aa-bb")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    with EnergyMeter([open_gpu(torch.device("cuda"))]) as meter:
        assert nvml.uuid == "GPU-aa-bb"
        assert meter.take() == (Energy(3.0, "gpu", "measured"),)


def test_packages__are_added__and_followed_when_they_begin_anew(tmp_path):
    write_package(tmp_path, 0, 900_000)
    write_package(tmp_path, 1, 0)
    write_package(tmp_path, 2, 0, name="psys")  # holds the packages, and more
    meter = EnergyMeter([open_packages(tmp_path)])
    write_package(tmp_path, 0, 100_000)
    write_package(tmp_path, 1, 500_000)
    write_package(tmp_path, 2, 700_000, name="psys")
    assert meter.take() == (Energy(pytest.approx(0.7), "cpu package", "measured"),)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20))
def test_a_package__counts_everything__if_looked_at_once_a_round(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("powercap")
    counter = PackageCounter([write_package(root, 0, 17, span=1_000)])
    for so_far in itertools.accumulate(steps):
        write_package(root, 0, (17 + so_far) % 1_000, span=1_000)
        assert counter.read() == pytest.approx(so_far / 1e6)


def test_packages__that_only_root_may_read__are_absent_with_the_file(tmp_path, monkeypatch):
    folder = write_package(tmp_path, 0, 1)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(energy, "_number", denied)
    found = open_packages(tmp_path)
    assert found.state == "absent"
    assert str(folder) in found.reason
    assert "root" in found.reason


def test_packages__on_another_system__are_absent(tmp_path):
    assert open_packages(tmp_path / "none").state == "absent"


def test_a_machine__is_estimated__quietly_and_without_files_or_network():
    codecarbon = Codecarbon([0.0, 1e-6, 3e-6, 4e-6])
    meter = EnergyMeter([MachineCounter(codecarbon)])
    assert meter.take() == (Energy(pytest.approx(7.2), "machine", "estimated"),)
    meter.close()
    options = codecarbon.options
    assert codecarbon.stopped
    assert options["output_methods"] == []
    assert options["emissions_endpoint"] is None
    assert options["allow_multiple_runs"] is True
    assert options["log_level"] == "critical"


def test_a_machine__whose_tracker_gives_nothing__is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", Codecarbon([]))
    meter = open_meter(torch.device("cpu"))
    (machine,) = (each for each in meter.take() if each.scope == "machine")
    assert machine == absent("machine", "RuntimeError: codecarbon does not work here")


def test_a_meter__without_any_extra__has_reasons_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    with open_meter(torch.device("cpu")) as meter:
        found = meter.take()
    assert [(each.scope, each.state) for each in found] == [
        ("cpu package", "absent"),
        ("machine", "absent"),
    ]
    assert all(each.reason for each in found)


# ----------------------------------------------------------------------------------------- sums


def test_readings__add_up_by_scope__and_come_back_from_json():
    one = (Energy(1.0, "gpu", "measured"), Energy(5.0, "machine", "estimated"))
    other = (Energy(2.0, "gpu", "measured"), absent("machine", "codecarbon is gone"))
    sums = total((), one, other)
    assert sums == (Energy(3.0, "gpu", "measured"), absent("machine", "codecarbon is gone"))
    assert energies(json.loads(json.dumps([asdict(each) for each in sums]))) == sums


def test_a_sum__of_which_a_part_is_unknown__is_no_number():
    gpu = (Energy(1.0, "gpu", "measured"),)
    machine = (Energy(1.0, "machine", "estimated"),)
    assert [each.state for each in total(gpu, machine)] == ["absent", "absent"]
    assert total() == total((), ()) == ()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.integers(0, 9))
def test_a_sum__is_the_same_whenever_it_is_taken(parts, cut):
    readings = [(Energy(value, "gpu", "measured"),) for value in parts]
    whole = total(*readings)
    in_two = total(total(*readings[:cut]), total(*readings[cut:]))
    assert whole[0].joules == pytest.approx(in_two[0].joules)
    assert whole[0].joules == pytest.approx(sum(parts))
