"""What a model computes, in floating-point operations: counted from shapes, nothing is computed.

The model's own forward and backward are walked over tensors that have shapes and no values, and
every matrix product and convolution that they come to is counted by its formula, 2 per
multiply-add. So the count knows what the model knows: prompts that are only keys and values, once
for a whole batch; the tokens that the last block keeps; frozen weights, which need no gradient;
blocks below the first trained tensor, through which nothing flows back. Elementwise operations,
norms, softmax and the optimiser are left out, as is usual, and attention is counted as its two
products, whichever kernel computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from vpt.errors import ConfigError
from vpt.models.base import PromptedModel
from vpt.models.classifier import Classifier
from vpt.models.consistency import NO_CONSISTENCY, Consistency
from vpt.structures import Batch, Begun

Start = Callable[[Tensor], Tensor | Begun]
"""What a model is given, from images (B, 3, H, W)."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per image; a multiply-add is two.

    What is computed once for a batch is shared out over its images.

    Attributes:
        forward: in evaluation.
        step: in training, forward and backward; of a model that trains nothing, the forward alone.
    """

    forward: int
    step: int


def count_flops(
    model: PromptedModel,
    batch_size: int,
    *,
    insert: bool | None = None,
    consistency: Consistency = NO_CONSISTENCY,
    start: Start = lambda images: images,
) -> Flops:
    """FLOPs per image of a model as it stands, at its preprocessing's image size.

    The texts of a learned context are encoded once for the batch. Of a detector, matching and
    suppression are left out: they depend on what is in the images. The model and the random state
    are left as they were.

    Args:
        model: on any device.
        batch_size: images of a batch, whose share of the prompts' keys and values each one bears.
        insert: count the way that inserts prompt tokens (True), or the one that the model would
            take by itself (False); None: as the model is set.
        consistency: losses that look at the frozen model too, in training.
        start: what the model is given, from images (B, 3, H, W); the gradient of what was begun is
            counted, where it requires one.

    Raises:
        ConfigError: a batch of no image.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: FLOPs are counted of a batch of 1 or more")
    with undisturbed(model, insert):
        forward, step = (
            _products(model, batch_size, train, consistency, start) for train in (False, True)
        )
    return Flops(round(forward / batch_size), round(step / batch_size))


@contextmanager
def undisturbed(model: PromptedModel, insert: bool | None) -> Iterator[None]:
    """Leave mode and way of the model as they were."""
    training, prompted = model.training, model.prompted
    before, baked = prompted.insert, prompted.baked
    prompted.insert = before if insert is None else insert
    try:
        yield
    finally:
        prompted.insert = before
        model.train(training)
        prompted.baked = baked


def _products(
    model: PromptedModel, batch_size: int, train: bool, consistency: Consistency, start: Start
) -> int:
    """FLOPs of one batch: of the forward in evaluation, or of a whole training step."""
    model.train(train)
    wanted: list[Tensor] = [*model.trainable_parameters()] if train else []
    device = next(model.backbone.parameters()).device
    with _without_values() as products, torch.set_grad_enabled(train):
        images = torch.empty(batch_size, 3, *model.preprocess.size, device=device)
        given = start(images)
        if isinstance(given, Begun) and given.values.requires_grad:
            wanted.append(given.values)
        ends = _ends(model, given, consistency if train else NO_CONSISTENCY)
        ends = [end for end in ends if end.requires_grad]
        if ends:
            starts = [torch.ones_like(end) for end in ends]
            torch.autograd.grad(ends, wanted, starts, allow_unused=True)
    return products.flops


def _ends(
    model: PromptedModel, images: Tensor | Begun, consistency: Consistency
) -> Sequence[Tensor]:
    """What the backward starts from; no loss has matrix products but those of consistency."""
    if not consistency:
        return model.outputs(images)  # type: ignore[arg-type] # a detector is given images
    assert isinstance(model, Classifier)
    assert isinstance(images, Tensor)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return [model.loss(Batch(images, labels, labels), consistency=consistency)["loss"]]


@contextmanager
def _without_values() -> Iterator[_Products]:
    """Every tensor is a shape; attention is made of products that can be seen."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(_Products())


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of what is computed inside of it, the backward of it included.

    Attributes:
        flops: so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(args, made)
        return made


def _matrices(left: Tensor, made: Tensor) -> int:
    """(.., m, k) times (.., k, n): m n k multiply-adds."""
    return 2 * made.numel() * left.shape[-1]


def _convolution(args: tuple[Any, ...], made: Tensor) -> int:
    """Of the maps that it makes, or is given where it is transposed."""
    images, kernel, transposed = args[0], args[1], args[6]
    return _windows(images if transposed else made, kernel)


def _convolution_backward(args: tuple[Any, ...], made: Any) -> int:
    """As much as the forward for the images' gradient, and again for the kernel's, if wanted."""
    del made
    (gradient, images, kernel), transposed, wanted = args[:3], args[7], args[-1]
    return sum(map(int, wanted[:2])) * _windows(images if transposed else gradient, kernel)


def _windows(maps: Tensor, kernel: Tensor) -> int:
    """Every cell of maps (B, channels, h, w) meets the whole kernel."""
    return 2 * len(maps) * maps[0, 0].numel() * kernel.numel()


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    _aten.mm: lambda args, made: _matrices(args[0], made),
    _aten.bmm: lambda args, made: _matrices(args[0], made),
    _aten.addmm: lambda args, made: _matrices(args[1], made),
    _aten.baddbmm: lambda args, made: _matrices(args[1], made),
    _aten.convolution: _convolution,
    _aten.convolution_backward: _convolution_backward,
}
