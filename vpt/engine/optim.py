"""Optimisers with groups for prompt, head and backbone tensors; the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer


@dataclass(frozen=True)
class OptimSettings:
    """The optimiser and its schedule; rates per optimiser step, used as they are.

    Attributes:
        name: the update rule.
        lr: peak rate by part: 'prompt', 'head', 'backbone'.
        weight_decay: by part; biases and norms of head and backbone are never decayed.
        momentum: of SGD.
        betas: of AdamW.
        schedule: cosine from the peak down to `min_lr`, stepwise; 'cosine_epochs' changes the rate
            once per epoch, as the CoOp family does; or constant.
        warmup_steps: linear, from peak / warmup_steps on.
        warmup_lr: a constant rate for these steps instead.
        min_lr: at the end of the cosine.
        steps_per_epoch: for 'cosine_epochs'.
    """

    name: Literal["sgd", "adamw"]
    lr: dict[str, float]
    weight_decay: dict[str, float]
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "cosine_epochs", "constant"] = "cosine"
    warmup_steps: int = 0
    warmup_lr: float | None = None
    min_lr: float = 0.0
    steps_per_epoch: int = 1


def build_optimizer(
    tensors: Iterable[tuple[str, nn.Parameter]], settings: OptimSettings, *, scaled: bool = False
) -> Optimizer:
    """An optimiser over named tensors ('prompt.*', 'head.*', 'backbone.*').

    Each group carries 'peak_lr' and the names of its tensors.

    Args:
        tensors: those that do not require a gradient are left out.
        settings: the update rule and its numbers.
        scaled: whether a GradScaler steps it.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, tensor in tensors:
        if not tensor.requires_grad:
            continue
        part = name.split(".")[0]
        decayed = part == "prompt" or tensor.ndim > 1
        group = groups.setdefault((part, decayed), _new_group(part, decayed, settings))
        group["params"].append(tensor)
        group["names"].append(name)
    parameters = [tensor for group in groups.values() for tensor in group["params"]]
    fused = True if may_fuse(settings, parameters, scaled=scaled) else None
    if settings.name == "sgd":
        return SGD(groups.values(), lr=1.0, momentum=settings.momentum, fused=fused)
    return AdamW(groups.values(), lr=1.0, betas=settings.betas, fused=fused)


def may_fuse(
    settings: OptimSettings, parameters: Sequence[Tensor], *, scaled: bool = False
) -> bool:
    """Whether one kernel updates all tensors: on a GPU only, for the plain update keeps its bits.

    Under a GradScaler SGD is never fused. When the first step overflows, its kernel skips the
    update but has allocated the momentum already, and the next step adds to whatever was in that
    memory.

    Args:
        settings: the update rule.
        parameters: all that it updates.
        scaled: whether a GradScaler steps it.
    """
    if settings.name == "sgd" and scaled:
        return False
    return bool(parameters) and all(parameter.is_cuda for parameter in parameters)


def _new_group(part: str, decayed: bool, settings: OptimSettings) -> dict[str, Any]:
    decay = settings.weight_decay[part] if decayed else 0.0
    return {
        "params": [],
        "names": [],
        "part": part,
        "peak_lr": settings.lr[part],
        "weight_decay": decay,
    }


def set_learning_rates(
    optimizer: Optimizer, settings: OptimSettings, step: int, total_steps: int
) -> dict[str, float]:
    """Set the rates of one step and return them by part.

    Args:
        optimizer: of `build_optimizer`.
        settings: the schedule.
        step: optimiser step, counted from 0.
        total_steps: of the run.
    """
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["peak_lr"], settings, step, total_steps)
        rates[group["part"]] = group["lr"]
    return rates


def learning_rate(peak: float, settings: OptimSettings, step: int, total_steps: int) -> float:
    """The rate of one step: warm-up (linear from above zero, or constant), then the schedule.

    The cosine is equation 5 of SGDR (Loshchilov and Hutter 2017), without restarts.

    Args:
        peak: the highest rate.
        settings: the schedule.
        step: optimiser step, counted from 0.
        total_steps: of the run.
    """
    warmup = min(settings.warmup_steps, total_steps)
    if step < warmup:
        return settings.warmup_lr or peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    progress = _progress(settings, step, warmup, total_steps)
    floor = min(settings.min_lr, peak)
    return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * progress))


def _progress(settings: OptimSettings, step: int, warmup: int, total_steps: int) -> float:
    """Share of the cosine that is done; by epochs it runs over all of them, warm-up counted in."""
    if settings.schedule == "cosine_epochs":
        length = settings.steps_per_epoch
        return (step // length - warmup // length) / math.ceil(total_steps / length)
    return (step - warmup) / max(1, total_steps - warmup)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as 'optimizer.<tensor name>/<field>' -> tensor."""
    found = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for field, value in optimizer.state[parameter].items():
                if value is not None:
                    found[f"optimizer.{name}/{field}"] = torch.as_tensor(value)
    return found


def load_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`.

    Everything goes where torch's own `Optimizer.load_state_dict` puts it: moments to their
    parameter's device, step counts likewise where the update runs there as a whole (fused or
    capturable), else they stay on the CPU.
    """
    for group in optimizer.param_groups:
        counts_on_device = bool(group.get("fused") or group.get("capturable"))
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"optimizer.{name}/"
            fields = {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
            optimizer.state[parameter] = {
                field: value.clone()
                if field == "step" and not counts_on_device
                else value.to(parameter.device, copy=True)
                for field, value in fields.items()
            }
