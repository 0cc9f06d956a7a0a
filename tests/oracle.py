"""VPT from the paper's equations, by insertion into timm's own blocks: the tests' oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def vpt_features(native: Any, images: Tensor, prompts: dict[int, Tensor]) -> Tensor:
    """Pooled features with fresh prompt tokens (1, T, D) at each layer of `prompts`.

    They flow on elsewhere.

    [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])   (Jia et al. 2022, equation 6)
    """
    body = native.patch_embed(images)
    rope = None
    if hasattr(native, "rope"):
        x, rope = native._pos_embed(body)
    else:
        x = native._pos_embed(body)
    x = native.norm_pre(x)
    first, count = native.num_prefix_tokens, 0
    for layer, block in enumerate(native.blocks):
        if layer in prompts:
            rows = prompts[layer].expand(len(x), -1, -1)
            x = torch.cat([x[:, :first], rows, x[:, first + count :]], dim=1)
            count = rows.shape[1]
        x = _run(native, block, x, rope, layer, first + count)
    x = torch.cat([x[:, :first], x[:, first + count :]], dim=1)
    return native.forward_head(native.norm(x), pre_logits=True)


def _run(native: Any, block: Any, x: Tensor, rope: Any, layer: int, unrotated: int) -> Tensor:
    """A rotary block leaves its prefix unrotated.

    The oracle tells a twin of it that prompts belong to the prefix.
    """
    if rope is None:
        return block(x)
    twin = copy.copy(block)
    twin._modules = dict(block._modules)
    twin.attn = copy.copy(block.attn)
    twin.attn.num_prefix_tokens = unrotated
    return twin(x, rope=rope[layer] if native.rope_mixed else rope)
