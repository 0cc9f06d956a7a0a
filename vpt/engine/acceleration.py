"""What makes the passes through a frozen backbone faster or smaller, and leaves the model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from vpt.backbones import stored_in
from vpt.engine.device import DTYPES
from vpt.errors import RunError
from vpt.models import PromptedBackbone, PromptedModel
from vpt.structures import Begun, Features

CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune"]
"""torch.compile's modes."""

CUDA_GRAPH_MODES: tuple[CompileMode, ...] = ("reduce-overhead", "max-autotune")
"""Those that use CUDA graphs on a GPU."""


@contextmanager
def accelerated(
    model: PromptedModel,
    precision: str,
    *,
    compile_mode: CompileMode = "none",
    grad_checkpointing: bool = False,
) -> Iterator[None]:
    """A model whose passes cost less while inside; afterwards it is as it was.

    Its frozen weights are stored in the type that autocast computes in (`stored_in`: the same
    bits), its loop over blocks is compiled, its blocks are computed once more in the backward pass
    instead of keeping what they made. Inside of another one it changes nothing.

    Args:
        model: trained or evaluated under `autocast(device, precision)`.
        precision: 'fp32', 'bf16' or 'fp16'.
        compile_mode: of torch.compile; 'none' runs as it is written.
        grad_checkpointing: less memory for more time, the same bits.
    """
    prompted = model.prompted
    if "forward" in vars(prompted) or prompted.backbone.stored_dtype is not None:
        yield
        return
    backbone, checkpointing = prompted.backbone, prompted.grad_checkpointing
    if precision != "fp32":
        prompted.backbone = stored_in(backbone, DTYPES[precision])
    prompted.grad_checkpointing = grad_checkpointing
    try:
        if compile_mode != "none":
            prompted.forward = _compiled(prompted, compile_mode)  # type: ignore[method-assign]
        yield
    finally:
        vars(prompted).pop("forward", None)
        prompted.backbone, prompted.grad_checkpointing = backbone, checkpointing


def own_gradients(parameters: Iterable[Tensor]) -> None:
    """Move gradients into memory of their own, before the next batch is added to them.

    After the first backward pass of a CUDA graph, `grad` is the graph's own output. The next
    replay overwrites it, and the sum over several batches would be one of the last batch with
    itself (pytorch/pytorch#96693).
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()


_LIMITS: dict[str, Any] = {"recompile_limit": 256, "fail_on_recompile_limit_hit": True}
"""Of the graphs of one function. All models share it, and with torch's own limit of 8 the fifth
that is compiled at once would run as it is written, though nobody asked for that."""


def _compiled(prompted: PromptedBackbone, mode: CompileMode) -> Callable[..., Features]:
    """Its forward, as one graph for batches of any size; one more for passes without gradients."""
    compiled = torch.compile(prompted.forward, mode=mode)

    def forward(images: Tensor | Begun, **options: Any) -> Features:
        values = images.values if isinstance(images, Begun) else images
        torch._dynamo.maybe_mark_dynamic(values, 0)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            with torch._dynamo.config.patch(**_LIMITS):
                features: Features = compiled(images, **options)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise RunError(
                f"train.compile {mode} does not work here ({reason}); set train.compile=none"
            ) from error
        return features

    return forward
