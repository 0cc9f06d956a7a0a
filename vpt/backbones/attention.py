"""The one attention with context tokens, for the known attention modules of timm and open_clip.

A prompt that gets no successor needs no query, output projection or MLP: at such a layer it is only
keys and values,
    K = [W_k LN(x), W_k LN(P)],  V = [W_v LN(x), W_v LN(P)],  Q = W_q LN(x),
which is exact in real arithmetic and keeps the sequence as long as it was.

The modules differ in where they keep their weights and in what follows the weighted sum: each kind
has its own functions for queries, for keys and values, for all three at once, and for the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from vpt.choices import Projection
from vpt.structures import AttentionShape, Context, Inside, cat_tokens


def is_known_attention(module: Any) -> bool:
    """Whether `attend` computes what the module computes.

    It goes by exact type, as look-alikes compute something else, and by the options that would.
    """
    kind = _KINDS.get(type(module))
    return kind is not None and kind.is_known(module)


def attend(
    attention: Any,
    x: Tensor,
    *,
    inside: Inside | None = None,
    keep: int | None = None,
    rotary: Tensor | None = None,
    num_unrotated: int = 0,
) -> Tensor:
    """Self-attention of a known module, in eval mode.

    It may have more keys and values than its sequence has.

    Args:
        attention: a module for which `is_known_attention` holds.
        x: (B, S, D), normed.
        inside: keys and values (without rotation), what is added to the projections, and the
            temperature.
        keep: compute the first `keep` queries only.
        rotary: timm's concatenated sin and cos of the tokens after the first `num_unrotated`.
        num_unrotated: P, or P + T where prompts are in the sequence.

    Returns:
        (B, keep or S, D).
    """
    kind, inside = _KINDS[type(attention)], inside or _NOTHING
    queries = x if keep is None else x[:, :keep]
    if keep is None:
        q, k, v = kind.project(attention, x, inside.deltas)
    else:
        q = kind.project_queries(attention, queries, inside.deltas)
        k, v = kind.project_keys_values(attention, x, inside.deltas)
    if rotary is not None:
        half = getattr(attention, "rotate_half", False)
        q = _rotate(q, rotary, num_unrotated, half).type_as(v)
        k = _rotate(k, rotary, num_unrotated, half).type_as(v)
    if inside.temperature is not None:
        q = q / inside.temperature.to(q.dtype)
    own = Context(_repeat_groups(attention, k), _repeat_groups(attention, v))
    scale = getattr(attention, "scale", q.shape[-1] ** -0.5)
    return kind.project_output(attention, _weigh(q, own, inside.context, scale), queries)


def attention_shape(attention: Any) -> AttentionShape:
    """The heads of a known attention module."""
    heads: int = attention.num_heads
    packed = getattr(attention, "in_proj_weight", None)
    head_dim = attention.head_dim if packed is None else packed.shape[1] // heads
    return AttentionShape(heads, head_dim, getattr(attention, "num_kv_heads", heads))


def project_context(attention: Any, rows: Tensor, inside: Inside | None = None) -> Context:
    """Keys and values of normed prompt rows (1 | B, T, D) in a known attention module."""
    deltas = (inside or _NOTHING).deltas
    k, v = _KINDS[type(attention)].project_keys_values(attention, rows, deltas)
    return Context(_repeat_groups(attention, k), _repeat_groups(attention, v))


_NOTHING = Inside()
_PROJECTIONS: tuple[Projection, ...] = ("query", "key", "value")
Deltas = Mapping[Projection, Callable[[Tensor], Tensor]]
"""What is added to each projection's output, as a function of the normed tokens."""


def _plus(out: Tensor, deltas: Deltas, name: Projection, x: Tensor) -> Tensor:
    """A projection's output with what is added to it, in its own type."""
    return out + deltas[name](x).to(out.dtype) if name in deltas else out


_MOST_WEIGHTS = 2**26
"""Attention weights of one layer and batch up to which they may be kept for the backward pass."""


_ALIGNED = 16
"""Keys of which a CPU's fused kernel takes a multiple faster than one more or less."""


def _weigh(q: Tensor, own: Context, added: Context | None, scale: float) -> Tensor:
    """Scaled dot-product attention to a sequence's own keys and values and those added to them.

    Keys that are not `seen` get no weight.

    Returns:
        (B, heads, S, head_dim).
    """
    if _is_better_written_out(q, own, added):
        joined = own.with_more(added)
        return ((q * scale) @ joined.keys.transpose(-2, -1)).softmax(dim=-1) @ joined.values
    if added is not None and q.device.type == "cpu":
        added = _aligned(added, own.keys.shape[2])
    joined = own.with_more(added)
    hidden = None
    if joined.seen is not None:
        hidden = torch.zeros_like(joined.seen, dtype=q.dtype)
        hidden = hidden.masked_fill(~joined.seen, float("-inf"))[:, None, None]
    saved: AbstractContextManager[None] = nullcontext()
    if added is not None and _keeps_for_backward():
        saved = _saved_apart(joined, own, added)
    with saved:
        return F.scaled_dot_product_attention(q, joined.keys, joined.values, hidden, scale=scale)


def _is_better_written_out(q: Tensor, own: Context, added: Context | None) -> bool:
    """Where the backward pass of the fused kernel is slow: for bfloat16 on a CPU.

    A training step of DeiT-Tiny at 224 px takes 0.73x the time. In float32, and without gradients,
    the fused kernel is better.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return False
    keys = own.keys.shape[2] + (0 if added is None else added.keys.shape[2])
    few = q.shape[0] * q.shape[1] * q.shape[2] * keys <= _MOST_WEIGHTS
    return few and (added is None or added.seen is None)


def _aligned(added: Context, length: int) -> Context:
    """With keys that nobody sees: behind `length` others they make a multiple of `_ALIGNED`.

    Attention of ViT-B/16 with 100 tokens, 297 keys, takes 0.95x the time in float32 and 0.59x in
    bfloat16 (without gradients, one core). Where each image has its own (prompt dropout, banks) it
    is left alone: a copy of all of them takes what it would save.
    """
    count = added.keys.shape[2]
    missing = -(length + count) % _ALIGNED
    if not count or not missing or added.keys.shape[0] > 1:
        return added
    keys, values = (F.pad(each, (0, 0, 0, missing)) for each in (added.keys, added.values))
    return Context(keys, values, F.pad(added.all_seen(), (0, missing)))


_RECOMPUTES = ContextVar("recomputes", default=False)


@contextmanager
def recomputed() -> Iterator[None]:
    """Attention inside of it is done again for the backward pass, which so keeps nothing of it."""
    token = _RECOMPUTES.set(True)
    try:
        yield
    finally:
        _RECOMPUTES.reset(token)


def _keeps_for_backward() -> bool:
    """Whether there is a graph, of which no compiler and no `recomputed` decides what it keeps.

    The transforms of torch.func allow no hooks on what it keeps.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _RECOMPUTES.get():
        return False
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[no-any-return, attr-defined]


@contextmanager
def _saved_apart(joined: Context, own: Context, added: Context) -> Iterator[None]:
    """Let the backward pass keep what was joined, and join it once more.

    Keys and values of a prompt are one for all images; joined to each image's own, T more of
    either would be kept for every image.
    """
    wholes = {"keys": joined.keys, "values": joined.values}
    parts = {
        "keys": (own.keys.detach(), added.keys.detach()),
        "values": (own.values.detach(), added.values.detach()),
    }

    def pack(saved: Tensor) -> Tensor | str:
        return next((name for name, whole in wholes.items() if _is_same(saved, whole)), saved)

    def unpack(packed: Tensor | str) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        first, second = parts[packed]
        return cat_tokens([first, second.to(first.dtype)], dim=2)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
    wholes.clear()  # the graph keeps `pack` as well


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, seen alike; also without values."""
    if one.shape != other.shape or one.stride() != other.stride():
        return False
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, S, head_dim) to (B, S, D)."""
    return x.transpose(1, 2).flatten(2)


def _repeat_groups(attention: Any, x: Tensor) -> Tensor:
    """Grouped-query attention: head h reads key and value head h // groups."""
    groups = getattr(attention, "num_kv_groups", 1)
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _rotate(x: Tensor, rotary: Tensor, num_unrotated: int, half: bool) -> Tensor:
    head, tail = x[:, :, :num_unrotated], x[:, :, num_unrotated:]
    if tail.shape[2] == 0:
        return x
    return torch.cat([head, apply_rot_embed_cat(tail, rotary, half=half)], dim=2)


# timm: Linear layers, fused or apart, norms per head, an optional gate.


def _timm_queries(attention: Any, x: Tensor, deltas: Deltas) -> Tensor:
    if attention.qkv is None:
        q = attention.q_proj(x)
    else:
        q = _fused(attention, x, 0, attention.num_heads * attention.head_dim)
    return _timm_as_queries(attention, q, x, deltas)


def _timm_keys_values(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor]:
    if attention.qkv is None:
        k, v = attention.k_proj(x), attention.v_proj(x)
    else:
        width = attention.num_heads * attention.head_dim
        k, v = _fused(attention, x, width, 3 * width).chunk(2, dim=-1)
    return _timm_as_keys_values(attention, k, v, x, deltas)


def _timm_all(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor, Tensor]:
    if attention.qkv is None:
        q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    else:
        q, k, v = _fused(attention, x, 0, None).chunk(3, dim=-1)
    keys, values = _timm_as_keys_values(attention, k, v, x, deltas)
    return _timm_as_queries(attention, q, x, deltas), keys, values


def _timm_as_queries(attention: Any, q: Tensor, x: Tensor, deltas: Deltas) -> Tensor:
    q = _plus(q, deltas, "query", x)
    return attention.q_norm(_split_heads(q, attention.num_heads))  # type: ignore[no-any-return]


def _timm_as_keys_values(
    attention: Any, k: Tensor, v: Tensor, x: Tensor, deltas: Deltas
) -> tuple[Tensor, Tensor]:
    k, v = _plus(k, deltas, "key", x), _plus(v, deltas, "value", x)
    heads = getattr(attention, "num_kv_heads", attention.num_heads)
    return attention.k_norm(_split_heads(k, heads)), _split_heads(v, heads)


def _timm_output(attention: Any, weighed: Tensor, queries: Tensor) -> Tensor:
    out = attention.norm(join_heads(weighed))
    if attention.gate is not None:
        out = out * attention.gate(queries).sigmoid()
    return attention.proj(out)  # type: ignore[no-any-return]


def _fused(attention: Any, x: Tensor, start: int, stop: int | None) -> Tensor:
    """Outputs start..stop of the fused projection; to the last one, if there is no stop.

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


# torch's MultiheadAttention, and open_clip's: one packed weight, no Linear to call.


def _packed(attention: Any, x: Tensor, start: int, stop: int) -> Tensor:
    """Parts start..stop of [queries, keys, values], each D wide."""
    width = attention.in_proj_weight.shape[1]
    rows, bias = slice(start * width, stop * width), attention.in_proj_bias
    return F.linear(x, attention.in_proj_weight[rows], None if bias is None else bias[rows])


def packed_queries(attention: Any, x: Tensor, deltas: Deltas) -> Tensor:
    """The queries of one packed weight, see `AttentionKind.project_queries`."""
    q = _plus(_packed(attention, x, 0, 1), deltas, "query", x)
    return _split_heads(q, attention.num_heads)


def packed_keys_values(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor]:
    """Its keys and values, see `AttentionKind.project_keys_values`."""
    k, v = _packed(attention, x, 1, 3).chunk(2, dim=-1)
    k, v = _plus(k, deltas, "key", x), _plus(v, deltas, "value", x)
    return _split_heads(k, attention.num_heads), _split_heads(v, attention.num_heads)


def packed_all(attention: Any, x: Tensor, deltas: Deltas) -> tuple[Tensor, Tensor, Tensor]:
    """All three in one product, see `AttentionKind.project`."""
    q, k, v = _packed(attention, x, 0, 3).chunk(3, dim=-1)
    q, k, v = (
        _split_heads(_plus(each, deltas, name, x), attention.num_heads)
        for each, name in zip((q, k, v), _PROJECTIONS, strict=True)
    )
    return q, k, v


def _packed_output(attention: Any, weighed: Tensor, queries: Tensor) -> Tensor:
    del queries
    return attention.out_proj(join_heads(weighed))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AttentionKind:
    """How one kind of attention module computes its parts.

    Attributes:
        project_queries: normed tokens to (B, heads, S, head_dim), not rotated.
        project_keys_values: normed tokens to (B, kv heads, S, head_dim) each, not rotated.
        project: both of the same tokens, in one product where the module keeps its weights so.
        project_output: the weighted sum (B, heads, S, head_dim), and the normed tokens that asked,
            to (B, S, D).
        is_known: whether a module of the class has no option that computes something else.
    """

    project_queries: Callable[[Any, Tensor, Deltas], Tensor]
    project_keys_values: Callable[[Any, Tensor, Deltas], tuple[Tensor, Tensor]]
    project: Callable[[Any, Tensor, Deltas], tuple[Tensor, Tensor, Tensor]]
    project_output: Callable[[Any, Tensor, Tensor], Tensor]
    is_known: Callable[[Any], bool] = lambda module: True


def register_attention(module: type[nn.Module], kind: AttentionKind) -> None:
    """Let `attend` compute a class of modules of another library."""
    _KINDS[module] = kind


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    extra = attention.bias_k is not None or attention.add_zero_attn
    return attention.in_proj_weight is not None and attention.batch_first and not extra


_TIMM = AttentionKind(_timm_queries, _timm_keys_values, _timm_all, _timm_output)
_KINDS: dict[type[nn.Module], AttentionKind] = {
    Attention: _TIMM,
    AttentionRope: _TIMM,
    EvaAttention: _TIMM,
    nn.MultiheadAttention: AttentionKind(
        packed_queries, packed_keys_values, packed_all, _packed_output, _is_plain
    ),
}
