"""The variants that a benchmark sets side by side, around shared backbones, prompts and heads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from vpt.backbones import Backbone, create_backbone
from vpt.errors import BackboneError
from vpt.heads import LinearHead
from vpt.models import Classifier, PromptedBackbone
from vpt.models.flops import Start
from vpt.prompts import NoPrompt, Prompt, build_prompt
from vpt.structures import Batch, Begun

Variant = Literal[
    "backbone",
    "probe",
    "insertion",
    "context",
    "context_dropout",
    "context_checkpointed",
    "context_baked",
    "full",
]


@dataclass(frozen=True)
class _Kind:
    """What a variant is.

    Attributes:
        about: in words.
        beside: the variants that it is held against.
        infers: whether its inference is its own.
        trains: whether its training step is its own.
    """

    about: str
    beside: tuple[Variant, ...] = ("backbone",)
    infers: bool = False
    trains: bool = True


VARIANTS: dict[Variant, _Kind] = {
    "backbone": _Kind(
        "no prompts; the embedded tokens require a gradient, so that it passes every block",
        beside=(),
        infers=True,
    ),
    "probe": _Kind("no prompts: a linear probe, whose head alone goes backward"),
    "insertion": _Kind(
        "prompt tokens inserted at every layer, as in the paper's code", infers=True
    ),
    "context": _Kind("prompts as keys and values", beside=("insertion", "backbone"), infers=True),
    "context_dropout": _Kind("the same with prompt dropout 0.1, which makes them each image's own"),
    "context_checkpointed": _Kind(
        "the same, every block computed again in the backward pass", beside=("context", "backbone")
    ),
    "context_baked": _Kind(
        "the same with the prompts' keys and values computed once for all batches",
        beside=("context", "backbone"),
        infers=True,
        trains=False,
    ),
    "full": _Kind("no prompts; every weight of the backbone is trained"),
}


class ModelShelf:
    """Makes models for variants; what they can share is one object.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.backbone = cache(self._backbone)
        self.batch = cache(self._batch)
        self._prompt = cache(self._make_prompt)
        self._head = cache(self._make_head)

    def model(
        self, variant: Variant, backbone: Backbone, *, num_tokens: int, num_classes: int
    ) -> Classifier:
        """A classifier, in training mode or not, on the device."""
        head = self._head(backbone.feature_dim, num_classes)
        if variant == "full":
            own = copy.deepcopy(backbone)
            own.unfreeze(own.select("all"))
            return Classifier(PromptedBackbone(own, NoPrompt()), head, tuning="full")
        prompts = variant not in ("backbone", "probe") and num_tokens > 0
        dropout = 0.1 if variant == "context_dropout" else 0.0
        is_baked = variant == "context_baked"  # its own: the others train the one they share
        make = self._make_prompt if is_baked else self._prompt
        prompt = make(backbone, num_tokens, dropout) if prompts else NoPrompt()
        prompted = PromptedBackbone(backbone, prompt, insert=variant == "insertion")
        prompted.grad_checkpointing = variant == "context_checkpointed"
        return Classifier(prompted, head)

    def _backbone(self, name: str, image_size: int | None) -> Backbone:
        return create_backbone(name, pretrained=False, image_size=image_size).to(self.device)

    def _make_prompt(self, backbone: Backbone, num_tokens: int, dropout: float) -> Prompt:
        options = {"name": "vpt_deep", "num_tokens": num_tokens, "dropout": dropout}
        return build_prompt({**options, "layers": "all"}, at=backbone.dimensions).to(self.device)

    def _make_head(self, feature_dim: int, num_classes: int) -> LinearHead:
        return LinearHead(feature_dim, num_classes).to(self.device)

    def _batch(self, size: tuple[int, int], batch_size: int, num_classes: int) -> Batch:
        images = torch.randn(batch_size, 3, *size)
        labels = torch.randint(num_classes, (batch_size,))
        return Batch(images, labels, torch.arange(batch_size)).to(self.device)


def start_of(variant: Variant, model: Classifier) -> Start:
    """What a variant's step gives its model, from images."""

    def embedded(images: Tensor) -> Begun:
        tokens = model.backbone.embed(images)
        begun = Begun(tokens, 0)
        return begun.with_values(tokens.values.detach().requires_grad_(torch.is_grad_enabled()))

    return embedded if variant == "backbone" else lambda images: images


def check_takes_context(backbone: Backbone, name: str) -> None:
    """Refuse a backbone in which prompts could only be inserted."""
    for layer in range(backbone.depth):
        if not backbone.takes_context(layer):
            raise BackboneError(
                f"block {layer} of '{name}' takes no context, so both ways are insertion; "
                "use a model of standard blocks, e.g. timm/vit_base_patch16_224"
            )
