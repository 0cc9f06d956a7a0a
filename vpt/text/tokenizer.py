"""An open_clip tokenizer, used through its public call alone, that never cuts a text in silence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vpt.errors import BackboneError, ConfigError

_PLENTY = 2
"""So many padding slots prove that nothing was cut: a special token may look like one of them."""

_PROBE_LENGTH = 32
_PROBES = (
    "",
    "A photo of 2 Cafés, no_1's best",
    "ＮＡÏＶＥ &amp; <b>日本語</b>",
    "!? it's {x}/e-mail",
)
_PLACEHOLDERS = ("X", "x", "the", "a")
_QUOTED = 60


def quote(text: str) -> str:
    """A text in quotes on one line, cut where it is long."""
    quoted = repr(text)
    return quoted if len(quoted) <= _QUOTED else f"{quoted[: _QUOTED - 4]}...{quoted[-1]}"


@dataclass(frozen=True)
class _Layout:
    """Where a tokenizer puts its padding.

    Attributes:
        pad: its id.
        tail: slots after it that are no padding (a class token at the very end).
        left: it comes before the text.
    """

    pad: int
    tail: int
    left: bool


class TextTokenizer:
    """Texts to rows of ids.

    Args:
        tokenizer: of open_clip, or any callable `(texts, context_length=L) -> (K, L)` that pads.
        context_length: L, of the text tower.
    """

    def __init__(self, tokenizer: Any, context_length: int):
        self._tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """(K, L) int64.

        Raises:
            ConfigError: a text is longer than L tokens; it would have been cut.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows, too_long = self.measure(texts)
        for index, count in too_long.items():
            raise ConfigError(
                f"text {quote(texts[index])} takes {count} tokens, the text tower takes "
                f"{self.context_length}; shorten it"
            )
        return rows

    def measure(self, texts: Sequence[str]) -> tuple[Tensor, dict[int, int]]:
        """(K, L) int64, and the token counts, by index, of those texts that were cut."""
        rows = self._rows(texts, self.context_length)
        full = (self._padding(rows) < _PLENTY).nonzero().flatten().tolist()
        counts = {index: self._count_cut(texts[index], rows[index]) for index in full}
        return rows, {index: count for index, count in counts.items() if count is not None}

    def words(self, text: str) -> Tensor:
        """(M,) int64: the ids of a text alone, without the tokens that mark its start and end."""
        self([text])
        rows = self._rows(["", text], self.context_length)
        empty, row = (self._without_padding(row, int(self._padding(row))) for row in rows)
        differ = (empty != row[: len(empty)]).nonzero().flatten().tolist()
        start = differ[0] if differ else len(empty)
        words: Tensor = row[start : start + len(row) - len(empty)]
        return words

    @cached_property
    def placeholder(self) -> tuple[str, int]:
        """A word that is always one token, and that token.

        Raises:
            BackboneError: the tokenizer has none of the words tried.
        """
        for word in _PLACEHOLDERS:
            rows = self._rows([" ".join([word] * count) for count in (1, 2, 3)], _PROBE_LENGTH)
            shrinks = self._padding(rows).diff().tolist() == [-1, -1]
            for token in set(rows[0].tolist()):
                if shrinks and (rows == token).sum(dim=1).tolist() == [1, 2, 3]:
                    return word, token
        raise BackboneError(
            f"the tokenizer has no single token for any of {', '.join(_PLACEHOLDERS)}; "
            "a learned context needs one to hold its places"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of what the tokenizer is and of how it reads a few difficult texts."""
        rows = self._rows(_PROBES, _PROBE_LENGTH)
        kind = f"{type(self._tokenizer).__module__}.{type(self._tokenizer).__qualname__}"
        return hashlib.sha256(f"{kind} {rows.tolist()}".encode()).hexdigest()

    def _rows(self, texts: Sequence[str], length: int) -> Tensor:
        if not texts:
            return torch.zeros(0, length, dtype=torch.long)
        try:
            rows = self._tokenizer(list(texts), context_length=length)
        except UnicodeError as error:
            raise ConfigError(f"a text is no valid Unicode: {error}") from error
        if tuple(rows.shape) != (len(texts), length):
            raise BackboneError(
                f"the tokenizer gave {tuple(rows.shape)} ids for {len(texts)} texts of context "
                f"length {length}; it must pad them to that length"
            )
        return torch.as_tensor(rows).long()

    @cached_property
    def _layout(self) -> _Layout:
        """Read off an empty text, which is nearly all padding."""
        row = self._rows([""], _PROBE_LENGTH)[0].tolist()
        pad = Counter(row).most_common(1)[0][0]
        tail = next((place for place, token in enumerate(reversed(row)) if token == pad), 0)
        return _Layout(pad, tail, left=tail > 0 and row[0] == pad)

    def _padding(self, rows: Tensor) -> Tensor:
        """(K,) slots (or, for one row, ()) that padding takes in (K, L)."""
        is_pad = rows == self._layout.pad
        if not self._layout.left:
            is_pad = is_pad[..., : rows.shape[-1] - self._layout.tail].flip(-1)
        return is_pad.int().cumprod(dim=-1).sum(dim=-1)

    def _count_cut(self, text: str, row: Tensor) -> int | None:
        """The tokens of a text of which `row` is only a part; None where it is all."""
        length = len(row)
        while True:
            length *= 2
            long = self._rows([text], length)[0]
            padding = int(self._padding(long))
            if padding >= _PLENTY:
                break
        count, surplus = length - padding, length - len(row)
        if padding >= surplus and torch.equal(self._without_padding(long, surplus), row):
            return None
        return max(count, len(row) + 1)

    def _without_padding(self, row: Tensor, surplus: int) -> Tensor:
        if self._layout.left:
            return row[surplus:]
        end = len(row) - self._layout.tail
        return torch.cat([row[: end - surplus], row[end:]])
