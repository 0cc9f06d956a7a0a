"""Learned words around a class name: CoOp.

Zhou et al., "Learning to Prompt for Vision-Language Models", 2022, eq. 2-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpt.errors import ConfigError
from vpt.registry import nearest
from vpt.text.names import check_known, check_names
from vpt.text.tokenizer import quote
from vpt.text.tower import TextTower

POSITIONS = ("end", "middle", "front")
_CLOSE = "."


class LearnedContext(nn.Module):
    """Text features of classes in a learned context, which is the only thing here that is trained.

    The sentence of a class is "<context> <name>." as if the context had been typed: start token,
    M learned rows, the name's own tokens, end token and padding, under the tower's own mask and
    pooling.

    The tower is used, not owned: its tensors are in neither `parameters()` nor `state_dict()`,
    several contexts may share it. It follows the context to a device, but keeps its own dtype. A
    deep copy has a tower of its own.

    Args:
        tower: frozen; with open_clip's own text transformer.
        class_names: go into the sentences as they are.
        num_tokens: M; None: the token count of `init`, or 16.
        class_specific: a context of its own for each class (CSC).
        position: where the class name stands: after the context ('end'), after its first M // 2
            tokens ('middle'), before it ('front').
        init: words to start from, e.g. 'a photo of a'; None: normal numbers.
        std: their standard deviation.
        chunk: at most so many classes at a time go through the tower, and again on the way back,
            which bounds the memory of training; None: all at once.
        generator: of the CPU, which the normal numbers are drawn from; None: the global one.

    Raises:
        ConfigError: an option out of its range, names that are empty or the same, or a class whose
            sentence is longer than the tower takes.
        BackboneError: the tower takes no embeddings.
    """

    token_ids: Tensor
    places: Tensor

    def __init__(
        self,
        tower: TextTower,
        class_names: Sequence[str],
        *,
        num_tokens: int | None = None,
        class_specific: bool = False,
        position: str = "end",
        init: str | None = None,
        std: float = 0.02,
        chunk: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        _check_options(16 if num_tokens is None else num_tokens, position, std, chunk)
        tower.require_embeddings()
        self._frozen = (tower,)  # a tuple hides it from parameters() and state_dict()
        self.class_names = check_names(class_names)
        check_known(tower, self.class_names)
        start = None if init is None else _embed_words(tower, init)
        self.num_tokens = (num_tokens or 16) if start is None else len(start)
        if num_tokens not in (None, self.num_tokens):
            raise ConfigError(
                f"context.init {quote(str(init))} has {self.num_tokens} tokens, not the "
                f"{num_tokens} of num_tokens; leave one of them out"
            )
        self.class_specific = class_specific
        self.position = position
        self.chunk = chunk
        ids, places = self._lay_out()
        self.register_buffer("token_ids", ids.to(tower.device), persistent=False)
        self.register_buffer("places", places.to(tower.device), persistent=False)
        width = (self.num_tokens, tower.width)
        shape = (len(self.class_names), *width) if class_specific else width
        if start is None:
            start = torch.randn(shape, generator=generator, device="cpu") * std
        self.tokens = nn.Parameter(start.to(tower.device).expand(shape).clone())

    @property
    def tower(self) -> TextTower:
        """The frozen text tower."""
        return self._frozen[0]

    def forward(self) -> Tensor:
        """(C, F) fp32 text features of length one, differentiable in `tokens`."""
        tokens: Tensor = self.tokens
        if not self.class_specific:
            tokens = tokens.expand(len(self.class_names), -1, -1)
        if self.chunk is None:
            return self._encode(tokens, self.token_ids, self.places)
        features = []
        for start in range(0, len(tokens), self.chunk):
            piece = slice(start, start + self.chunk)
            parts = tokens[piece], self.token_ids[piece], self.places[piece]
            features.append(checkpoint(self._encode, *parts, use_reentrant=False))
        return torch.cat(features)

    def _encode(self, tokens: Tensor, ids: Tensor, places: Tensor) -> Tensor:
        """(C, F) of contexts (C, M, W) that take the places (C, M) in token ids (C, L)."""
        rows = self.tower.embed(ids)
        index = places[..., None].expand(-1, -1, rows.shape[-1])
        rows = rows.scatter(1, index, tokens.to(rows.dtype))
        return F.normalize(self.tower.encode_embedded(rows, ids).float(), dim=-1)

    def _lay_out(self) -> tuple[Tensor, Tensor]:
        """((C, L) ids, with a placeholder for each learned token; (C, M) where they stand)."""
        tokenizer = self.tower.tokenizer
        word, token = tokenizer.placeholder
        before = {"end": self.num_tokens, "middle": self.num_tokens // 2, "front": 0}[self.position]
        after = self.num_tokens - before
        texts = [
            " ".join([*[word] * before, name, *[word] * after]) + _CLOSE
            for name in self.class_names
        ]
        ids, too_long = tokenizer.measure(texts)
        for index, count in too_long.items():
            raise ConfigError(
                f"class {quote(self.class_names[index])} takes {count} tokens with "
                f"{self.num_tokens} of context, the text tower takes {ids.shape[1]}; shorten the "
                "name or lower num_tokens"
            )
        places = [_places((row == token).nonzero().flatten(), before, after) for row in ids]
        for name, place in zip(self.class_names, places, strict=True):
            if len(place) != self.num_tokens:
                raise ConfigError(
                    f"class {quote(name)}: the tokenizer joins the context with what is next to "
                    "it; take another position"
                )
        return ids, torch.stack(places)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedContext:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.tower.to(self.tokens.device)
        return self


def _places(found: Tensor, before: int, after: int) -> Tensor:
    """(M,) slots of the learned tokens: the first and last of a word that a name may hold as well.

    Fewer where there are not as many.

    Args:
        found: slots in which the placeholder occurs.
        before: learned tokens before the name.
        after: learned tokens after it.
    """
    return torch.cat([found[:before], found[before:][-after:]]) if after else found[:before]


def _embed_words(tower: TextTower, words: str) -> Tensor:
    """(M, W) fp32."""
    ids = tower.tokenizer.words(words)
    if len(ids) == 0:
        raise ConfigError(f"context.init {quote(words)} holds no word; leave it out")
    if not bool(tower.knows(ids).all()):
        raise ConfigError(f"context.init {quote(words)}: the text tower has not learned every word")
    return tower.embed(ids[None])[0].detach().float()


def _check_options(num_tokens: int, position: str, std: float, chunk: int | None) -> None:
    if num_tokens < 1:
        raise ConfigError(f"context.num_tokens {num_tokens}: at least 1 is needed")
    if position not in POSITIONS:
        known = ", ".join(POSITIONS)
        raise ConfigError(
            f"unknown context.position {quote(position)}{nearest(position, POSITIONS)} "
            f"(known: {known})"
        )
    if not (math.isfinite(std) and std > 0):
        raise ConfigError(f"context.std {std}: it must be positive")
    if chunk is not None and chunk < 1:
        raise ConfigError(f"context.chunk {chunk}: at least 1 class is needed")
