"""Frozen weights stored once: the same bits as autocast's own casts, and no cast is left."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.kinds import KINDS, images_for, make
from tests.contracts.test_backbone_contract import token_prompt
from vpt.backbones import stored_in, wrap_backbone
from vpt.models import PromptedBackbone

MAY_BE_CAST = {"class_embedding", "positional_embedding", "latent"}
"""Small ones that their models cast themselves."""


class _Casts(TorchDispatchMode):
    """Names of a module's float32 tensors that are cast, with how often."""

    def __init__(self, module):
        super().__init__()
        tensors = module.state_dict(keep_vars=True).items()
        self.names = {t.untyped_storage().data_ptr(): name.split(".")[-1] for name, t in tensors}
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].dtype == torch.float32:
            name = self.names.get(args[0].untyped_storage().data_ptr())
            self.found.update([name] if name else [])
        return func(*args, **(kwargs or {}))


def run(backbone, prompt, images):
    prompt.zero_grad()
    with _Casts(backbone) as casts, torch.autocast("cpu", torch.bfloat16):
        pooled = PromptedBackbone(backbone, prompt)(images).pooled
    pooled.float().square().sum().backward()
    return pooled.detach(), prompt.tokens.grad, casts.found


@pytest.mark.parametrize("kind", KINDS)
def test_stored_in_bfloat16__equals_autocast__bit_for_bit__and_casts_no_frozen_product(kind):
    native = make(kind)
    prompt, images = token_prompt(native), images_for(native)
    backbone = wrap_backbone(native)
    before = {name: t.clone() for name, t in backbone.state_dict().items()}
    expected, gradient, casts = run(backbone, prompt, images)
    stored = stored_in(backbone, torch.bfloat16)
    pooled, same_gradient, none = run(stored, prompt, images)
    assert torch.equal(pooled, expected)
    assert torch.equal(gradient, same_gradient)
    assert casts["weight"] >= 2 * backbone.depth
    assert none.keys() <= MAY_BE_CAST
    assert all(torch.equal(before[name], t) for name, t in backbone.state_dict().items())
    assert stored.sha256 == backbone.sha256


def test_what_is_trained__is_shared_and_stays_float32():
    backbone = wrap_backbone(make("test_vit"))
    backbone.unfreeze(backbone.select("blocks:last:1"))
    stored = stored_in(backbone, torch.bfloat16)
    own, others = dict(backbone.named_parameters()), dict(stored.named_parameters())
    assert stored.trained == backbone.trained
    assert all(others[name] is own[name] for name in backbone.trained)
    cast = {name for name, tensor in others.items() if tensor.dtype == torch.bfloat16}
    assert "body.blocks.0.mlp.fc1.weight" in cast
    assert not cast & backbone.trained
    assert not any(tensor.requires_grad for name, tensor in others.items() if name in cast)
