"""What a forward pass keeps in memory for its backward pass: counted from shapes.

The model's own forward is walked over tensors that have shapes and no values. What its operations
made and is still held when the loss is there, besides weights and the loss itself, is what autograd
keeps, or what the model holds on to; either way it is memory that training needs for every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vpt.models.base import PromptedModel
from vpt.models.flops import Start, undisturbed
from vpt.models.prompted import PromptedBackbone
from vpt.structures import Tokens


@dataclass(frozen=True)
class Saved:
    """Bytes per image that a forward pass leaves in memory for its backward pass.

    What is kept once for a batch is shared out over its images.

    Attributes:
        total: of the whole model.
        blocks: of each block, with the keys and values of its prompt.
    """

    total: int
    blocks: tuple[int, ...]


def count_saved(
    model: PromptedModel,
    batch_size: int,
    *,
    insert: bool | None = None,
    dtype: torch.dtype = torch.float32,
    start: Start = lambda images: images,
) -> Saved:
    """What a training step of a model, as it stands, keeps per image.

    Args:
        model: on any device, whose kernels decide what is kept; left as it was.
        batch_size: images of a batch.
        insert: count the way that inserts prompt tokens (True), or the one that the model would
            take by itself (False); None: as the model is set.
        dtype: of autocast; float32: without it.
        start: what the model is given, from images (B, 3, H, W).
    """
    device = next(model.backbone.parameters()).device
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with undisturbed(model, insert), _in_blocks(model.prompted) as place:
        model.train()
        weights = [fake.from_tensor(each) for each in (*model.parameters(), *model.buffers())]
        with fake, _Made(place) as made, torch.autocast(device.type, dtype, dtype != torch.float32):
            images = torch.empty(batch_size, 3, *model.preprocess.size, device=device)
            outputs = model.outputs(start(images))  # type: ignore[arg-type]
            kept = made.alive(without=[*weights, images, *outputs])
    blocks = range(model.backbone.depth)
    return Saved(
        round(sum(kept.values()) / batch_size),
        tuple(round(kept[block] / batch_size) for block in blocks),
    )


@contextmanager
def _in_blocks(prompted: PromptedBackbone) -> Iterator[list[int]]:
    """The number of the block that runs, in a list; that of the last one remains after it."""
    backbone, place = prompted.backbone, [-1]
    own_run, own_project = backbone.run_block, backbone.project_context

    def run_block(index: int, *args: Any, **options: Any) -> Tokens:
        place[0] = index
        tokens = own_run(index, *args, **options)
        place[0] = index + 1
        return tokens

    def project_context(index: int, *args: Any, **options: Any) -> Any:
        place[0] = index
        return own_project(index, *args, **options)

    backbone.run_block = run_block  # type: ignore[method-assign]
    backbone.project_context = project_context  # type: ignore[method-assign]
    try:
        yield place
    finally:
        del backbone.run_block, backbone.project_context


class _Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every memory that operations inside of it made, with the place at which they did."""

    def __init__(self, place: list[int]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place
        self._made: dict[int, tuple[StorageWeakRef, int, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                reference, size = _reference(each), each.untyped_storage().nbytes()
                self._made.setdefault(reference.cdata, (reference, size, self._place[0]))
        return result

    def alive(self, without: Sequence[Tensor]) -> Counter[int]:
        """Bytes that are still held, by place, but for those of some tensors."""
        left_out = {_reference(tensor).cdata for tensor in without}
        found = Counter[int]()
        for key, (reference, size, place) in self._made.items():
            if key not in left_out and not reference.expired():  # type: ignore[no-untyped-call]
                found[place] += size
        return found


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
