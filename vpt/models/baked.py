"""Keys and values of prompts that were computed once, and what they were computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.structures import Context


class Baked(nn.Module):
    """Contexts by layer, which move with their model and stay out of its state dict.

    Args:
        contexts: layer to keys and values, (1, heads, T, head_dim); copied.
        sources: every tensor that may change and that they depend on.
        autocast: the type that autocast computed them in; None: there was none.
    """

    def __init__(
        self,
        contexts: Mapping[int, Context],
        sources: Sequence[Tensor],
        autocast: torch.dtype | None = None,
    ):
        super().__init__()
        self.layers = tuple(contexts)
        for layer, context in contexts.items():
            self.register_buffer(f"keys_{layer}", context.keys.clone(), persistent=False)
            self.register_buffer(f"values_{layer}", context.values.clone(), persistent=False)
        self.autocast = autocast
        self.rebind(sources)

    @property
    def contexts(self) -> dict[int, Context]:
        """The keys and values of each layer."""
        return {
            layer: Context(getattr(self, f"keys_{layer}"), getattr(self, f"values_{layer}"))
            for layer in self.layers
        }

    def is_of(self, sources: Sequence[Tensor]) -> bool:
        """Whether these are the tensors it was computed from, and unchanged."""
        same = len(sources) == len(self.sources) and all(map(_is, sources, self.sources))
        return same and self.versions == _versions(sources)

    def rebind(self, sources: Sequence[Tensor]) -> None:
        """Take these, as they are now, for what it was computed from."""
        self.sources = tuple(sources)
        self.versions: tuple[int, ...] | None = _versions(sources)

    def __getstate__(self) -> dict[str, Any]:
        """A copy counts the changes of its own tensors; one of an outdated bake is outdated."""
        return {**self.__dict__, "versions": self.is_of(self.sources)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.versions = _versions(self.sources) if state["versions"] else None


def _is(one: Tensor, other: Tensor) -> bool:
    return one is other


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """How often each was written to; of those made in inference mode nothing is known."""
    return tuple(-1 if each.is_inference() else each._version for each in tensors)
