"""open_clip's own attention module, for `attend`; importing this registers it."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import Attention
from torch import Tensor

from vpt.backbones.attention import (
    AttentionKind,
    Deltas,
    join_heads,
    packed_all,
    packed_keys_values,
    packed_queries,
    register_attention,
)
from vpt.backbones.storage import register_operands


def _queries(attention: Any, x: Tensor, deltas: Deltas) -> Tensor:
    return attention.ln_q(packed_queries(attention, x, deltas))  # type: ignore[no-any-return]


def _keys_values(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor]:
    k, v = packed_keys_values(attention, x, deltas)
    return attention.ln_k(k), v


def _all(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = packed_all(attention, x, deltas)
    return attention.ln_q(q), attention.ln_k(k), v


def _output(attention: Any, weighed: Tensor, queries: Tensor) -> Tensor:
    del queries
    if attention.head_scale is not None:
        weighed = weighed * attention.head_scale
    return attention.out_proj(attention.ln_inner(join_heads(weighed)))  # type: ignore[no-any-return]


def _is_known(attention: Any) -> bool:
    return attention.logit_scale is None


register_attention(Attention, AttentionKind(_queries, _keys_values, _all, _output, _is_known))
register_operands(Attention, ("in_proj_weight", "in_proj_bias"))
