"""VPT from the papers' equations, by insertion into the models' own code: the tests' oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

Prompts = dict[int, Tensor]


def vpt_features(
    native: Any, images: Tensor, prompts: Prompts, placement: str = "post_norm"
) -> Tensor:
    """Pooled features with fresh prompt tokens (1, T, D) at each layer of `prompts`.

    They flow on elsewhere.

    [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])   (Jia et al. 2022, equation 6)

    With placement 'pre_norm' those of layer 0 join the sequence before the pre-norm (Khattak et
    al. 2023).
    """
    if isinstance(native, VisionTransformer):
        return _clip_features(native, images, prompts, placement)
    if isinstance(native, TimmModel):
        pooled = vpt_features(native.trunk, images, prompts, placement)
        return native.head(native.trunk.head(pooled))
    body = native.patch_embed(images)
    rope = None
    if hasattr(native, "rope"):
        x, rope = native._pos_embed(body)
    else:
        x = native._pos_embed(body)
    first, count = native.num_prefix_tokens, 0
    if 0 in prompts and placement == "pre_norm":
        rows = prompts[0].expand(len(x), -1, -1)
        count = rows.shape[1]
        x = torch.cat([x[:, :first], rows, x[:, first:]], dim=1)
    x = native.norm_pre(x)
    for layer, block in enumerate(native.blocks):
        if layer in prompts and (layer > 0 or placement == "post_norm"):
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


def _clip_features(tower: Any, images: Tensor, prompts: Prompts, placement: str) -> Tensor:
    """The tower's own forward pass, with its pre-norm and its stack of blocks replaced.

    Prompts stand at the end, as in Khattak et al.'s code, not after the class token: without a
    mask, and with positions already added, attention cannot tell.
    """
    twin = copy.copy(tower)
    twin._modules = dict(tower._modules)
    inserted = placement == "pre_norm" and 0 in prompts
    if inserted:
        twin.ln_pre = _PreNorm(tower.ln_pre, prompts[0])
    count = prompts[0].shape[1] if inserted else 0
    later = {layer: rows for layer, rows in prompts.items() if layer > 0 or not inserted}
    twin.transformer = _Stack(tower.transformer.resblocks, later, count)
    features = twin(images)
    return (features[0] if isinstance(features, tuple) else features).flatten(1)


class _PreNorm(nn.Module):
    def __init__(self, norm: nn.Module, rows: Tensor):
        super().__init__()
        self.norm, self.rows = norm, rows

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([x, self.rows.expand(len(x), -1, -1)], dim=1))


class _Stack(nn.Module):
    def __init__(self, blocks: Any, prompts: Prompts, count: int):
        super().__init__()
        self.blocks, self.prompts, self.count = blocks, prompts, count

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1] - self.count
        for layer, block in enumerate(self.blocks):
            if layer in self.prompts:
                x = torch.cat([x[:, :length], self.prompts[layer].expand(len(x), -1, -1)], dim=1)
            x = block(x)
        return x[:, :length]
