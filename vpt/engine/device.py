"""Where a run computes and in which arithmetic, and what that costs."""

from __future__ import annotations

import contextlib
import sys

import torch

from vpt.errors import ConfigError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, by precision."""


def choose_device(name: str) -> torch.device:
    """The device of a name; 'auto' takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the named device is not there.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"'{name}' is no device; use auto, cpu, cuda, cuda:<n> or mps") from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present[device.type]:
        raise ConfigError(f"train.device '{name}' is not available here; use auto or cpu")
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for a forward pass; nothing for 'fp32'."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory taken so far: of the GPU on CUDA, else of this process.

    It is 0 on Windows, which does not count it in this way.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
