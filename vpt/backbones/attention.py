"""The one attention with context tokens, for timm's Attention, EvaAttention and AttentionRope.

A prompt that gets no successor needs no query, output projection or MLP: at such a layer it is only
keys and values,
    K = [W_k LN(x), W_k LN(P)],  V = [W_v LN(x), W_v LN(P)],  Q = W_q LN(x),
which is exact in real arithmetic and keeps the sequence as long as it was.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from vpt.structures import Context

KNOWN_ATTENTION = (Attention, AttentionRope, EvaAttention)


def is_known_attention(module: nn.Module) -> bool:
    """Whether `attend` computes what the module computes.

    It goes by exact type, as look-alikes compute something else.
    """
    return type(module) in KNOWN_ATTENTION


def attend(
    attention: Any,
    x: Tensor,
    *,
    context: Context | None = None,
    keep: int | None = None,
    rotary: Tensor | None = None,
    num_unrotated: int = 0,
) -> Tensor:
    """Self-attention of a known module, in eval mode.

    It may have more keys and values than its sequence has.

    Args:
        attention: a module for which `is_known_attention` holds.
        x: (B, S, D), normed.
        context: keys and values (1 | B, heads, T, head_dim), without rotation.
        keep: compute the first `keep` queries only.
        rotary: timm's concatenated sin and cos of the tokens after the first `num_unrotated`.
        num_unrotated: P, or P + T where prompts are in the sequence.

    Returns:
        (B, keep or S, D).
    """
    queries = x if keep is None else x[:, :keep]
    q = attention.q_norm(_project_queries(attention, queries))
    k, v = _project_keys_values(attention, x)
    if rotary is not None:
        half = getattr(attention, "rotate_half", False)
        q = _rotate(q, rotary, num_unrotated, half).type_as(v)
        k = _rotate(k, rotary, num_unrotated, half).type_as(v)
    k, v = _repeat_groups(attention, k), _repeat_groups(attention, v)
    if context is not None:
        k = torch.cat([k, context.keys.expand(k.shape[0], -1, -1, -1)], dim=2)
        v = torch.cat([v, context.values.expand(v.shape[0], -1, -1, -1)], dim=2)
    out = _weigh(q, k, v, attention.scale)
    out = attention.norm(out.transpose(1, 2).flatten(2))
    if attention.gate is not None:
        out = out * attention.gate(queries).sigmoid()
    return attention.proj(out)  # type: ignore[no-any-return]


def project_context(attention: Any, rows: Tensor) -> Context:
    """Keys and values of normed prompt rows (1 | B, T, D) in a known attention module."""
    k, v = _project_keys_values(attention, rows)
    return Context(_repeat_groups(attention, k), _repeat_groups(attention, v))


_MOST_WEIGHTS = 2**26
"""Attention weights of one layer and batch up to which they may be kept for the backward pass."""


def _weigh(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention, (B, heads, S, head_dim).

    The backward pass of the fused kernel is slow for bfloat16 on a CPU: written out, a training
    step of DeiT-Tiny at 224 px takes 0.73x the time. In float32, and without gradients, the fused
    kernel is better.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if slow and q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= _MOST_WEIGHTS:
        return ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def _project_queries(attention: Any, x: Tensor) -> Tensor:
    if attention.qkv is None:
        q = attention.q_proj(x)
    else:
        q = _fused(attention, x, 0, attention.num_heads * attention.head_dim)
    return _split_heads(q, attention.num_heads)


def _project_keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, kv heads, S, head_dim) each; keys are normed but not rotated."""
    if attention.qkv is None:
        k, v = attention.k_proj(x), attention.v_proj(x)
    else:
        width = attention.num_heads * attention.head_dim
        k, v = _fused(attention, x, width, 3 * width).chunk(2, dim=-1)
    heads = getattr(attention, "num_kv_heads", attention.num_heads)
    return attention.k_norm(_split_heads(k, heads)), _split_heads(v, heads)


def _fused(attention: Any, x: Tensor, start: int, stop: int) -> Tensor:
    """Outputs start..stop of the fused projection.

    A wrapped or quantised Linear is called, never sliced.
    """
    bias = _fused_bias(attention)
    if type(attention.qkv) is nn.Linear:
        weight = attention.qkv.weight[start:stop]
        return F.linear(x, weight, None if bias is None else bias[start:stop])
    out: Tensor = attention.qkv(x)[..., start:stop]
    return out if bias is attention.qkv.bias or bias is None else out + bias[start:stop]


def _fused_bias(attention: Any) -> Tensor | None:
    """EVA keeps the query and value bias beside its Linear, with a key bias of zeros."""
    if getattr(attention, "q_bias", None) is not None:
        return torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return attention.qkv.bias  # type: ignore[no-any-return]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def _repeat_groups(attention: Any, x: Tensor) -> Tensor:
    """Grouped-query attention: head h reads key and value head h // groups."""
    groups = getattr(attention, "num_kv_groups", 1)
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _rotate(x: Tensor, rotary: Tensor, num_unrotated: int, half: bool) -> Tensor:
    head, tail = x[:, :, :num_unrotated], x[:, :, num_unrotated:]
    if tail.shape[2] == 0:
        return x
    return torch.cat([head, apply_rot_embed_cat(tail, rotary, half=half)], dim=2)
