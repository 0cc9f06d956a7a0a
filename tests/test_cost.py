"""What a run costs, as its result says it: operations, speed, energy, over all attempts."""

from __future__ import annotations

import json
import signal
import sys

import pytest

import vpt.engine.fit
import vpt.runs.cost
import vpt.runs.training
from tests.fixtures import make_folder
from tests.training import make_config
from vpt.engine.energy import EnergyMeter
from vpt.engine.interrupt import Interrupted
from vpt.evaluation.energy import Energy, absent
from vpt.experiment import build
from vpt.models import Consistency, count_flops
from vpt.runs import make_plan, probe, train, try_with_cost


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), classes=3, images=4)


class JoulePerStep:
    """A counter that every optimiser step of this process moves on by one joule."""

    scope, state = "gpu", "measured"

    def __init__(self, steps):
        self._steps = steps

    def read(self):
        return 40.0 + len(self._steps)

    def close(self):
        pass


@pytest.fixture
def steps(monkeypatch):
    """The steps that were made, each of which costs one joule; the machine is not counted."""
    made: list[int] = []
    original = vpt.engine.fit.set_learning_rates

    def counting(optimizer, settings, step, total_steps):
        made.append(step)
        return original(optimizer, settings, step, total_steps)

    monkeypatch.setattr(vpt.engine.fit, "set_learning_rates", counting)

    def meter(device):
        return EnergyMeter([JoulePerStep(made), absent("machine", "not here")])

    monkeypatch.setattr(vpt.runs.training, "open_meter", meter)
    monkeypatch.setattr(sys.modules["vpt.runs.probing"], "open_meter", meter)
    return made


def test_a_result__says_what_the_run_cost(data, tmp_path, steps):
    config = make_config(tmp_path / "run", data)
    result = train(config)
    expected = count_flops(build(config).model, 4)
    assert (result.forward_flops, result.step_flops) == (expected.forward, expected.step)
    assert result.val_images_per_second > 0
    assert result.energy == (Energy(6.0, "gpu", "measured"), absent("machine", "not here"))
    saved = json.loads((tmp_path / "run/result.json").read_text())
    assert saved["energy"] == [
        {"joules": 6.0, "scope": "gpu", "state": "measured", "reason": None},
        {"joules": None, "scope": "machine", "state": "absent", "reason": "not here"},
    ]
    assert train(config, mode="resume") == result


def test_a_result__without_validation__has_no_speed_of_it_and_shows_no_errors(
    data, tmp_path, steps
):
    both = {"data__train_on": "train_and_val", "train__select": "last"}
    lines: list[str] = []
    result = train(make_config(tmp_path / "run", data, **both), log=lines.append)
    assert result.val_images_per_second is None
    assert result.step_flops > result.forward_flops
    assert result.energy[0] == Energy(12.0, "gpu", "measured")
    assert not any("TensorBoard" in line for line in lines)


def test_energy__of_attempts_adds_up__whenever_they_were_stopped(
    data, tmp_path, steps, monkeypatch
):
    config = make_config(tmp_path / "run", data)
    counting = vpt.engine.fit.set_learning_rates

    def signalling(*args):
        signal.raise_signal(signal.SIGTERM)
        return counting(*args)

    with monkeypatch.context() as patch:
        patch.setattr(vpt.engine.fit, "set_learning_rates", signalling)
        for attempt in range(6):
            with pytest.raises(Interrupted):
                train(config, mode="resume" if attempt else "new")
    result = train(config, mode="resume")
    assert len(steps) == result.steps == 6
    assert result.energy[0] == Energy(6.0, "gpu", "measured")


def test_energy__that_one_attempt_could_not_count__is_absent(data, tmp_path, steps, monkeypatch):
    config = make_config(tmp_path / "run", data)
    gone = EnergyMeter([absent("gpu", "no driver"), absent("machine", "not here")])
    with monkeypatch.context() as patch:
        patch.setattr(vpt.runs.training, "open_meter", lambda device: gone)
        patch.setattr(vpt.runs.training, "measure", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config)
    assert train(config, mode="resume").energy[0] == absent("gpu", "no driver")


def test_a_trial__says_its_cost_too(data, tmp_path, steps):
    config = make_config(tmp_path / "run", data)
    tried = try_with_cost(config)
    assert tried.energy[0] == Energy(6.0, "gpu", "measured")
    assert tried.seconds > 0
    assert try_with_cost(config).val == tried.val


def test_a_probe__has_a_forward_and_no_step(data, tmp_path, steps):
    config = make_config(tmp_path / "run", data, prompt="none")
    result = probe(config)
    assert result.forward_flops == count_flops(build(config).model, 4).forward
    assert result.step_flops is None
    assert [each.state for each in result.energy] == ["measured", "absent"]


def test_a_plan__counts_without_a_run(data, tmp_path):
    config = make_config(tmp_path / "run", data)
    plan, expected = make_plan(build(config)), count_flops(build(config).model, 4)
    assert (plan.forward_flops, plan.step_flops) == (expected.forward, expected.step)


def test_the_count__of_a_run__knows_its_losses(data, tmp_path):
    weights = {"image": 10, "text": 25, "logits": 1}
    config = make_config(
        tmp_path / "run",
        data,
        backbone="bundled/glyph_clip",
        head={"name": "zero_shot", "context": {"num_tokens": 2}},
        loss__consistency=weights,
    )
    experiment = build(config)
    found = vpt.runs.cost.flops_of(experiment, log=pytest.fail)
    assert found == count_flops(experiment.model, 4, consistency=Consistency(**weights))
    assert found.step > count_flops(experiment.model, 4).step


def test_a_count_that_fails__is_one_line__and_no_end_of_the_run(data, tmp_path, monkeypatch):
    def failing(model, batch_size, **options):
        raise NotImplementedError("an operation without\na shape")

    monkeypatch.setattr(vpt.runs.cost, "count_flops", failing)
    lines: list[str] = []
    result = train(make_config(tmp_path / "run", data), log=lines.append)
    assert result.step_flops is None
    told = [line for line in lines if "FLOPs" in line]
    assert told == ["FLOPs are not counted: NotImplementedError: an operation without"]
