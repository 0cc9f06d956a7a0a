"""What every head of texts passes on every tiny CLIP: numbers, learning, files, refusals."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch

from tests.text.models import CONTEXT_LENGTH, tiny_clip
from vpt.api import create_model, load_prompt, save_prompt
from vpt.backbones import wrap_backbone
from vpt.engine.prompt_file import read_prompt_file, read_prompt_header
from vpt.errors import ConfigError, PromptFileError
from vpt.models import Consistency
from vpt.structures import Batch
from vpt.text import TextTower, create_text_tower

NAMES = ["cat", "hot dog", "t-shirt"]
TEMPLATES = ["a photo of a {}.", "the {}"]
CONTEXT = {"num_tokens": 3}
KINDS = ("clip", "quickgelu", "siglip", "coca")
kinds = pytest.mark.parametrize("kind", KINDS)

HEADS = {
    "zero_shot": {"name": "zero_shot", "templates": TEMPLATES},
    "coop": {"name": "zero_shot", "templates": TEMPLATES, "context": CONTEXT},
    "coop_words": {"name": "zero_shot", "context": {"init": "a photo of a"}},
    "coop_each": {"name": "zero_shot", "context": {**CONTEXT, "class_specific": True}},
    "learn_scale": {"name": "zero_shot", "learn_scale": True},
    "linear_from_text": {"name": "linear_from_text", "templates": TEMPLATES},
}
PARAMETERS = {
    "zero_shot": lambda width, feature: 0,
    "coop": lambda width, feature: 3 * width,
    "coop_words": lambda width, feature: 4 * width,
    "coop_each": lambda width, feature: 3 * 3 * width,
    "learn_scale": lambda width, feature: 1,
    "linear_from_text": lambda width, feature: 3 * feature + 3,
}
heads = pytest.mark.parametrize("head", HEADS)


def towers(kind, seed=0):
    native, tokenizer = tiny_clip(kind, seed)
    return wrap_backbone(native), TextTower(native, tokenizer), native, tokenizer


def build(kind, head, prompt="none", seed=0, **options):
    backbone, text, *_ = towers(kind, seed)
    torch.manual_seed(1)
    given = {"class_names": NAMES, "text": text, **options}
    return create_model(backbone, prompt, num_classes=len(NAMES), head=HEADS[head], **given)


def images(count=3, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@kinds
def test_zero_shot__gives_open_clips_own_logits(kind):
    _, _, native, tokenizer = towers(kind)
    model = build(kind, "zero_shot").eval()
    weight = open_clip.build_zero_shot_classifier(native, tokenizer, NAMES, TEMPLATES)
    with torch.no_grad():
        feature = native.encode_image(images(), normalize=True)
        expected = native.logit_scale.exp() * feature @ weight
        if getattr(native, "logit_bias", None) is not None:
            expected = expected + native.logit_bias
        torch.testing.assert_close(model(images()), expected, atol=2e-5, rtol=1e-5)


@kinds
@heads
@pytest.mark.parametrize("prompt", ["none", "vpt_deep"])
def test_every_head_with_and_without_prompts__counts_learns_and_is_saved_exactly(
    kind, head, prompt, tmp_path
):
    backbone, text, *_ = towers(kind)
    model = build(kind, head, prompt)
    prompts = backbone.depth * 10 * backbone.embed_dim if prompt == "vpt_deep" else 0
    count = sum(p.numel() for p in model.trainable_parameters())
    assert count == prompts + PARAMETERS[head](text.width, text.feature_dim)
    names = {name for name, _ in model.trained_tensors()}
    assert take_steps(model, 2) == names
    path = tmp_path / "p.safetensors"
    save_prompt(model, path)
    header, tensors = read_prompt_file(path)
    assert tensors.keys() == names
    assert header.text is not None
    assert header.text.sha256 == text.sha256
    assert header.requires == ["text"]
    loaded = load_prompt(path, backbone, text=text)
    with torch.no_grad():
        assert torch.equal(loaded(images()), model.eval()(images()))


def take_steps(model, count):
    """Names of the tensors that had a gradient within some steps; none where none is trained."""
    parameters, moved = model.trainable_parameters(), set()
    if not parameters:
        return moved
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    labels = torch.tensor([0, 1, 2])
    for step in range(count):
        model.train().loss(Batch(images(seed=step), labels, labels))["loss"].backward()
        moved |= {
            n for n, t in model.trained_tensors() if t.grad is not None and t.grad.abs().max() > 0
        }
        optimizer.step()
        optimizer.zero_grad()
    return moved


@kinds
def test_training__leaves_both_towers_as_they_are(kind):
    backbone, text, *_ = towers(kind)
    before = [copy.deepcopy(module.state_dict()) for module in (backbone, text)]
    model = create_model(
        backbone, "vpt_deep", num_classes=3, head=HEADS["coop"], class_names=NAMES, text=text
    )
    take_steps(model, 3)
    for module, state in zip((backbone, text), before, strict=True):
        assert all(torch.equal(state[name], t) for name, t in module.state_dict().items())


def test_fixed_sentences__keep_no_text_tower():
    model = build("clip", "zero_shot", "vpt_deep")
    assert not any(isinstance(module, torch.nn.Embedding) for module in model.modules())


def test_prompts_in_a_clip__stand_before_the_pre_norm_and_start_as_maples__and_the_file_says_so(
    tmp_path,
):
    model = build("clip", "zero_shot", "vpt_deep")
    save_prompt(model, tmp_path / "p.safetensors")
    options = read_prompt_header(tmp_path / "p.safetensors").prompt
    assert (options["placement"], options["init"], options["std"]) == ("pre_norm", "normal", 0.02)


def test_start_values__do_not_depend_on_whether_the_towers_were_in_memory():
    tower = create_text_tower("bundled/glyph_clip")
    starts = []
    for text in (None, tower):
        torch.manual_seed(7)
        model = create_model(
            "bundled/glyph_clip", "vpt_deep", num_classes=3, head=HEADS["coop"],
            class_names=["one", "two", "six"], text=text,
        )  # fmt: skip
        starts.append({name: t.clone() for name, t in model.trained_tensors()})
    assert all(torch.equal(t, starts[1][name]) for name, t in starts[0].items())


# ------------------------------------------------------------------------------------ other classes


@pytest.mark.parametrize("head", ["zero_shot", "coop", "coop_words"])
def test_a_prompt_file__names_classes_that_it_was_not_trained_with(head, tmp_path):
    backbone, text, *_ = towers("clip")
    model = build("clip", head, "vpt_deep")
    take_steps(model, 2)
    save_prompt(model, tmp_path / "p.safetensors")
    others = ["hot dog", "kite", "cat", "lamp"]
    loaded = load_prompt(tmp_path / "p.safetensors", backbone, text=text, class_names=others)
    with torch.no_grad():
        own, new = model.eval()(images()), loaded(images())
    assert loaded.class_names == others
    torch.testing.assert_close(new[:, [2, 0]], own[:, [0, 1]], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("head", ["coop_each", "linear_from_text"])
def test_what_belongs_to_its_own_classes__refuses_others(head, tmp_path):
    backbone, text, *_ = towers("clip")
    save_prompt(build("clip", head), tmp_path / "p.safetensors")
    with pytest.raises(PromptFileError, match="cannot name others"):
        load_prompt(tmp_path / "p.safetensors", backbone, text=text, class_names=["kite"])


# ---------------------------------------------------------------------------------------- refusals


def test_a_prompt_file__of_another_text_tower__is_refused(tmp_path):
    backbone, *_ = towers("clip")
    save_prompt(build("clip", "zero_shot", "vpt_deep"), tmp_path / "p.safetensors")
    _, other, *_ = towers("clip", seed=1)
    with pytest.raises(PromptFileError, match="text tower with weights"):
        load_prompt(tmp_path / "p.safetensors", backbone, text=other)


def test_a_prompt_file__of_the_same_weights_with_another_activation__is_refused(tmp_path):
    model = build("clip", "zero_shot", "vpt_deep")
    save_prompt(model, tmp_path / "p.safetensors")
    native, tokenizer = tiny_clip("quickgelu")
    native.load_state_dict(tiny_clip("clip")[0].state_dict())
    with pytest.raises(PromptFileError, match=r"was trained with GELU, .* computes QuickGELU"):
        load_prompt(
            tmp_path / "p.safetensors",
            wrap_backbone(native),
            text=TextTower(native, tokenizer),
        )


def test_a_prompt_file__of_a_text_tower_with_another_activation__is_refused(tmp_path):
    backbone, text, *_ = towers("clip")
    save_prompt(build("clip", "coop"), tmp_path / "p.safetensors")
    native, tokenizer = tiny_clip("quickgelu")
    native.load_state_dict(tiny_clip("clip")[0].state_dict())
    other = TextTower(native, tokenizer)
    assert other.sha256 == text.sha256
    with pytest.raises(PromptFileError, match="another structure"):
        load_prompt(tmp_path / "p.safetensors", backbone, text=other)


def test_text_names__need_the_classes_that_they_are_of(tmp_path):
    backbone, text, *_ = towers("clip")
    save_prompt(build("clip", "zero_shot"), tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match="give both"):
        load_prompt(tmp_path / "p.safetensors", backbone, text=text, text_names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_names": None}, "needs class_names"),
        ({"class_names": ["cat", "", "dog"]}, "empty"),
        ({"class_names": ["cat", "cat", "dog"]}, "cat"),
        ({"class_names": ["cat", "dog"]}, "2 class_names for num_classes 3"),
        ({"text_names": ["cat", "w " * CONTEXT_LENGTH, "dog"]}, "tokens"),
        ({"text_names": ["cat", "dog"]}, "2 text_names for num_classes 3"),
        ({"head": {"name": "zero_shot", "templates": []}}, "no template"),
        ({"head": {"name": "zero_shot", "templates": ["{}"], "class_prompts": {}}}, "give one"),
        ({"head": {"name": "zero_shot", "templates": ["a photo."]}}, "a photo"),
        ({"head": {"name": "zero_shot", "templates": "openai_imagenett"}}, "openai_imagenet"),
        ({"head": {"name": "zero_shot", "class_prompts": {"cat": ["a cat"]}}}, "hot dog"),
        ({"head": {"name": "zero_shot", "class_prompts": "nowhere.json"}}, "nowhere.json"),
        ({"head": {"name": "zero_shot", "context": {"num_tokens": 30}}}, "tokens"),
        ({"head": {"name": "zero_shoot"}}, "zero_shot"),
    ],
)
def test_a_mistake_with_texts__is_one_line(options, says):
    backbone, text, *_ = towers("clip")
    given = {"head": HEADS["zero_shot"], "class_names": NAMES, "text": text, **options}
    with pytest.raises(ConfigError, match=says) as error:
        create_model(backbone, "none", num_classes=3, **given)
    assert "\n" not in str(error.value)


def test_a_head_of_texts__on_a_backbone_without_a_text_tower__is_refused():
    with pytest.raises(ConfigError, match="needs a text tower, which 'timm/test_vit"):
        create_model(
            "timm/test_vit",
            pretrained=False,
            num_classes=3,
            head="zero_shot",
            class_names=NAMES,
        )


# ------------------------------------------------------------------------ losses and probabilities


def test_consistency__sums_its_weighted_parts__and_is_zero_for_the_frozen_model():
    model = build("clip", "coop_words").train()
    batch = Batch(images(), torch.tensor([0, 1, 2]), torch.arange(3))
    weights = Consistency(image=10, text=25, logits=2)
    with torch.no_grad():
        losses = model.loss(batch, consistency=weights)
    parts = {name: float(t) for name, t in losses.items() if name.startswith("loss_")}
    assert parts.keys() == {"loss_class", "loss_image", "loss_text", "loss_logits"}
    assert float(losses["loss"]) == pytest.approx(sum(parts.values()), rel=1e-5)
    assert parts["loss_image"] == 0  # no visual prompt
    assert parts["loss_text"] < 1e-4  # the context starts as the template's own words
    assert parts["loss_logits"] < 1e-3
    prompted = build("clip", "zero_shot", "vpt_deep").train()
    moved = prompted.loss(batch, consistency=Consistency(image=10, logits=2))
    assert moved["loss_image"] > 0
    assert moved["loss_logits"] > 0
    moved["loss"].backward()
    assert prompted.prompt.tokens.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("head", "options", "weights", "says"),
    [
        ("zero_shot", {"tuning": "norm"}, Consistency(image=1), "frozen backbone"),
        ("linear_from_text", {}, Consistency(text=1), "learned context"),
        ("linear", {}, Consistency(image=1), "zero-shot one"),
    ],
)
def test_consistency__with_nothing_to_be_consistent_with__is_refused(head, options, weights, says):
    backbone, text, *_ = towers("clip")
    model = create_model(
        backbone, "vpt_deep", num_classes=3, head=HEADS.get(head, head), class_names=NAMES,
        text=text, **options,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=says):
        model.loss(Batch(images(), torch.arange(3), torch.arange(3)), consistency=weights)


def test_sigmoid_probabilities__need_a_model_with_a_bias():
    model = build("siglip", "zero_shot").eval()
    with torch.no_grad():
        expected = model(images()).sigmoid()
    assert torch.equal(model.predict(images(), probabilities="sigmoid"), expected)
    with pytest.raises(ConfigError, match="logit bias"):
        build("clip", "zero_shot").predict(images(), probabilities="sigmoid")
