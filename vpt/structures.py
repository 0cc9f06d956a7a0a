"""The values that travel between the layers, and the shape alphabet.

B batch, L layers, P prefix tokens, T prompt tokens, N patch tokens, D embed dim, F feature dim, C
classes, K boxes, H W image height and width in pixels, S side of a square image, h w height and
width of the patch grid (N = h * w).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vpt.choices import CropMode, Projection, PromptInit, PromptPlacement


@dataclass(frozen=True)
class Preprocess:
    """How a backbone wants its images: timm's and open_clip's own fields, kept in the prompt file.

    Attributes:
        size: (H, W) in pixels.
        mean: per channel, of pixel values in [0, 1].
        std: per channel.
        interpolation: 'bicubic', 'bilinear' or 'nearest', always with antialiasing.
        crop_pct: share of the resized image's side that the crop keeps.
        crop_mode: 'center' (resize the short side, crop), 'squash' (resize both sides), 'border'
            (resize the long side, pad).
        fill: colour of the padding of 'border', 0..255; None: the mean colour.
        value_range: (low, high), the values of images of more than 8 bits that become 0 and 255;
            None: those that the file's kind can hold, e.g. 0 and 65535.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    fill: tuple[int, int, int] | None = None
    value_range: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; what is None is left out."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


class AttentionShape(NamedTuple):
    """The heads of an attention: of queries, how wide each is, and of keys and values."""

    heads: int
    head_dim: int
    kv_heads: int


@dataclass(frozen=True)
class Dimensions:
    """The plain numbers of a backbone that prompts and heads are built from.

    Attributes:
        embed_dim: width D of a token inside the blocks.
        feature_dim: width F of the pooled feature.
        depth: number of blocks L.
        patch_size: (height, width) of a patch in pixels.
        image_size: (H, W) in pixels.
        num_prefix: tokens before the patches (class, registers).
        prompt_placement: where the family's papers insert prompts: before or after the pre-norm.
        prompt_init: how they start them.
        attention: of every block; None where they differ or are of an unknown kind.
    """

    embed_dim: int
    feature_dim: int
    depth: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]
    num_prefix: int
    prompt_placement: PromptPlacement = "post_norm"
    prompt_init: PromptInit = "uniform"
    attention: AttentionShape | None = None


@dataclass(frozen=True)
class TextIdentity:
    """Where the texts of a head come from, as it goes into the prompt file.

    Attributes:
        sha256: of the text tower's weights.
        structure: digest of what shapes its features besides: activation, masks, pooling, heads.
        tokenizer: digest of how it reads texts.
        context_length: tokens of a text.
        names: the classes as the sentences call them, in label order.
    """

    sha256: str
    structure: str
    tokenizer: str
    context_length: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """A sequence inside a backbone: (B, P + T + N, D), prompts directly after the prefix.

    Attributes:
        values: (B, P + T + N, D).
        grid: (h, w) of the patch tokens.
        num_prefix: P.
        num_prompts: T.
        rotary: the family's rotary embedding of the patch tokens, or None.
    """

    values: Tensor
    grid: tuple[int, int]
    num_prefix: int
    num_prompts: int = 0
    rotary: Any = None

    def without_prompts(self) -> Tokens:
        """The sequence with its prompt tokens taken out: [prefix | patches]."""
        if self.num_prompts == 0:
            return self
        prefix, patches = self.values[:, : self.num_prefix], self.patches
        return replace(self, values=torch.cat([prefix, patches], dim=1), num_prompts=0)

    def with_prompts(self, rows: Tensor) -> Tokens:
        """The sequence [prefix | rows | patches].

        Rows (1 | B, T, D) replace the prompts there were.
        """
        rows = rows.to(self.values.dtype).expand(self.values.shape[0], -1, -1)
        values = torch.cat([self.values[:, : self.num_prefix], rows, self.patches], dim=1)
        return replace(self, values=values, num_prompts=rows.shape[1])

    @property
    def prefix(self) -> Tensor:
        """(B, P, D)."""
        return self.values[:, : self.num_prefix]

    @property
    def prompts(self) -> Tensor:
        """(B, T, D)."""
        return self.values[:, self.num_prefix : self.num_prefix + self.num_prompts]

    @property
    def patches(self) -> Tensor:
        """(B, N, D)."""
        return self.values[:, self.num_prefix + self.num_prompts :]


@dataclass(frozen=True)
class Context:
    """What one attention layer sees of prompts that have no place in the sequence.

    Attributes:
        keys: (1 | B, heads, T, head_dim).
        values: (1 | B, heads, T, head_dim).
        seen: (1 | B, T) bool, False for those that an image does not attend to; None: all are.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor | None = None

    @staticmethod
    def joined(one: Context | None, other: Context | None) -> Context | None:
        """Both side by side, in the first one's type."""
        return other if one is None else one.with_more(other)

    def with_more(self, more: Context | None) -> Context:
        """Both side by side, in this one's type."""
        if more is None:
            return self
        seen = None
        if self.seen is not None or more.seen is not None:
            seen = cat_tokens([self.all_seen(), more.all_seen()], dim=1)
        return Context(
            cat_tokens([self.keys, more.keys.to(self.keys.dtype)], dim=2),
            cat_tokens([self.values, more.values.to(self.values.dtype)], dim=2),
            seen,
        )

    def all_seen(self) -> Tensor:
        """`seen`, also where it says nothing: (1 | B, T) bool."""
        if self.seen is not None:
            return self.seen
        return torch.ones(1, self.keys.shape[2], dtype=torch.bool, device=self.keys.device)


@dataclass(frozen=True)
class Inside:
    """What a prompt method adds inside one block.

    Attributes:
        context: keys and values that no token is behind.
        deltas: what is added to a projection: normed tokens (B, S, D) -> (B, S, its width), or
            what broadcasts to it.
        adapt: what the MLP is taken to make, from what it is given (normed) and what it makes,
            (B, S, D) each.
        temperature: what the attention's scores are divided by before the softmax, a positive
            scalar; None: nothing.
    """

    context: Context | None = None
    deltas: Mapping[Projection, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    adapt: Callable[[Tensor, Tensor], Tensor] | None = None
    temperature: Tensor | None = None

    @staticmethod
    def joined(one: Inside | None, other: Inside | None) -> Inside | None:
        """Both: contexts side by side, deltas summed, the second adapts what the first made.

        Temperatures multiply.
        """
        if one is None or other is None:
            return other if one is None else one
        return Inside(
            Context.joined(one.context, other.context),
            {
                name: _summed(one.deltas.get(name), other.deltas.get(name))
                for name in {**one.deltas, **other.deltas}
            },
            _chained(one.adapt, other.adapt),
            _product(one.temperature, other.temperature),
        )


def _product(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other


def _summed(
    one: Callable[[Tensor], Tensor] | None, other: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor]:
    if one is None or other is None:
        found = other if one is None else one
        assert found is not None
        return found
    return lambda x: one(x) + other(x)


def _chained(
    one: Callable[[Tensor, Tensor], Tensor] | None,
    other: Callable[[Tensor, Tensor], Tensor] | None,
) -> Callable[[Tensor, Tensor], Tensor] | None:
    if one is None or other is None:
        return other if one is None else one
    return lambda given, made: other(given, one(given, made))


def cat_tokens(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Tensors (1 | B, ...) side by side; those of one image are for all."""
    batch = max(part.shape[0] for part in parts)
    rest = [-1] * (parts[0].ndim - 1)
    return torch.cat([part.expand(batch, *rest) for part in parts], dim=dim)


@dataclass(frozen=True)
class Features:
    """What a prompted backbone gives a head; what was not asked for is None.

    Attributes:
        grid: (h, w) of the patch tokens.
        pooled: (B, F), the checkpoint's own feature.
        prefix: (B, P, D) after the dense norm.
        prompts: (B, T, D) after the dense norm, None where no prompt is in the last sequence.
        patches: (B, N, D) after the dense norm, row-major over the grid.
        taps: layer -> (B, N, D), patch tokens after that block.
    """

    grid: tuple[int, int]
    pooled: Tensor | None = None
    prefix: Tensor | None = None
    prompts: Tensor | None = None
    patches: Tensor | None = None
    taps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Begun:
    """What the part of a model that never changes made of a batch of images.

    Attributes:
        made: the tokens as they enter block `layer`; or, where no block is left, the pooled
            feature (B, F).
        layer: the block that comes next, 0..L.
    """

    made: Tokens | Tensor
    layer: int

    @property
    def values(self) -> Tensor:
        """(B, P + N, D), or the pooled feature (B, F)."""
        return self.made.values if isinstance(self.made, Tokens) else self.made

    def __len__(self) -> int:
        return len(self.values)

    def with_values(self, values: Tensor) -> Begun:
        """The same of other images."""
        if isinstance(self.made, Tokens):
            return replace(self, made=replace(self.made, values=values))
        return replace(self, made=values)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Begun:
        """The values on a device; what all images share stays where it is."""
        return self.with_values(self.values.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class Batch:
    """Images of one step and what is known of them.

    Attributes:
        images: (B, 3, H, W) float32, preprocessed; or the pixels themselves, uint8, on their way
            to the device; or what was begun with them.
        labels: (B,) int64; or (B, C) float32: multi-label targets, 0 or 1, or shares of classes
            where images are mixed.
        indices: (B,) int64, positions in the data set's split.
    """

    images: Tensor | Begun
    labels: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device (images without waiting for the copy)."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.indices,
        )


@dataclass(frozen=True)
class Letterbox:
    """Where a file's pixels lie in the square that the model sees: top left, padding elsewhere.

    Attributes:
        scale: letterboxed pixels per pixel of the file.
        original_size: (H, W) of the file in pixels, as it is shown (EXIF orientation applied).
        size: side S of the square in pixels.
    """

    scale: float
    original_size: tuple[int, int]
    size: int

    @classmethod
    def fit(cls, original_size: tuple[int, int], size: int) -> Letterbox:
        """The largest copy of the file that the square holds."""
        return cls(size / max(original_size), original_size, size)

    @property
    def content_size(self) -> tuple[int, int]:
        """(H, W) of the file's copy inside the square: whole pixels, at least one."""
        height, width = (max(1, round(side * self.scale)) for side in self.original_size)
        return height, width

    def to_letterboxed(self, boxes: Tensor) -> Tensor:
        """Boxes (K, 4) xyxy in pixels of the square, from those in pixels of the file.

        They are clipped to the file. Whole pixels make the copy's sides differ from `scale` by up
        to half a pixel; boxes follow the copy.
        """
        return _clip(boxes, self.original_size) * self._ratios(boxes)

    def to_original(self, boxes: Tensor) -> Tensor:
        """The inverse of `to_letterboxed`: boxes (K, 4) xyxy in the file's pixels, clipped."""
        return _clip(boxes / self._ratios(boxes), self.original_size)

    def _ratios(self, boxes: Tensor) -> Tensor:
        y, x = (
            copy / side for copy, side in zip(self.content_size, self.original_size, strict=True)
        )
        return boxes.new_tensor([x, y, x, y])


def _clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (K, 4) xyxy inside an image of (H, W)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


@dataclass(frozen=True)
class Detections:
    """What a detector finds in one image, best first.

    Attributes:
        boxes: (K, 4) float32 xyxy, absolute pixels of the frame that the giver names.
        scores: (K,) in [0, 1].
        labels: (K,) int64, 0..C-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: Tensor | slice) -> Detections:
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen])

    def to(self, device: torch.device | str) -> Detections:
        """The detections on a device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DetectionTargets:
    """What is to be found in one image; crowds are no targets.

    Attributes:
        boxes: (K, 4) float32 xyxy, absolute pixels of the letterboxed image; K may be 0.
        labels: (K,) int64, 0..C-1.
    """

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> DetectionTargets:
        """The targets on a device."""
        return DetectionTargets(
            self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class DetectionBatch:
    """Letterboxed images of one step and what is to be found in them.

    Attributes:
        images: (B, 3, S, S) float32, preprocessed; or the pixels themselves, uint8, on their way
            to the device.
        targets: B, in the images' frame.
        indices: (B,) int64, positions in the data set's split.
        letterboxes: B, the ways back to the files' pixels.
    """

    images: Tensor
    targets: tuple[DetectionTargets, ...]
    indices: Tensor
    letterboxes: tuple[Letterbox, ...]

    def to(self, device: torch.device) -> DetectionBatch:
        """The batch on a device (images without waiting for the copy)."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=tuple(targets.to(device) for targets in self.targets),
        )


AnyBatch = Batch | DetectionBatch
"""Of either task."""
