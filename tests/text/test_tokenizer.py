import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.models import CONTEXT_LENGTH, tiny_tokenizer
from vpt.errors import BackboneError, ConfigError
from vpt.text.tokenizer import TextTokenizer

MODES = ("bert", "stripped", "t5", "bare", "clips", "left")
LENGTH = 10


class WordTokenizer:
    """One id a word, in the ways in which the tokenizers of open_clip's models mark and pad."""

    def __init__(self, mode):
        self.mode = mode

    def __call__(self, texts, context_length):
        return torch.tensor([self.row(text.split(), context_length) for text in texts])

    def row(self, words, length):
        pad = 1 if self.mode == "t5" else 0
        before, after = {
            "bert": ([101], [102]),
            "stripped": ([101], [0]),  # CLIPA: its end token is made padding
            "t5": ([], [1]),  # SigLIP: end and padding are one id
            "bare": ([], []),
            "clips": ([101], [102]),
            "left": ([101], [102]),
        }[self.mode]
        last = [103] if self.mode == "clips" else []
        room = length - len(before) - len(after) - len(last)
        ids = before + [200 + len(word) for word in words[:room]] + after
        padding = [pad] * (length - len(ids) - len(last))
        return padding + ids if self.mode == "left" else ids + padding + last

    def marks(self):
        return {"bert": 2, "stripped": 2, "t5": 1, "bare": 0, "clips": 3, "left": 2}[self.mode]


@settings(deadline=None)
@given(mode=st.sampled_from(MODES), count=st.integers(0, 45))
def test_text_tokenizer__any_length__refused_exactly_when_words_would_be_lost(mode, count):
    foreign = WordTokenizer(mode)
    tokenizer = TextTokenizer(foreign, LENGTH)
    text = " ".join(["abc"] * count)
    rows, too_long = tokenizer.measure(["a b", text])
    assert torch.equal(rows, foreign(["a b", text], LENGTH))
    if count + foreign.marks() <= LENGTH:
        assert too_long == {}
    else:
        # An end token that looks like padding is not counted.
        uncounted = mode in ("stripped", "t5")
        assert too_long == {1: max(LENGTH + 1, count + foreign.marks() - uncounted)}


@settings(deadline=None)
@given(st.text(max_size=60))
def test_text_tokenizer__any_text_on_bpe__same_ids_or_refused(text):
    foreign = tiny_tokenizer()
    tokenizer = TextTokenizer(foreign, CONTEXT_LENGTH)
    fits = len(foreign.encode(text)) + 2 <= CONTEXT_LENGTH
    if fits:
        assert torch.equal(tokenizer(text), foreign([text], CONTEXT_LENGTH))
    else:
        with pytest.raises(ConfigError) as caught:
            tokenizer(text)
        assert len(str(caught.value).splitlines()) == 1
        assert f"takes {len(foreign.encode(text)) + 2} tokens" in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_words__any_marks_and_padding__ids_of_the_words_alone(mode):
    tokenizer = TextTokenizer(WordTokenizer(mode), LENGTH)
    assert tokenizer.words("a photo of a").tolist() == [201, 205, 202, 201]
    assert tokenizer.words("").tolist() == []


@pytest.mark.parametrize("mode", MODES)
def test_placeholder__any_tokenizer__one_token_a_word(mode):
    assert TextTokenizer(WordTokenizer(mode), LENGTH).placeholder == ("X", 201)


def test_placeholder__of_letters__refused():
    def letters(texts, context_length):
        rows = [[ord(letter) for letter in text] for text in texts]
        return torch.tensor([(row + [0] * context_length)[:context_length] for row in rows])

    with pytest.raises(BackboneError, match="no single token"):
        _ = TextTokenizer(letters, LENGTH).placeholder


def test_text_tokenizer__texts__int64_rows():
    tokenizer = TextTokenizer(tiny_tokenizer(), CONTEXT_LENGTH)
    assert tokenizer([]).shape == (0, CONTEXT_LENGTH)
    assert tokenizer(["a", "b"]).dtype == torch.int64
    assert torch.equal(tokenizer("a"), tokenizer(["a"]))


def test_text_tokenizer__that_does_not_pad__refused():
    def unpadded(texts, context_length):
        del context_length
        return torch.zeros(len(texts), 3, dtype=torch.long)

    with pytest.raises(BackboneError, match="must pad"):
        TextTokenizer(unpadded, LENGTH)("a")


def test_fingerprint__other_cleaning_or_class__differs():
    tokenizers = [tiny_tokenizer(), tiny_tokenizer("canonicalize"), *map(WordTokenizer, MODES[:3])]
    prints = [TextTokenizer(each, LENGTH).fingerprint for each in tokenizers]
    assert len(set(prints)) == len(prints)
    assert TextTokenizer(tiny_tokenizer(), 7).fingerprint == prints[0]
