"""Heads whose classes are texts: what they compute, what they train, when they encode."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from vpt.errors import ConfigError
from vpt.heads import LinearFromTextHead, TextParts, ZeroShotHead, build_head
from vpt.structures import Dimensions, Features

CLASSES, WIDTH = 3, 8
AT = Dimensions(
    embed_dim=16,
    feature_dim=WIDTH,
    depth=2,
    patch_size=(8, 8),
    image_size=(32, 32),
    num_prefix=1,
)


class Words(nn.Module):
    """A learned context that counts how often it is encoded."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(CLASSES, WIDTH))
        self.count = 0

    def forward(self):
        self.count += 1
        return F.normalize(self.tokens, dim=-1)


def parts(context=None, bias=None) -> TextParts:
    torch.manual_seed(0)
    weight = F.normalize(torch.randn(CLASSES, WIDTH), dim=-1)
    return TextParts(weight, 50.0, bias, context)


def features(seed=1) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features((4, 4), pooled=torch.randn(5, WIDTH, generator=generator))


def zero_shot(context=None, bias=None, **options) -> ZeroShotHead:
    return ZeroShotHead({"name": "zero_shot"}, CLASSES, parts(context, bias), **options).eval()


@pytest.mark.parametrize("bias", [None, -10.0])
def test_logits__are_the_scaled_cosine_and_the_models_bias(bias):
    given, images = parts(bias=bias), features().pooled
    expected = 50.0 * F.cosine_similarity(images[:, None], given.weight[None], dim=-1)
    found = zero_shot(bias=bias)(features())
    torch.testing.assert_close(found, expected + (bias or 0.0), atol=1e-5, rtol=1e-5)


def test_logits__stay_in_fp32_under_autocast():
    head = zero_shot()
    with torch.autocast("cpu", torch.bfloat16):
        low = head(features())
    assert torch.equal(low, head(features()))


@pytest.mark.parametrize("bias", [None, -10.0])
def test_linear_from_text__untrained__is_the_zero_shot_classifier(bias):
    head = LinearFromTextHead({"name": "linear_from_text"}, CLASSES, parts(bias=bias))
    assert torch.equal(head(features()), zero_shot(bias=bias)(features()))
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias"}
    assert sum(p.numel() for p in head.parameters()) == CLASSES * WIDTH + CLASSES


def test_fixed_sentences__train_nothing_and_save_nothing():
    head = zero_shot()
    assert not list(head.parameters())
    assert not head.state_dict()


def test_learn_scale__trains_one_number_that_starts_as_the_models():
    head = zero_shot(learn_scale=True)
    torch.testing.assert_close(head(features()), zero_shot()(features()))
    head(features()).square().sum().backward()
    assert [name for name, _ in head.named_parameters()] == ["log_scale"]
    assert head.log_scale.grad != 0


def test_a_learned_context__is_encoded_each_step_in_training__and_once_per_evaluation():
    words = Words()
    head = zero_shot(words).train()
    for _ in range(3):
        head(features()).sum().backward()
    assert words.count == 3
    assert words.tokens.grad.abs().sum() > 0
    head.eval()
    with torch.no_grad():
        for _ in range(3):
            head(features())
    assert words.count == 4


def test_encoded_texts__follow_a_context_that_changes_in_evaluation():
    head = zero_shot(Words())
    with torch.no_grad():
        before = head(features())
        head.context.tokens.copy_(head.context.tokens.roll(1, 0))
        assert torch.equal(head(features()), before.roll(1, 1))
        head.context.tokens.data = head.context.tokens.data.roll(1, 0)
        assert torch.equal(head(features()), before.roll(2, 1))
    with torch.inference_mode():
        assert torch.equal(head(features()), before.roll(2, 1))


def test_a_copy__has_a_context_of_its_own():
    head = zero_shot(Words())
    with torch.no_grad():
        before = head(features())
        twin = copy.deepcopy(head)
        twin.context.tokens.zero_()
        assert torch.equal(head(features()), before)
        assert not torch.equal(twin(features()), before)


def test_the_teacher__is_the_frozen_texts__whatever_is_learned():
    pooled = features().pooled
    expected = zero_shot()(features())
    assert torch.equal(zero_shot(Words()).teacher_logits(pooled), expected)
    head = LinearFromTextHead({"name": "linear_from_text"}, CLASSES, parts())
    with torch.no_grad():
        head.weight.zero_()
    assert torch.equal(head.teacher_logits(pooled), expected)


@pytest.mark.parametrize("name", ["zero_shot", "linear_from_text"])
def test_without_texts__a_head_of_texts_says_what_it_needs(name):
    options = {"name": name, "templates": None, "class_prompts": None}
    options |= {"context": None, "learn_scale": False} if name == "zero_shot" else {}
    with pytest.raises(ConfigError, match="needs a text tower"):
        build_head(options, AT, CLASSES)


def test_texts_of_another_width__are_refused():
    options = {"name": "linear_from_text", "templates": None, "class_prompts": None}
    text = TextParts(torch.ones(CLASSES, WIDTH + 1), 1.0)
    with pytest.raises(ConfigError, match="9 features, images 8"):
        build_head(options, AT, CLASSES, text)
