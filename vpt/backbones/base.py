"""The one contract of all backbones: embed, run_block, norm, pool.

Frozen and in eval by construction.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpt.backbones.attention import attention_shape
from vpt.choices import PromptInit, PromptPlacement
from vpt.errors import BackboneError
from vpt.limits import MAX_PATCHES
from vpt.structures import (
    AttentionShape,
    Context,
    Dimensions,
    Inside,
    Preprocess,
    Tokens,
)


class Backbone(nn.Module, ABC):
    """A vision transformer taken apart into the steps between which prompts go.

    It freezes itself, stays in eval whatever `.train()` its owner gets, and never writes to a
    block, so several tasks can share one.

    Attributes:
        name: e.g. 'timm/vit_base_patch16_224.orig_in21k'; empty for a module that a user passed in.
        preprocess: how its images are prepared.
        sha256: of the image tower's weights as loaded (`weights_hash`); None on the meta device.
        pretrained: whether the published weights were loaded.
        weights: the local file they came from instead, if any.
        stored_dtype: what its frozen weights were cast to (`stored_in`); None: as loaded.
        activation: class name of the MLP's activation, e.g. 'GELU'.
        own_pooling: how the checkpoint makes its feature, before anyone chose another way.
        in_channels: of an image, 3 for RGB.
        embed_dim, feature_dim, depth, patch_size, num_prefix: see `Dimensions`.
        prompt_placement, prompt_init: see `Dimensions`; the paper's for vision transformers.
    """

    name: str
    preprocess: Preprocess
    sha256: str | None
    pretrained: bool = False
    weights: str | None = None
    stored_dtype: torch.dtype | None = None
    activation: str
    own_pooling: str
    in_channels: int
    embed_dim: int
    feature_dim: int
    depth: int
    patch_size: tuple[int, int]
    num_prefix: int
    prompt_placement: PromptPlacement = "post_norm"
    prompt_init: PromptInit = "uniform"
    _after_blocks: frozenset[str] = frozenset()
    """Parameters that come after the blocks, though torch lists a module's own ones first."""

    def __init__(self) -> None:
        super().__init__()
        self._trained: frozenset[str] = frozenset()

    @abstractmethod
    def resize(self, image_size: tuple[int, int]) -> None:
        """Set the input size (H, W) in pixels; learned positions are resampled.

        Raises:
            BackboneError: no multiple of the patch size.
        """

    def embed(self, images: Tensor) -> Tokens:
        """Everything before block 0: patches, prefix tokens, positions, pre-norm.

        Args:
            images: (B, 3, H, W), preprocessed.

        Raises:
            BackboneError: the size is not the backbone's and it has no dynamic size.
        """
        tokens = self.embed_before_norm(images)
        return replace(tokens, values=self.pre_norm(tokens.values))

    @abstractmethod
    def embed_before_norm(self, images: Tensor) -> Tokens:
        """`embed` without the pre-norm."""

    def pre_norm(self, rows: Tensor) -> Tensor:
        """The pre-norm alone, of any rows (1 | B, T, D); unchanged where the family has none."""
        return rows

    @abstractmethod
    def attention(self, index: int) -> nn.Module:
        """The attention module of block `index`."""

    @abstractmethod
    def takes_context(self, index: int) -> bool:
        """Whether block `index` is of a known kind, which can see prompts as context."""

    @abstractmethod
    def project_context(self, index: int, rows: Tensor, inside: Inside | None = None) -> Context:
        """The keys and values of prompt rows (1 | B, T, D) in block `index`.

        Args:
            index: 0..L-1.
            rows: not normed.
            inside: what else is inside the block, for its deltas.
        """

    @abstractmethod
    def run_block(
        self,
        index: int,
        tokens: Tokens,
        inside: Inside | None = None,
        keep: int | None = None,
    ) -> Tokens:
        """One transformer block.

        Args:
            index: 0..L-1.
            tokens: the sequence.
            inside: what a prompt adds inside the block; needs a known one.
            keep: compute only the first `keep` tokens (they still attend to all); needs a known
                block.
        """

    @abstractmethod
    def pool(self, tokens: Tokens) -> Tensor:
        """(B, F): the checkpoint's whole way from tokens to its feature.

        Prompt tokens are left out.
        """

    @property
    @abstractmethod
    def pooling(self) -> str:
        """What `pool` makes its feature of, in timm's words: 'token', 'avg', 'map', ..."""

    @property
    @abstractmethod
    def poolings(self) -> tuple[str, ...]:
        """What `pooling` may be; a pooling by attention only where the checkpoint has one."""

    def set_pooling(self, pooling: str) -> None:
        """Make the feature in another way, of the same weights.

        Raises:
            BackboneError: it cannot be made so.
        """
        if pooling not in self.poolings:
            raise BackboneError(
                f"'{self.name}' cannot pool '{pooling}': it can pool {', '.join(self.poolings)}; "
                f"backbone.pool null is its own, {self.own_pooling}"
            )
        if pooling != self.pooling:
            self._set_pooling(pooling)

    @abstractmethod
    def _set_pooling(self, pooling: str) -> None:
        """`set_pooling` to one of `poolings` that is not the present one."""

    @property
    @abstractmethod
    def pooled_tokens(self) -> int | None:
        """How many leading tokens `pool` reads, or None when it reads all."""

    @abstractmethod
    def norm_dense(self, tokens: Tokens) -> Tokens:
        """The sequence after the final norm, for maps.

        Unchanged where the norm belongs to the pooled feature.
        """

    @property
    def dimensions(self) -> Dimensions:
        """The plain numbers that prompts and heads are built from."""
        return Dimensions(
            embed_dim=self.embed_dim,
            feature_dim=self.feature_dim,
            depth=self.depth,
            patch_size=self.patch_size,
            image_size=self.preprocess.size,
            num_prefix=self.num_prefix,
            prompt_placement=self.prompt_placement,
            prompt_init=self.prompt_init,
            attention=self.attention_shape,
        )

    @property
    def attention_shape(self) -> AttentionShape | None:
        """The heads of the attention, if it is known and the same in every block."""
        if not all(self.takes_context(index) for index in range(self.depth)):
            return None
        shapes = {attention_shape(self.attention(index)) for index in range(self.depth)}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid at the preprocessing's size."""
        height, width = self.preprocess.size
        return height // self.patch_size[0], width // self.patch_size[1]

    @property
    def trained(self) -> frozenset[str]:
        """Names of this backbone's own tensors that are trained; empty when frozen."""
        return self._trained

    def _check_size(self, images: Tensor) -> None:
        """Refuse images of another size than the backbone's.

        Raises:
            BackboneError: naming both.
        """
        size = tuple(images.shape[-2:])
        if size != self.preprocess.size:
            expected = "x".join(map(str, self.preprocess.size))
            raise BackboneError(
                f"'{self.name}' takes images of {expected} pixels, not {size[0]}x{size[1]}; "
                "prepare them with its preprocess, or set image_size"
            )

    def _check_multiple(self, image_size: tuple[int, int]) -> None:
        """Refuse a size that patches do not cover.

        Raises:
            BackboneError: naming size and patch size.
        """
        height, width = self.patch_size
        if image_size[0] % height or image_size[1] % width:
            raise BackboneError(
                f"image_size {image_size[0]}x{image_size[1]} is no multiple of the patch size "
                f"{height}x{width} of '{self.name}'"
            )
        patches = (image_size[0] // height) * (image_size[1] // width)
        if patches > MAX_PATCHES:
            raise BackboneError(
                f"image_size {image_size[0]}x{image_size[1]} makes {patches:,} patch tokens in "
                f"'{self.name}', at most {MAX_PATCHES:,} are supported; lower it"
            )

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval: dropout and stochastic depth of a frozen backbone would only add noise."""
        del mode
        return super().train(False)

    def freeze(self) -> Backbone:
        """Take every tensor out of training, and go to eval."""
        self.requires_grad_(False)
        self._trained = frozenset()
        self.train()
        return self

    def unfreeze(self, names: Iterable[str]) -> None:
        """Let the named tensors be trained, and no others."""
        self.freeze()
        parameters = dict(self.named_parameters())
        for name in names:
            parameters[name].requires_grad_(True)
        self._trained = frozenset(names)

    def select(self, what: str) -> list[str]:
        """Names of the parameters that a tuning method trains.

        Args:
            what: 'all'; 'biases' (BitFit, Ben Zaken et al. 2022); 'norms' (scales and biases of
                every norm); 'blocks:last:k' (the last k blocks and what comes after them: norm,
                pooling, projection).

        Raises:
            BackboneError: unknown word, or more blocks than there are.
        """
        names = [name for name, _ in self.named_parameters()]
        if what == "all":
            return names
        if what == "biases":
            return [name for name in names if name.split(".")[-1] in _BIASES]
        if what == "norms":
            norms = [name for name, module in self.named_modules() if _is_norm(module)]
            return [name for name in names if name.rpartition(".")[0] in set(norms)]
        if match := re.fullmatch(r"blocks:last:(\d+)", what):
            count = int(match[1])
            if not 1 <= count <= self.depth:
                raise BackboneError(
                    f"last:{count} blocks of '{self.name}': it has {self.depth}; "
                    f"use last:1..last:{self.depth}"
                )
            return self._last_blocks(names, count)
        raise BackboneError(f"cannot select '{what}': use all, biases, norms or blocks:last:k")

    @property
    def first_trained(self) -> int | None:
        """Where training first touches this backbone, None if it does nowhere.

        -1 is before the blocks, 0..L-1 in a block, L after them.
        """
        places = self._places([name for name, _ in self.named_parameters()])
        return min((place for name, place in places.items() if name in self._trained), default=None)

    def _last_blocks(self, names: list[str], count: int) -> list[str]:
        return [name for name, place in self._places(names).items() if place >= self.depth - count]

    def _places(self, names: list[str]) -> dict[str, int]:
        """The block of each parameter, in the module's order: -1 before them, L after them."""
        found = [re.search(r"(?:^|\.)(?:res)?blocks\.(\d+)\.", name) for name in names]
        last_block = max(order for order, match in enumerate(found) if match)
        return {
            name: int(match[1])
            if match
            else (self.depth if order > last_block or name in self._after_blocks else -1)
            for order, (name, match) in enumerate(zip(names, found, strict=True))
        }


_BIASES = frozenset({"bias", "q_bias", "v_bias", "in_proj_bias"})


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(False))


def run_mlp(mlp: nn.Module, x: Tensor, inside: Inside | None) -> Tensor:
    """A block's MLP of normed tokens, adapted if it is to be."""
    made: Tensor = mlp(x)
    return made if inside is None or inside.adapt is None else inside.adapt(x, made)


def weights_hash(tensors: dict[str, Tensor]) -> str | None:
    """SHA-256 over name, shape and little-endian bytes of the tensors, sorted by name.

    None for tensors on the meta device.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.is_meta:
            return None
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def activation_of(block: nn.Module, name: str) -> str:
    """Class name of the MLP's activation; '' for a block that has none of that name."""
    activation = getattr(getattr(block, "mlp", None), name, None)
    return "" if activation is None else type(activation).__name__
