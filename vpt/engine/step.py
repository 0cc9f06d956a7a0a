"""What one process computes of a training step, and how all of them get the same gradient."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.nn.parallel import DistributedDataParallel

from vpt.engine.distributed import world_size
from vpt.models import NO_CONSISTENCY, Classifier, Consistency, Detector, PromptedModel
from vpt.structures import AnyBatch, Batch, DetectionBatch, DetectionTargets, Letterbox

# torch 2.14 renamed it and warns of the old name.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class TrainingStep(nn.Module):
    """A model's loss as a module's forward, as DistributedDataParallel wants it.

    What a class weighs and how sharp it is are questions of classes alone.

    Args:
        model: what is trained.
        label_smoothing: share of the target spread over all classes.
        class_weights: (C,), or None for equal ones.
        consistency: weights of the losses that keep the model near the frozen one.
    """

    def __init__(
        self,
        model: PromptedModel,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        consistency: Consistency = NO_CONSISTENCY,
    ):
        super().__init__()
        self.model = model
        self._of_classes = {
            "label_smoothing": label_smoothing,
            "class_weights": class_weights,
            "consistency": consistency,
        }

    def forward(self, batch: AnyBatch) -> dict[str, Tensor]:
        """See `PromptedModel.loss`."""
        options: dict[str, Any] = self._of_classes if isinstance(batch, Batch) else {}
        return self.model.loss(batch, **options)


def over_all_processes(step: TrainingStep, device: torch.device) -> nn.Module:
    """The step, whose backward pass gives every process the sum of all gradients.

    With one process it is the step itself.
    """
    if world_size() == 1:
        return step
    blank = blank_batch(step.model, device)
    options = {"find_unused_parameters": _misses_some(step, blank), _SYNC_BUFFERS: False}
    together = DistributedDataParallel(step, **options)  # type: ignore[arg-type] # flags alone
    together.register_comm_hook(None, lambda state, bucket: _summed(bucket.buffer()))
    # After its first backward pass it lays the gradients out anew, and where one lies decides in
    # which order it is summed. Before the first step, so that a run that goes on sums alike.
    with warnings.catch_warnings():
        # It tells once of a class token's strides, which cost a copy of a few numbers.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        _backward(together, blank)
    return together


def blank_batch(model: PromptedModel, device: torch.device) -> AnyBatch:
    """One black image: what a process without an image of a batch computes, and counts as nothing.

    So it has its part in every sum, with gradients of the same tensors as the others.
    """
    size = model.preprocess.size
    images, zero = torch.zeros(1, 3, *size), torch.zeros(1, dtype=torch.int64)
    if isinstance(model, Detector):
        nothing = DetectionTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        boxes = Letterbox.fit(size, size[0])
        return DetectionBatch(images, (nothing,), zero, (boxes,)).to(device)
    if isinstance(model, Classifier) and model.multi_label and model.head is not None:
        return Batch(images, torch.zeros(1, model.head.num_classes), zero).to(device)
    return Batch(images, zero, zero).to(device)


def summing(step: nn.Module, *, now: bool) -> contextlib.AbstractContextManager[None]:
    """Forward and backward passes whose gradients are summed over the processes, or kept for later.

    Args:
        step: of `over_all_processes`.
        now: in this backward pass.
    """
    if now or not isinstance(step, DistributedDataParallel):
        return contextlib.nullcontext()
    return step.no_sync()


def _misses_some(step: TrainingStep, batch: AnyBatch) -> bool:
    """Whether some tensor that trains has no part in the loss, and so no gradient."""
    return any(gradient is None for gradient in _backward(step, batch))


def _backward(step: nn.Module, batch: AnyBatch) -> list[Tensor | None]:
    """Gradients of nothing, of all tensors that train; none is left behind."""
    torch.autograd.backward(step(batch)["loss"] * 0)
    trained = [tensor for tensor in step.parameters() if tensor.requires_grad]
    gradients = [tensor.grad for tensor in trained]
    for tensor in trained:
        tensor.grad = None
    return gradients


def _summed(gradients: Tensor) -> torch.futures.Future[Tensor]:
    """The sum, not DDP's mean: a loss counts its share of all images already."""
    work = all_reduce(gradients, async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed
