"""Optimiser groups and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW

import vpt.engine.optim
from vpt.api import create_model
from vpt.engine.optim import (
    OptimSettings,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    may_fuse,
    optimizer_tensors,
    set_learning_rates,
)

SETTINGS = OptimSettings(
    name="sgd",
    lr={"prompt": 0.5, "head": 0.1, "backbone": 0.01},
    weight_decay={"prompt": 0.02, "head": 0.03, "backbone": 0.04},
    momentum=0.8,
    warmup_steps=4,
)
KINDS = {"sgd": SGD, "adamw": AdamW}


@pytest.fixture(scope="module")
def model():
    return create_model(
        "timm/test_vit",
        [{"name": "vpt_deep", "num_tokens": 2, "projection": 8}, {"name": "pixels", "width": 2}],
        num_classes=3,
        tuning="last:1",
        pretrained=False,
        image_size=32,
    )


def decay_of(optimizer):
    return {
        name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]
    }


@pytest.mark.parametrize("name", KINDS)
def test_groups__decay_prompts_and_weights__but_no_bias_or_norm(name, model):
    optimizer = build_optimizer(model.trained_tensors(), replace(SETTINGS, name=name))
    decay = decay_of(optimizer)
    assert type(optimizer) is KINDS[name]
    assert decay.keys() == {n for n, _ in model.trained_tensors()}
    for tensor_name, tensor in model.trained_tensors():
        part = tensor_name.split(".")[0]
        plain = part != "prompt" and tensor.ndim == 1
        assert decay[tensor_name] == (0.0 if plain else SETTINGS.weight_decay[part]), tensor_name
    assert decay["head.bias"] == 0.0
    assert decay["prompt.prompts.0.tokens"] == 0.02


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_named_optimiser__is_used_with_the_given_decay__also_where_it_is_zero(name, decay):
    settings = replace(SETTINGS, name=name, weight_decay=dict.fromkeys(SETTINGS.lr, decay))
    optimizer = build_optimizer([("prompt.tokens", nn.Parameter(torch.ones(2, 3)))], settings)
    assert type(optimizer) is KINDS[name]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay]


@pytest.mark.parametrize("name", KINDS)
def test_a_tensor_without_gradient__moves_by_its_decay_alone(name):
    tensors = {
        "prompt.tokens": nn.Parameter(torch.ones(2, 3)),
        "head.weight": nn.Parameter(torch.ones(2, 3)),
        "head.bias": nn.Parameter(torch.ones(3)),
    }
    optimizer = build_optimizer(tensors.items(), replace(SETTINGS, name=name, warmup_steps=0))
    rates = set_learning_rates(optimizer, replace(SETTINGS, warmup_steps=0), 0, 10)
    for tensor in tensors.values():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    for tensor_name, decay in (("prompt.tokens", 0.02), ("head.weight", 0.03), ("head.bias", 0.0)):
        expected = 1 - rates[tensor_name.split(".")[0]] * decay
        assert torch.allclose(tensors[tensor_name], torch.tensor(expected))


def test_frozen_tensors__are_in_no_group():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    tensors = [("prompt.a", frozen), ("prompt.b", nn.Parameter(torch.ones(2)))]
    assert decay_of(build_optimizer(tensors, SETTINGS)).keys() == {"prompt.b"}


def test_rates__equal_the_written_out_schedule__at_every_step(model):
    optimizer = build_optimizer(model.trained_tensors(), SETTINGS)
    settings = replace(SETTINGS, min_lr=0.004)
    for step in range(24):
        rates = set_learning_rates(optimizer, settings, step, 24)
        for part, peak in settings.lr.items():
            if step < 4:
                expected = peak * (step + 1) / 4
            else:
                half_wave = (1 + math.cos(math.pi * (step - 4) / 20)) / 2
                expected = 0.004 + (peak - 0.004) * half_wave
            assert rates[part] == pytest.approx(expected, rel=1e-12)
            groups = [group for group in optimizer.param_groups if group["part"] == part]
            assert groups
            assert all(group["lr"] == rates[part] for group in groups)


def test_the_first_step__has_a_rate_above_zero__and_the_last_is_near_the_end():
    rates = [learning_rate(1.0, replace(SETTINGS, warmup_steps=10), s, 1000) for s in range(1000)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert 0 < rates[-1] < 1e-5
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(
    st.integers(1, 300),
    st.integers(0, 400),
    st.floats(1e-6, 50),
    st.floats(0, 60),
    st.sampled_from(["cosine", "constant"]),
)
def test_rates__stay_above_zero_and_never_pass_the_peak(total, warmup, peak, floor, schedule):
    settings = replace(SETTINGS, warmup_steps=warmup, min_lr=floor, schedule=schedule)
    rates = [learning_rate(peak, settings, step, total) for step in range(total)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert max(rates) == pytest.approx(peak)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_optimiser_state__saved_and_loaded__goes_on_with_the_same_bits(name, fused, monkeypatch):
    monkeypatch.setattr(vpt.engine.optim, "may_fuse", lambda *args, **options: fused)

    def begin():
        torch.manual_seed(3)
        tensors = {
            "prompt.tokens": nn.Parameter(torch.randn(2, 3)),
            "head.bias": nn.Parameter(torch.randn(3)),
        }
        return tensors, build_optimizer(tensors.items(), replace(SETTINGS, name=name))

    def step(tensors, optimizer, number):
        set_learning_rates(optimizer, SETTINGS, number, 8)
        generator = torch.Generator().manual_seed(number)
        for tensor in tensors.values():
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        optimizer.step()

    straight, optimizer = begin()
    for number in range(6):
        step(straight, optimizer, number)
    first, optimizer = begin()
    for number in range(3):
        step(first, optimizer, number)
    saved = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    again, optimizer = begin()
    with torch.no_grad():
        for tensor_name, tensor in again.items():
            tensor.copy_(first[tensor_name])
    load_optimizer_tensors(optimizer, saved)
    for number in range(3, 6):
        step(again, optimizer, number)
    assert all(torch.equal(again[key], straight[key]) for key in straight)


@pytest.mark.parametrize("flag", ["fused", "capturable", None])
def test_step_counts__go_where_torch_itself_puts_them(flag):
    parameter = nn.Parameter(torch.ones(2, 3, device="meta"))
    ours = build_optimizer([("prompt.tokens", parameter)], replace(SETTINGS, name="adamw"))
    torchs = AdamW([parameter])
    for optimizer in (ours, torchs):
        optimizer.param_groups[0].update({flag: True} if flag else {})
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    load_optimizer_tensors(
        ours, {f"optimizer.prompt.tokens/{field}": value for field, value in state.items()}
    )
    groups = torchs.state_dict()["param_groups"]
    torchs.load_state_dict({"state": {0: state}, "param_groups": groups})
    expected = {field: value.device.type for field, value in torchs.state[parameter].items()}
    found = {field: value.device.type for field, value in ours.state[parameter].items()}
    assert found == expected
    assert found["step"] == ("meta" if flag else "cpu")
    assert found["exp_avg"] == "meta"


class _OnGpu:
    is_cuda = True


@pytest.mark.parametrize(
    ("name", "scaled", "fused"),
    [("sgd", False, True), ("sgd", True, False), ("adamw", False, True), ("adamw", True, True)],
)
def test_sgd_under_a_scaler__is_never_fused(name, scaled, fused):
    settings = replace(SETTINGS, name=name)
    assert may_fuse(settings, [_OnGpu()], scaled=scaled) is fused
    assert not may_fuse(settings, [_OnGpu(), torch.ones(1)], scaled=scaled)


@pytest.mark.parametrize("name", KINDS)
def test_an_overflow_at_the_first_step__leaves_no_trace(name, monkeypatch):
    """Fused wherever that is allowed, on the CPU, whose fused update has the same order."""
    real = vpt.engine.optim.may_fuse
    as_on_gpu = lambda settings, parameters, **options: real(settings, [_OnGpu()], **options)  # noqa: E731
    monkeypatch.setattr(vpt.engine.optim, "may_fuse", as_on_gpu)
    moved = []
    for gradients in ([math.inf, 0.5, 0.5], [0.5, 0.5]):
        parameter = nn.Parameter(torch.ones(64, 64))
        optimizer = build_optimizer(
            [("prompt.tokens", parameter)], replace(SETTINGS, name=name), scaled=True
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
        for gradient in gradients:
            scaler.scale(parameter.sum() * gradient).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update(1.0)
            optimizer.zero_grad()
        moved.append(parameter.detach())
    assert torch.equal(*moved)


def test_cosine_by_epochs__holds_the_rate_within_an_epoch__as_the_coop_family_does():
    """Their warm-up epochs are not taken off the cosine's length."""
    settings = replace(
        SETTINGS, schedule="cosine_epochs", warmup_steps=3, warmup_lr=1e-5, steps_per_epoch=3
    )
    rates = [learning_rate(0.002, settings, step, 15) for step in range(15)]
    by_epoch = [rates[3 * epoch] for epoch in range(5)]
    expected = [0.001 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(4)]
    assert by_epoch == pytest.approx([1e-5, *expected])
    assert all(rates[3 * epoch : 3 * epoch + 3] == [by_epoch[epoch]] * 3 for epoch in range(5))


def test_a_constant_warm_up__has_its_own_rate__for_every_part(model):
    settings = replace(SETTINGS, warmup_lr=1e-5)
    optimizer = build_optimizer(model.trained_tensors(), settings)
    assert set(set_learning_rates(optimizer, settings, 0, 10).values()) == {1e-5}
