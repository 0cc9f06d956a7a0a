import copy
import io
import pickle  # noqa: TID251 (what multiprocessing sends)
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.text.models import EMBED_DIM, KINDS, WIDTH, tiny_clip, tiny_tokenizer
from vpt.errors import BackboneError, ConfigError
from vpt.text import LearnedContext, TextTower

NAMES = ["tench", "X-ray", "great white shark", "x"]
TYPED = {"end": "a photo of a {}.", "middle": "a photo {} of a.", "front": "{} a photo of a."}


def tower_of(kind="clip"):
    return TextTower(*tiny_clip(kind))


@pytest.fixture(scope="module")
def tower():
    return tower_of()


@pytest.fixture
def fresh_tower():
    return tower_of()


def typed(tower, sentence, names=NAMES):
    tokens = tower.tokenize([sentence.format(name) for name in names])
    return F.normalize(tower.encode(tokens), dim=-1)


def refused(call, match, error=ConfigError):
    with pytest.raises(error, match=match) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("position", TYPED)
@pytest.mark.parametrize("kind", KINDS)
def test_learned_context__of_typed_words__features_of_the_typed_sentence(kind, position):
    tower = tower_of(kind)
    context = LearnedContext(tower, NAMES, position=position, init="a photo of a")
    assert context.num_tokens == 4
    features = context()
    assert features.shape == (len(NAMES), EMBED_DIM)
    torch.testing.assert_close(features, typed(tower, TYPED[position]), atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(["x", "X x", "ox", "x.", "tench", "X-ray x"]), min_size=1),
    words=st.lists(st.sampled_from(["x", "a", "photo", "of", "the"]), min_size=1, max_size=5),
    position=st.sampled_from(list(TYPED)),
)
def test_learned_context__names_that_hold_the_placeholder__still_the_typed_sentence(
    tower, names, words, position
):
    names = list(dict.fromkeys(names))
    context = LearnedContext(tower, names, position=position, init=" ".join(words))
    before = {"end": len(words), "middle": len(words) // 2, "front": 0}[position]
    sentence = " ".join([*words[:before], "{}", *words[before:]]) + "."
    torch.testing.assert_close(context(), typed(tower, sentence, names), atol=1e-6, rtol=0)


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_learned_context__loss__gradient_reaches_every_token_and_no_tensor_of_the_tower(
    kind, class_specific
):
    tower = tower_of(kind)
    context = LearnedContext(tower, NAMES, num_tokens=3, class_specific=class_specific)
    assert context.tokens.shape == ((len(NAMES), 3) if class_specific else (3,)) + (tower.width,)
    before = copy.deepcopy(tower.state_dict())
    optimizer = torch.optim.SGD(context.parameters(), lr=0.1)
    for _ in range(2):
        loss = -(context() @ torch.ones(EMBED_DIM)).sum()
        optimizer.zero_grad()
        loss.backward()
        assert (context.tokens.grad.abs().sum(dim=-1) > 0).all()
        optimizer.step()
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert -(context() @ torch.ones(EMBED_DIM)).sum() < loss


def test_learned_context__features__of_length_one_and_moved_by_the_tokens(tower):
    context = LearnedContext(tower, NAMES, num_tokens=4)
    features = context()
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(NAMES)))
    with torch.no_grad():
        context.tokens.normal_()
    assert (context() - features).abs().max() > 1e-2


def test_learned_context__new__normal_numbers_of_the_std(tower):
    context = LearnedContext(tower, NAMES, num_tokens=18, class_specific=True, std=0.5)
    assert 0.4 < context.tokens.std() < 0.6
    assert LearnedContext(tower, NAMES).tokens.shape == (16, WIDTH)


def test_learned_context__state__its_tokens_alone(tower):
    context = LearnedContext(tower, NAMES)
    assert list(context.state_dict()) == ["tokens"]
    assert [name for name, _ in context.named_parameters()] == ["tokens"]
    assert list(context.children()) == []


def test_learned_context__of_a_generator__same_tokens_whatever_the_global_one(tower):
    def tokens(seed):
        random = torch.Generator().manual_seed(seed)
        return LearnedContext(tower, NAMES, num_tokens=4, generator=random).tokens

    torch.manual_seed(1)
    first = tokens(0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(tokens(0), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(tokens(1), first)


def test_learned_context__its_state__around_other_names(tower):
    context = LearnedContext(tower, NAMES, num_tokens=4)
    other = LearnedContext(tower, ["zebra", "tench"], num_tokens=4)
    other.load_state_dict(context.state_dict())
    torch.testing.assert_close(other()[1], context()[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("class_specific", [False, True])
def test_learned_context__in_chunks__same_features_and_gradients(tower, class_specific):
    whole = LearnedContext(tower, NAMES, num_tokens=4, class_specific=class_specific)
    chunked = LearnedContext(tower, NAMES, num_tokens=4, class_specific=class_specific, chunk=3)
    chunked.load_state_dict(whole.state_dict())
    target = torch.randn(len(NAMES), EMBED_DIM)
    gradients = [
        torch.autograd.grad((context() * target).sum(), context.tokens)[0]
        for context in (whole, chunked)
    ]
    torch.testing.assert_close(chunked(), whole(), atol=1e-6, rtol=0)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_learned_context__of_another_dtype__leaves_its_tower_as_it_is(tower, dtype):
    context, other = (LearnedContext(tower, NAMES, init="a photo of a") for _ in range(2))
    features = other()
    context.to(dtype)
    assert context.tokens.dtype == dtype
    assert tower.dtype == other.tokens.dtype == torch.float32
    assert torch.equal(other(), features)
    assert context().dtype == torch.float32
    torch.testing.assert_close(context(), features, atol=1e-2, rtol=0)


def test_learned_context__moved__takes_its_tower_along(fresh_tower):
    context = LearnedContext(fresh_tower, NAMES, num_tokens=4)
    nn.Sequential(context).to("meta")
    assert fresh_tower.device.type == "meta"
    assert context().device.type == "meta"


def test_learned_context__deepcopy_and_pickle__independent_and_equal(tower):
    context = LearnedContext(tower, NAMES, num_tokens=4)
    features = context()
    pickled = pickle.load(io.BytesIO(pickle.dumps(context)))
    for other in (copy.deepcopy(context), pickled):
        assert torch.equal(other(), features)
        with torch.no_grad():
            other.tokens.zero_()
            next(other.tower.parameters()).zero_()
    assert torch.equal(context(), features)


def test_learned_context__under_autocast__close_to_fp32(tower):
    context = LearnedContext(tower, NAMES, num_tokens=4)
    with torch.autocast("cpu", torch.bfloat16):
        features = context()
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, context(), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_tokens": 0}, "num_tokens 0"),
        ({"position": "ende"}, "did you mean 'end'"),
        ({"std": 0.0}, "std 0.0"),
        ({"std": float("nan")}, "std nan"),
        ({"chunk": 0}, "chunk 0"),
        ({"init": ""}, "init '' holds no word"),
        ({"init": "word " * 30}, "takes 32 tokens"),
        ({"num_tokens": 21}, "class 'tench' takes 26 tokens with 21 of context, .* takes 24"),
        ({"num_tokens": 19}, "class 'X-ray' takes 25 tokens"),
        ({"num_tokens": 100}, "class 'tench' takes 105 tokens"),
    ],
)
def test_learned_context__bad_option__one_line(tower, options, match):
    refused(lambda: LearnedContext(tower, NAMES, **options), match)


def test_learned_context__tokenizer_that_joins_words_and_marks__one_line():
    def joining(texts, context_length):
        return tiny_tokenizer()([text.replace("X.", "Xabc") for text in texts], context_length)

    tower = TextTower(tiny_clip("clip")[0], joining)
    refused(lambda: LearnedContext(tower, NAMES, position="front"), "'tench': the tokenizer joins")
    assert LearnedContext(tower, NAMES)().shape == (len(NAMES), EMBED_DIM)


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", " "], "cat"])
def test_learned_context__bad_names__one_line(tower, names):
    refused(lambda: LearnedContext(tower, names), "names|name|same text")


def test_learned_context__tower_without_embeddings__refused():
    model, tokenizer = tiny_clip("siglip")
    model.text = nn.Linear(2, 2)
    model.text.config = SimpleNamespace(hidden_size=2)
    model.text.output_dim = EMBED_DIM
    tower = TextTower(model, tokenizer, "open_clip/roberta")
    refused(lambda: LearnedContext(tower, NAMES), "'open_clip/roberta'", BackboneError)
