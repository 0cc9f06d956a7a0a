"""The frozen text tower of a CLIP."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt.backbones.base import weights_hash
from vpt.backbones.open_clip_models import create_open_clip, create_tokenizer
from vpt.errors import BackboneError
from vpt.text.tokenizer import TextTokenizer

_OTHER_PARTS = ("visual", "text_decoder")
_SCALARS = ("logit_scale", "logit_bias")
_SHAPING = ("text_pool_type", "pool_type", "text_eos_id", "eos_id", "pad_id", "use_pad_mask")
_SHAPING_HEADS = ("num_heads", "heads", "correct_cls_mask")
_DEFAULT_CONTEXT_LENGTH = 77


def create_text_tower(
    name: str, *, pretrained: bool = True, weights: Path | str | None = None
) -> TextTower:
    """The text tower of a CLIP by name, fp32, on the CPU; the image tower leaves memory.

    Args:
        name: 'open_clip/<architecture>[:<tag>]' or 'bundled/glyph_clip'.
        pretrained: load the tag's weights; False: random ones.
        weights: a local safetensors file with both towers, instead of a download.

    Raises:
        BackboneError: as `vpt.backbones.open_clip_models.create_open_clip`.
    """
    tokenizer = create_tokenizer(name)
    return TextTower(
        create_open_clip(name, pretrained=pretrained, weights=weights), tokenizer, name
    )


class TextTower(nn.Module):
    """Texts to features, by open_clip's own code; frozen, and in eval whatever its owner is in.

    The text part is copied: the model that was given stays as it is, and may be deleted.

    Args:
        model: open_clip's `CLIP`, `CustomTextCLIP` or `CoCa`.
        tokenizer: open_clip's for that model.
        name: e.g. 'open_clip/ViT-B-32:laion2b_s34b_b79k'; empty for a model that a user built.

    Attributes:
        name: as given.
        sha256: of the text tower's weights as loaded (`weights_hash`), scale and bias not among
            them; None on the meta device.
        feature_dim: F of the features, which is that of the image tower's.
        width: W of a token inside the tower.
        context_length: L, which every text is padded to.
        activation: class name of the MLP's activation, e.g. 'QuickGELU'.
        logit_scale: the model's own factor of the cosine, exp(logit_scale); NaN on the meta device.
        logit_bias: the model's own, or None where it has none.
        structure: digest of what shapes the features besides weights: masks, pooling, heads, norms.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = ""):
        super().__init__()
        if not callable(getattr(model, "encode_text", None)):
            raise BackboneError(f"{type(model).__name__} is no CLIP of open_clip: no encode_text")
        self.name = name
        self.logit_scale = _scalar(model.logit_scale.detach().exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else _scalar(bias)
        self.body = copy.deepcopy(_without(model, _OTHER_PARTS, _SCALARS))
        text = self._text
        self.is_native = isinstance(getattr(text, "token_embedding", None), nn.Embedding)
        self.context_length = _context_length(text, tokenizer, self.is_native)
        self.width = _width(text, self.is_native)
        self.feature_dim = _feature_dim(text, self.is_native)
        self.activation = _activation(text, self.is_native)
        self.structure = _structure(self.body)
        self.sha256 = weights_hash(dict(self.body.state_dict()))
        self.tokenizer = TextTokenizer(tokenizer, self.context_length)
        self.requires_grad_(False)
        self.zero_grad()
        self.train()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = next(self.body.parameters())
        return weight

    def train(self, mode: bool = True) -> TextTower:
        """Stay in eval, as `Backbone` does."""
        del mode
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(K, L) int64 on the CPU; nothing is ever cut.

        Raises:
            ConfigError: a text takes more than L tokens.
        """
        return self.tokenizer(texts)

    def knows(self, tokens: Tensor) -> Tensor:
        """Which tokens (any shape) have an embedding: a row of zeros is a word never learned."""
        if not self.is_native:
            return torch.ones_like(tokens, dtype=torch.bool)
        weight = self._text.token_embedding.weight
        return weight[tokens.to(weight.device)].any(dim=-1)  # type: ignore[no-any-return]

    def encode(self, tokens: Tensor) -> Tensor:
        """(K, F), not normalised, of tokens (K, L): `encode_text` of the model, frozen."""
        return _encode(self.body, tokens.to(self.device))

    def forward(self, tokens: Tensor) -> Tensor:
        """See `encode`."""
        return self.encode(tokens)

    def embed(self, tokens: Tensor) -> Tensor:
        """(K, L, W): the embeddings of tokens (K, L), before positions are added.

        Raises:
            BackboneError: the tower is a Hugging Face model.
        """
        self.require_embeddings()
        return self._text.token_embedding(tokens.to(self.device))  # type: ignore[no-any-return]

    def encode_embedded(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """(K, F), not normalised, of embeddings (K, L, W) in place of those of tokens (K, L).

        Mask and pooling are the tower's own and go by `tokens`; gradients reach `embeddings`.

        Raises:
            BackboneError: the tower is a Hugging Face model.
        """
        self.require_embeddings()
        return _encode(_with_embeddings(self.body, embeddings), tokens.to(self.device))

    def require_embeddings(self) -> None:
        """Refuse, by name, a tower that only takes tokens.

        Raises:
            BackboneError: the tower is a Hugging Face model.
        """
        if not self.is_native:
            raise BackboneError(
                f"the text tower of '{self.name or type(self.body).__name__}' is "
                f"{type(self._text).__name__}, which takes no embeddings; learned contexts need a "
                "model with open_clip's own text transformer"
            )

    @property
    def _text(self) -> Any:
        """The module that holds the text transformer: a CLIP itself, or its `text`."""
        return getattr(self.body, "text", self.body)


class _GivenEmbeddings(nn.Module):
    """Stands where a token embedding does, and gives rows that were made already."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, tokens: Tensor) -> Tensor:
        del tokens
        return self.rows


def _encode(model: Any, tokens: Tensor) -> Tensor:
    features: Any = model.encode_text(tokens, normalize=False)
    # CustomTextCLIP passes on the (pooled, tokens) of a tower that has output_tokens.
    pooled: Tensor = features[0] if isinstance(features, tuple) else features
    return pooled


def _with_embeddings(body: Any, rows: Tensor) -> Any:
    """The same tower (all other modules shared, nothing written to it), reading `rows`."""
    twin = _twin(body)
    owner = twin
    if "text" in twin._modules:
        owner = twin._modules["text"] = _twin(twin._modules["text"])
    owner._modules["token_embedding"] = _GivenEmbeddings(rows)
    return twin


def _without(model: Any, modules: Sequence[str], parameters: Sequence[str]) -> Any:
    """The same model without some of its parts; it shares the others."""
    twin = _twin(model)
    for name in modules:
        twin._modules.pop(name, None)
    for name in parameters:
        twin._parameters.pop(name, None)
    return twin


def _twin(module: Any) -> Any:
    """A shallow copy whose tables of parts are its own."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()
    twin._parameters = module._parameters.copy()
    twin._buffers = module._buffers.copy()
    return twin


def _scalar(value: Tensor) -> float:
    return float("nan") if value.is_meta else float(value.detach().float())


def _context_length(text: Any, tokenizer: Any, native: bool) -> int:
    """A Hugging Face tower takes any length up to its limit: the tokenizer says which was used."""
    if native:
        return int(text.context_length)
    return int(getattr(tokenizer, "context_length", None) or _DEFAULT_CONTEXT_LENGTH)


def _width(text: Any, native: bool) -> int:
    if native:
        return int(text.token_embedding.embedding_dim)
    config = text.config
    return int(getattr(config, "hidden_size", 0) or getattr(config, "d_model", 0))


def _feature_dim(text: Any, native: bool) -> int:
    if not native:
        return int(text.output_dim)
    projection = text.text_projection
    if projection is None:
        return _width(text, native)
    return int(
        projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
    )


def _activation(text: Any, native: bool) -> str:
    """'' where the MLP is of an unknown make; GELU's tanh approximation is part of the name."""
    if not native:
        config = text.config
        return str(getattr(config, "hidden_act", "") or getattr(config, "feed_forward_proj", ""))
    module = getattr(text.transformer.resblocks[0].mlp, "gelu", None)
    if module is None:
        return ""
    name = type(module).__name__
    return f"{name}(tanh)" if getattr(module, "approximate", "none") == "tanh" else name


def _structure(body: nn.Module) -> str:
    facts = [repr(body)]
    for name, module in body.named_modules():
        for key in (*_SHAPING, *_SHAPING_HEADS):
            value = getattr(module, key, None)
            if isinstance(value, bool | int | str):
                facts.append(f"{name}.{key}={value}")
        masked = getattr(module, "attn_mask", None) is not None
        facts.append(f"{name}.causal={masked}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
