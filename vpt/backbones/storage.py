"""Frozen weights kept once in the type that autocast would cast them to at every forward."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from vpt.backbones.base import Backbone

_OPERANDS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight", "bias"),
    nn.Conv2d: ("weight", "bias"),
    nn.MultiheadAttention: (
        "in_proj_weight",
        "in_proj_bias",
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
    ),
    EvaAttention: ("q_bias", "k_bias", "v_bias"),
}
"""By module, the tensors that enter nothing but matrix products and convolutions."""


def register_operands(module: type[nn.Module], names: tuple[str, ...]) -> None:
    """Name the tensors of another library's modules that enter nothing but products."""
    _OPERANDS[module] = names


def stored_in(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """The same backbone for work under autocast, with the operands of its products in `dtype`.

    Autocast keeps no copy of weights that need no gradient: it casts a frozen backbone's anew at
    every forward. Here weights and biases of frozen Linear layers, convolutions and packed
    attention projections are cast once; norms, positions, scales and whatever is trained stay as
    they are, for autocast computes with those as they are. Under autocast of that type the outputs
    are the same bits, in about half the memory; without autocast it does not run.

    Args:
        backbone: left as it is; what is not cast is shared with it.
        dtype: torch.bfloat16 or torch.float16.
    """
    cast = {
        id(tensor): _as(tensor, dtype)
        for module in backbone.modules()
        for tensor in _operands(module)
        if not tensor.requires_grad and tensor.dtype == torch.float32
    }
    shared = {id(t): t for t in (*backbone.parameters(), *backbone.buffers())}
    stored = copy.deepcopy(backbone, memo=shared | cast)
    stored.stored_dtype = dtype
    return stored


def _operands(module: nn.Module) -> Iterator[Tensor]:
    for kind, names in _OPERANDS.items():
        if isinstance(module, kind):
            operands = [getattr(module, name) for name in names]
            yield from (tensor for tensor in operands if tensor is not None)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A cast parameter stays a parameter, a buffer a buffer."""
    cast = tensor.detach().to(dtype)
    return nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast
