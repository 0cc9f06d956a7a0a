"""Modules that torch puts around others."""

from __future__ import annotations

from torch import nn

_INNER = ("_orig_mod", "module")
"""Where torch.compile, and DataParallel and its kin, keep the module that they are around."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel, DistributedDataParallel, AveragedModel.

    A module that nothing is around is given back as it is.
    """
    while type(module).__module__.startswith("torch."):
        inner = next((module._modules[name] for name in _INNER if name in module._modules), None)
        if inner is None:
            return module
        module = inner
    return module
