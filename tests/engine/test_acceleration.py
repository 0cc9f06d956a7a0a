"""What makes passes cheaper: the same numbers, one graph, and the model as it was afterwards."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
from torch._dynamo.utils import counters

from tests.engine.test_fit import CPU, make_batches, make_data, make_model, make_settings
from vpt.engine.acceleration import accelerated
from vpt.engine.fit import fit
from vpt.errors import RunError

SETTINGS = {"name": "adamw", "lr": 0.01, "epochs": 2}


def fitted(**changes):
    model = make_model(dropout=0.2)
    state = fit(
        model, make_data(make_batches(4, 4, 3)), make_settings(**SETTINGS, **changes), device=CPU
    )
    return dict(model.trained_tensors()), state


def test_grad_checkpointing__trains_to_the_same_bits():
    expected, state = fitted()
    tensors, other = fitted(grad_checkpointing=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert state.best == other.best


def test_compiled__one_graph_for_steps_and_one_for_validation__over_epochs_and_tails(monkeypatch):
    expected, _ = fitted()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", _without_mode(torch.compile))
    torch._dynamo.reset()
    counters.clear()
    tensors, _ = fitted(compile_mode="default")
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_compiled_and_checkpointed__is_one_graph_for_steps(monkeypatch):
    expected, _ = fitted()
    monkeypatch.setattr(
        torch, "compile", _without_mode(functools.partial(torch.compile, backend="eager"))
    )
    torch._dynamo.reset()
    counters.clear()
    tensors, _ = fitted(compile_mode="default", grad_checkpointing=True)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def _without_mode(compile_):
    return lambda function, *, mode: compile_(function)


def test_what_cannot_be_compiled__is_one_line(monkeypatch):
    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    monkeypatch.setattr(
        torch, "compile", _without_mode(functools.partial(torch.compile, backend=broken))
    )
    torch._dynamo.reset()
    with pytest.raises(RunError, match=r"train\.compile default does not work here \(.*no C\+\+"):
        fitted(compile_mode="default")


def test_an_accelerated_model__is_as_it_was_afterwards():
    model = make_model()
    backbone, images = model.backbone, torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        with accelerated(model, "bf16", compile_mode="default", grad_checkpointing=True):
            assert model.backbone.stored_dtype == torch.bfloat16
            stored = model.backbone
            with accelerated(model, "bf16"):
                assert model.backbone is stored
            assert model.prompted.grad_checkpointing
        assert model.backbone is backbone
        assert not model.prompted.grad_checkpointing
        assert torch.equal(model(images), expected)


def test_many_models_compiled_at_once__none_runs_as_it_is_written(monkeypatch):
    runs = []

    def counting(graph, inputs):
        return lambda *values: runs.append(graph) or graph(*values)

    monkeypatch.setattr(
        torch, "compile", _without_mode(functools.partial(torch.compile, backend=counting))
    )
    torch._dynamo.reset()
    models = [make_model(num_tokens=count) for count in (1, 2, 3)]
    images = torch.randn(2, 3, 32, 32)
    torchs_own = torch._dynamo.config.patch(recompile_limit=2)
    with torchs_own, contextlib.ExitStack() as stack, torch.no_grad():
        for model in models:
            stack.enter_context(accelerated(model, "fp32", compile_mode="default"))
            model(images)
    assert len(runs) == len(models)


def test_what_torch_refuses_to_compile__leaves_the_model_as_it_was():
    model = make_model()
    backbone = model.backbone
    with (
        pytest.raises(RuntimeError, match="bogus"),
        accelerated(model, "bf16", compile_mode="bogus", grad_checkpointing=True),
    ):
        pass
    assert model.backbone is backbone
    assert not model.prompted.grad_checkpointing
