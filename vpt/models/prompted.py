"""The loop over blocks: where prompts meet a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpt.backbones import Backbone
from vpt.backbones.attention import recomputed
from vpt.errors import BackboneError, ConfigError
from vpt.models.baked import Baked
from vpt.models.inputs import check_images
from vpt.prompts import Prompt
from vpt.prompts.initializers import sample_patches
from vpt.structures import Begun, Context, Features, Inside, Tokens


class PromptedBackbone(nn.Module):
    """A backbone that sees a prompt.

    Where the prompt of a layer has no successor (the next layer is prompted afresh, or there is
    none), it goes in as keys and values only; elsewhere its tokens are inserted between prefix and
    patches. Keys and values that the prompt itself gives go in as they are.

    Args:
        backbone: shared and frozen, or with tensors to train.
        prompt: what is learned.
        insert: always insert tokens, as the original paper does: same numbers, slower.

    Attributes:
        grad_checkpointing: keep of each block only what entered it, and compute the block again in
            the backward pass (Chen et al. 2016, arXiv 1604.06174): same numbers, less memory.
        baked: what `bake` keeps, None without.
    """

    baked: Baked | None

    def __init__(self, backbone: Backbone, prompt: Prompt, *, insert: bool = False):
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.insert = insert
        self.grad_checkpointing = False
        self.register_module("baked", None)

    def forward(
        self,
        images: Tensor | Begun,
        *,
        need: Sequence[str] = ("pooled",),
        taps: Sequence[int] = (),
        context_at: Callable[[int], Context | None] | None = None,
    ) -> Features:
        """Features of images (B, 3, H, W); what is not needed is not computed.

        Args:
            images: preprocessed; or what was begun with them, to go on from. That of `begin` gives
                the same bits.
            need: of 'pooled', 'prefix', 'prompts', 'patches'.
            taps: layers whose patch tokens are wanted, as they leave the block; none of those that
                were begun.
            context_at: the keys and values, of each image its own, that go in at a layer beside
                the prompt's; all blocks take them.
        """
        begun = images if isinstance(images, Begun) else self._embedded(images)
        if isinstance(begun.made, Tensor):
            return Features(self.backbone.grid, pooled=begun.made)
        tokens = begun.made
        tapped: dict[int, Tensor] = {}
        baked = self._baked_now()
        for layer in range(begun.layer, self.backbone.depth):
            kept = baked.get(layer) if self._as_context(layer, need) else None
            entered, inside = self._prompted(layer, tokens, need, kept)
            if context_at is not None and (given := context_at(layer)) is not None:
                inside = Inside.joined(inside, Inside(given))
            keep = self._keep(layer, need, taps, given=context_at is not None)
            left = self._run_block(layer, entered, inside, keep)
            tokens = self._gated(layer, entered, left)
            if layer in taps:
                tapped[layer] = tokens.patches
        return self._features(tokens, need, tapped)

    def bake(self) -> None:
        """See `PromptedModel.bake`."""
        if self.training:
            raise ConfigError(
                "bake() is for inference, and this model is training; call eval() first"
            )
        self.unbake()
        with torch.inference_mode(mode=False), torch.no_grad():
            contexts = self.contexts(self._dtypes())
            rows = {layer: contexts[layer] for layer in self.prompt.layers if layer in contexts}
            self.baked = Baked(rows, self._sources(), self._autocast_dtype())

    def unbake(self) -> None:
        """Forget what `bake` keeps."""
        self.baked = None

    def contexts(self, dtypes: Sequence[torch.dtype]) -> dict[int, Context]:
        """The keys and values that go in at each layer which has some, (1, heads, T, head_dim).

        Layers at which token rows are inserted are left out.

        Args:
            dtypes: of the sequence that enters each block.
        """
        found = {}
        for layer in range(self.backbone.depth):
            inside = self._inside(layer, 1)
            rows = self._rows(layer, 1, dtypes[layer])
            if rows is not None:
                if not self._as_context(layer, ("pooled",)):
                    continue
                inside = self._with_rows(layer, rows, inside)
            if inside is not None and inside.context is not None:
                found[layer] = inside.context
        return found

    def train(self, mode: bool = True) -> PromptedBackbone:
        """Forget what `bake` keeps: training is about to change what it was made of."""
        if mode:
            self.unbake()
        return super().train(mode)

    @property
    def first_change(self) -> int:
        """The first block that anything trained has a part in.

        -1: the images or their embedding; L: none of the blocks, at most what comes after.
        """
        touched = (self.prompt.first_touched, self.backbone.first_trained)
        return min((each for each in touched if each is not None), default=self.backbone.depth)

    @property
    def leaves_feature(self) -> bool:
        """Whether the pooled feature itself is what it is without training."""
        return self.first_change == self.backbone.depth and self.backbone.first_trained is None

    def begin(self, images: Tensor, *, need: Sequence[str] = ("pooled",)) -> Begun:
        """What nothing that is trained has a part in, of preprocessed images (B, 3, H, W).

        The tokens before the block `first_change`; or the pooled feature, where that too stays as
        it is and nothing else is needed.
        """
        layer, backbone = self.first_change, self.backbone
        check_images(images, backbone)
        assert layer >= 0, "training changes the images or their embedding"
        tokens = backbone.embed(images)
        for index in range(layer):
            tokens = backbone.run_block(index, tokens)
        if self.leaves_feature and set(need) == {"pooled"}:
            return Begun(backbone.pool(tokens), layer)
        return Begun(tokens, layer)

    def _embedded(self, images: Tensor) -> Begun:
        check_images(images, self.backbone)
        return Begun(self.backbone.embed(self.prompt.on_images(images)), 0)

    def _prompted(
        self, layer: int, tokens: Tokens, need: Sequence[str], baked: Context | None
    ) -> tuple[Tokens, Inside | None]:
        """The sequence as it enters a block, and what is inside of that, with the layer's prompt.

        Args:
            layer: 0..L-1.
            tokens: the sequence before it.
            need: of the last block, as in `forward`.
            baked: the keys and values of its prompt, where they are kept.
        """
        batch_size = tokens.values.shape[0]
        rows = self._rows(layer, batch_size, tokens.values.dtype) if baked is None else None
        inside = self._inside(layer, batch_size)
        if baked is not None:
            return tokens.without_prompts(), replace(inside or Inside(), context=baked)
        if rows is None:
            return tokens, inside
        if self._as_context(layer, need):
            return tokens.without_prompts(), self._with_rows(layer, rows, inside)
        return tokens.with_prompts(rows), inside

    def _run_block(
        self, layer: int, tokens: Tokens, inside: Inside | None, keep: int | None
    ) -> Tokens:
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return self.backbone.run_block(layer, tokens, inside, keep)

        def run(values: Tensor) -> Tensor:
            entered = replace(tokens, values=values)
            return self.backbone.run_block(layer, entered, inside, keep).values

        if torch.compiler.is_compiling():  # it cannot follow a choice between two contexts
            left = checkpoint(run, tokens.values, use_reentrant=False)
        else:
            around = _recomputed_twice
            left = checkpoint(run, tokens.values, use_reentrant=False, context_fn=around)
        return replace(tokens, values=left)

    def _gated(self, layer: int, entered: Tokens, left: Tokens) -> Tokens:
        """The sequence after a block, its prompts mixed with those before it."""
        gate = self.prompt.gate_of(layer) if left.num_prompts else None
        if gate is None:
            return left
        dtype = left.values.dtype  # under autocast a block may widen what entered it
        mixed = torch.lerp(entered.prompts.to(dtype), left.prompts, gate.to(dtype))
        return left.with_prompts(mixed)

    def _inside(self, layer: int, batch_size: int) -> Inside | None:
        """What the prompt adds inside a block, which must be of a known kind to take it."""
        inside = self.prompt.inside(layer, batch_size)
        if inside is not None and not self.backbone.takes_context(layer):
            raise BackboneError(
                f"block {layer} of '{self.backbone.name}' is of an unknown kind: "
                f"{type(self.prompt).__name__} can add nothing inside it; use token prompts"
            )
        return inside

    def _rows(self, layer: int, batch_size: int, dtype: torch.dtype) -> Tensor | None:
        """The prompt's rows as the block takes them, (1 | B, T, D), in the sequence's type."""
        rows = self.prompt.sample(layer, batch_size)
        if rows is None:
            return None
        rows = rows.to(dtype)
        if layer == 0 and self.prompt.placement == "pre_norm":
            return self.backbone.pre_norm(rows)
        return rows

    def _with_rows(self, layer: int, rows: Tensor, inside: Inside | None) -> Inside | None:
        """What is inside a block, with the keys and values of prompt rows."""
        context = self.backbone.project_context(layer, rows, inside)
        return Inside.joined(Inside(context), inside)

    def _baked_now(self) -> Mapping[int, Context]:
        """What is baked, where it is what this forward pass would compute; else nothing.

        Prompts that train are computed, so that they get their gradient. A compiled graph cannot
        look at a tensor's version.

        Raises:
            ConfigError: the prompt, or the precision, is another one than was baked.
        """
        if self.baked is None or self.prompt.training:
            return {}
        if torch.is_grad_enabled() and any(each.requires_grad for each in self._sources()):
            return {}
        if not torch.compiler.is_compiling() and not self.baked.is_of(self._sources()):
            raise ConfigError("the prompt has changed since bake(); call bake() again, or unbake()")
        now = self._autocast_dtype()
        if now != self.baked.autocast:
            raise ConfigError(
                f"the prompt was baked under autocast {self.baked.autocast}, and this is {now}; "
                "call bake() under the autocast that the model runs in"
            )
        return self.baked.contexts

    def _sources(self) -> list[Tensor]:
        """Every tensor that may change and that baked keys and values depend on."""
        own = [*self.prompt.parameters(), *self.prompt.buffers()]
        trained = self.backbone.trained
        if not trained:
            return own
        return own + [t for name, t in self.backbone.named_parameters() if name in trained]

    def _autocast_dtype(self) -> torch.dtype | None:
        device = next(self.backbone.parameters()).device.type
        on = device != "meta" and torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None

    def _dtypes(self) -> list[torch.dtype]:
        """Types of the sequence that enters each block, which autocast makes different."""
        first = next(self.backbone.parameters())
        tokens = self.backbone.embed(first.new_zeros(1, 3, *self.backbone.preprocess.size))
        dtypes = []
        for layer in range(self.backbone.depth):
            dtypes.append(tokens.values.dtype)
            tokens = self.backbone.run_block(layer, tokens)
        return dtypes

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PromptedBackbone:
        """Move or cast; on some devices that makes other tensors, of which the bake still is."""
        holds = self.baked is not None and self.baked.is_of(self._sources())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.baked is not None and holds:
            self.baked.rebind(self._sources())
        return self

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.unbake()
        super()._load_from_state_dict(*args, **options)

    def _as_context(self, layer: int, need: Sequence[str]) -> bool:
        last = layer == self.backbone.depth - 1
        no_successor = "prompts" not in need if last else layer + 1 in self.prompt.layers
        return no_successor and not self.insert and self.backbone.takes_context(layer)

    def _keep(
        self, layer: int, need: Sequence[str], taps: Sequence[int], *, given: bool
    ) -> int | None:
        """In the last block of a prompted model only the tokens that are read.

        Without prompts it runs natively.
        """
        backbone, wanted = self.backbone, set(need)
        last = layer == backbone.depth - 1
        prompted = self.prompt.layers or self.prompt.inside_layers or given
        if not last or not prompted or self.insert or layer in taps:
            return None
        if wanted - {"pooled", "prefix"} or not backbone.takes_context(layer):
            return None
        if "pooled" in wanted and backbone.pooled_tokens is None:
            return None
        return backbone.num_prefix if "prefix" in wanted else backbone.pooled_tokens

    def _features(self, tokens: Tokens, need: Sequence[str], taps: dict[int, Tensor]) -> Features:
        pooled = self.backbone.pool(tokens) if "pooled" in need else None
        if not {"prefix", "prompts", "patches"} & set(need):
            return Features(tokens.grid, pooled=pooled, taps=taps)
        normed = self.backbone.norm_dense(tokens)
        return Features(
            tokens.grid,
            pooled=pooled,
            prefix=normed.prefix if "prefix" in need else None,
            prompts=normed.prompts if "prompts" in need and tokens.num_prompts else None,
            patches=normed.patches if "patches" in need else None,
            taps=taps,
        )


def _recomputed_twice() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward pass and for its repetition: attention keeps the same in both, nothing."""
    return recomputed(), recomputed()


@torch.no_grad()
def start_from_patches(model: PromptedBackbone, images: Tensor, generator: torch.Generator) -> None:
    """Start prompt tokens from patch tokens of training images.

    Each layer's come from that layer's own input, those of layer 0 from before the pre-norm where
    the prompt stands there.

    Args:
        model: its prompt has `init: patches`; other prompts are left alone.
        images: (B, 3, H, W) of the training set, preprocessed; B * N patch tokens must suffice.
        generator: on the CPU, draws which patches.
    """
    count = model.prompt.wants_patches
    if not count:
        return
    backbone, prompt = model.backbone, model.prompt
    before = backbone.embed_before_norm(images)
    tokens = replace(before, values=backbone.pre_norm(before.values))
    for layer in range(backbone.depth):
        if layer in prompt.layers:
            source = before if layer == 0 and prompt.placement == "pre_norm" else tokens
            prompt.set_patch_rows(layer, sample_patches(source.patches, count, generator))
        tokens = backbone.run_block(layer, tokens)
