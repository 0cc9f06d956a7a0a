"""Tiny CLIPs of open_clip, one for each way in which its text towers read a text."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

KINDS = ("clip", "quickgelu", "bidirectional", "siglip", "eos", "first", "coca")

EMBED_DIM = 12
WIDTH = 16
CONTEXT_LENGTH = 24

_VISION = {"layers": 2, "width": WIDTH, "head_width": 8, "patch_size": 8, "image_size": 32}
_TEXT = {
    "context_length": CONTEXT_LENGTH,
    "vocab_size": 49408,
    "width": WIDTH,
    "heads": 2,
    "layers": 2,
}
_OF_KIND: dict[str, dict[str, Any]] = {
    "clip": {},
    "quickgelu": {},
    "bidirectional": {"no_causal_mask": True},
    "siglip": {
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
    "eos": {"pool_type": "eos", "eos_id": 49407},
    "first": {
        "no_causal_mask": True,
        "pool_type": "first",
        "proj_type": "none",
        "width": EMBED_DIM,
    },
    "coca": {"embed_cls": True, "output_tokens": True},
}


def tiny_clip(kind: str, seed: int = 0) -> tuple[Any, Any]:
    """(model in eval, tokenizer): a CLIP of a few thousand weights beside its 49408 words.

    Args:
        kind: 'clip' (causal, parts at top level), 'quickgelu' (the same with QuickGELU),
            'bidirectional' (no causal mask), 'siglip' (last token, biased projection, logit bias,
            canonical texts), 'eos' (pools at an id), 'first' (pools token 0, no projection), 'coca'
            (class token at the end, padding masked).
        seed: of the weights, which are all random and large enough to matter.
    """
    text = _TEXT | _OF_KIND[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(kind, text)
        for name, parameter in model.named_parameters():
            if not name.startswith("logit_"):
                centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
                torch.nn.init.normal_(parameter, centre, 0.3)
    return model.eval(), tiny_tokenizer("canonicalize" if kind == "siglip" else "lower")


@lru_cache
def tiny_tokenizer(clean: str = "lower") -> SimpleTokenizer:
    return SimpleTokenizer(context_length=CONTEXT_LENGTH, clean=clean)


def _build(kind: str, text: dict[str, Any]) -> Any:
    if kind in ("clip", "quickgelu"):
        return CLIP(EMBED_DIM, _VISION, text, quick_gelu=kind == "quickgelu")
    if kind == "coca":
        pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        decoder = {key: text[key] for key in ("context_length", "width", "heads", "layers")}
        vision = _VISION | pooled
        decoder |= {"attn_pooler_heads": 2, "vocab_size": text["vocab_size"]}
        return CoCa(EMBED_DIM, decoder, text, vision)
    if kind == "siglip":
        return CustomTextCLIP(EMBED_DIM, _VISION, text, init_logit_scale=4.7, init_logit_bias=-10.0)
    return CustomTextCLIP(EMBED_DIM, _VISION, text)
