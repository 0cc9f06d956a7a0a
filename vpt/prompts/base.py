"""What every prompt method is to the loop over blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vpt.choices import PromptPlacement
from vpt.errors import ConfigError
from vpt.registry import PROMPTS
from vpt.structures import Dimensions, Inside, cat_tokens


class Prompt(nn.Module):
    """What is learned beside a frozen backbone.

    Token rows at some layers, additions inside blocks, a change of the pixels.

    Attributes:
        layers: the layers at which rows are new, ascending; rows flow on where the next layer is
            not among them.
        inside_layers: the layers inside of whose blocks something is added, ascending.
        placement: whether rows of layer 0 pass the backbone's pre-norm ('pre_norm') or join the
            sequence after it; those of later layers never pass it.
        options: what `build_prompt` makes the same prompt from, as it goes into the prompt file;
            None for a method that is not registered, which cannot be saved.
    """

    layers: tuple[int, ...] = ()
    inside_layers: tuple[int, ...] = ()
    placement: PromptPlacement = "post_norm"
    options: dict[str, Any] | list[dict[str, Any]] | None = None

    def rows(self, layer: int) -> Tensor | None:
        """The prompt tokens that are new at `layer`, before dropout: (1, T, D), or None."""
        del layer
        return None

    def sample(self, layer: int, batch_size: int) -> Tensor | None:
        """`rows` as one forward pass sees them, (1 | B, T, D): after dropout, in training."""
        del batch_size
        return self.rows(layer)

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """What is added inside block `layer`, as one forward pass sees it; None: nothing.

        Keys and values (after dropout, in training), a change of the projections or of the MLP's
        output.
        """
        del layer, batch_size
        return None

    def gate_of(self, layer: int) -> Tensor | None:
        """Which share of the rows that leave block `layer` flows on; the rest is what entered it.

        (1 | T, 1) in [0, 1]; None lets all of it flow.
        """
        del layer
        return None

    def on_images(self, images: Tensor) -> Tensor:
        """The images (B, 3, H, W), normalised, as the method wants the backbone to see them."""
        return images

    @property
    def first_touched(self) -> int | None:
        """The first block that the method has a part in, -1 for the images, None for none."""
        if type(self).on_images is not Prompt.on_images:
            return -1
        return min((*self.layers, *self.inside_layers), default=None)

    def set_patch_rows(self, layer: int, patches: Tensor) -> None:
        """Take (T, D) patch tokens of the training set as start values.

        Only methods with such an initialiser.
        """
        raise ConfigError(f"a {type(self).__name__} cannot start from patch tokens")

    @property
    def wants_patches(self) -> int:
        """How many patch tokens per prompted layer `set_patch_rows` waits for; 0 for none."""
        return 0


class PromptList(Prompt):
    """Several prompt methods at once, e.g. pixels and tokens.

    Token rows at the same layer stand side by side, and what is inside blocks adds up.

    Raises:
        ConfigError: two of them insert tokens at different sets of layers, so that what flows on
            would be unclear, or on different sides of the pre-norm.
    """

    def __init__(self, prompts: Sequence[Prompt]):
        super().__init__()
        layer_sets = {prompt.layers for prompt in prompts if prompt.layers}
        if len(layer_sets) > 1:
            raise ConfigError(
                f"prompts in a list must prompt the same layers, not {sorted(layer_sets)}"
            )
        placements = {prompt.placement for prompt in prompts if prompt.layers}
        if len(placements) > 1:
            raise ConfigError(
                f"prompts in a list must have the same placement, not {sorted(placements)}"
            )
        self.prompts = nn.ModuleList(prompts)
        self.layers = layer_sets.pop() if layer_sets else ()
        self.inside_layers = tuple(sorted({n for each in prompts for n in each.inside_layers}))
        self.placement = placements.pop() if placements else "post_norm"
        if all(isinstance(prompt.options, dict) for prompt in prompts):
            self.options = [prompt.options for prompt in prompts]  # type: ignore[misc]

    def rows(self, layer: int) -> Tensor | None:
        """See `Prompt.rows`."""
        return _side_by_side([prompt.rows(layer) for prompt in self._members])

    def sample(self, layer: int, batch_size: int) -> Tensor | None:
        """See `Prompt.sample`; every member drops its own share."""
        return _side_by_side([prompt.sample(layer, batch_size) for prompt in self._members])

    def inside(self, layer: int, batch_size: int) -> Inside | None:
        """See `Prompt.inside`; in order."""
        joined: Inside | None = None
        for prompt in self._members:
            joined = Inside.joined(joined, prompt.inside(layer, batch_size))
        return joined

    def gate_of(self, layer: int) -> Tensor | None:
        """See `Prompt.gate_of`; every member's rows have its own."""
        gates = {prompt: prompt.gate_of(layer) for prompt in self._members}
        if all(gate is None for gate in gates.values()):
            return None
        rows = {prompt: prompt.rows(self.layers[0]) for prompt in gates}
        columns = []
        for prompt, own in rows.items():
            if own is not None:
                gate, shape = gates[prompt], (own.shape[1], 1)
                columns.append(own.new_ones(shape) if gate is None else gate.expand(shape))
        return torch.cat(columns)

    def on_images(self, images: Tensor) -> Tensor:
        """See `Prompt.on_images`; in order."""
        for prompt in self._members:
            images = prompt.on_images(images)
        return images

    @property
    def first_touched(self) -> int | None:
        """See `Prompt.first_touched`; the first of any member's."""
        touched = [prompt.first_touched for prompt in self._members]
        return min((each for each in touched if each is not None), default=None)

    def set_patch_rows(self, layer: int, patches: Tensor) -> None:
        """Share the patch tokens out among the members that want some."""
        start = 0
        for prompt in self._members:
            stop = start + prompt.wants_patches
            if stop > start:
                prompt.set_patch_rows(layer, patches[start:stop])
            start = stop

    @property
    def wants_patches(self) -> int:
        """See `Prompt.wants_patches`."""
        return sum(prompt.wants_patches for prompt in self._members)

    @property
    def _members(self) -> list[Prompt]:
        return list(self.prompts)  # type: ignore[arg-type]


def build_prompt(
    options: Mapping[str, Any] | Sequence[Mapping[str, Any]], at: Dimensions
) -> Prompt:
    """A prompt from checked options ({name, ...} or a list of those).

    Args:
        options: every option filled in, as the registry's schemas leave them.
        at: of the backbone that the prompt is for.
    """
    if not isinstance(options, Mapping):
        return PromptList([build_prompt(each, at) for each in options])
    given = {key: value for key, value in options.items() if key != "name"}
    prompt: Prompt = PROMPTS[options["name"]].build(at, **given)
    return prompt


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return cat_tokens(present, dim=1) if present else None
