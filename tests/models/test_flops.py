"""The count of FLOPs: torch's own of a real step, and the sums written out."""

from __future__ import annotations

import contextlib

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.contracts import test_clip_contract as clip
from tests.contracts.kinds import KINDS, images_for, make
from tests.contracts.test_model_contract import CASES, TUNINGS, VARIANTS, build
from tests.models.detectors import images_of, make_detector
from vpt.errors import ConfigError
from vpt.models import Consistency, Flops, count_flops
from vpt.structures import Batch

BATCH = 4


@contextlib.contextmanager
def counted_by_torch():
    """torch counts operations that it knows as matrix products; fused attention is none of them.

    So attention is computed by the kernel that is written out, and torch's fused module of
    attention and projections is off. Then both counts are of the same operations, and are equal.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def real(model, images, loss=lambda model, images: model(images).sum()):
    """FLOPs per image of a real forward in evaluation, and of a real step."""
    trained = model.trainable_parameters()
    model.eval().requires_grad_(False)  # torch's counter stumbles over views of what is trained
    with torch.no_grad(), counted_by_torch() as forward:
        model.outputs(images)
    for parameter in trained:
        parameter.requires_grad_(True)
    model.train()
    with counted_by_torch() as step:
        end = loss(model, images)
        if end.requires_grad:
            end.backward()
    batch = len(images)
    return Flops(round(forward.get_total_flops() / batch), round(step.get_total_flops() / batch))


def assert_equal_counts(kind, prompt, tuning="frozen"):
    native = make(kind)
    model, images = build(native, prompt, tuning), images_for(native, BATCH)
    found = count_flops(model, BATCH)
    assert found == real(model, images)
    assert found.step > found.forward > 0


@pytest.mark.parametrize(
    "prompt",
    ["vpt_deep", *(pytest.param(p, marks=pytest.mark.slow) for p in ("none", "vpt_shallow"))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_count__of_every_kind_of_backbone__is_that_of_a_real_step(kind, prompt):
    assert_equal_counts(kind, CASES[prompt][0])


@pytest.mark.parametrize("kind", ["rope_grouped", "clip_tok"])
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"none", "vpt_deep", "vpt_shallow"}))
def test_the_count__of_every_prompt__is_that_of_a_real_step(name, kind):
    assert_equal_counts(kind, CASES[name][0])


@pytest.mark.parametrize("kind", ["eva02"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_count__of_every_variant__is_that_of_a_real_step(name, kind):
    assert_equal_counts(kind, VARIANTS[name][0])


@pytest.mark.parametrize("kind", ["dinov3", "clip_tok"])
@pytest.mark.parametrize("tuning", sorted(set(TUNINGS) - {"frozen"}))
@pytest.mark.parametrize("prompt", ["none", "vpt_deep", "pixels"])
def test_the_count__of_every_tuning__is_that_of_a_real_step(prompt, tuning, kind):
    assert_equal_counts(kind, CASES[prompt][0], tuning)


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
@pytest.mark.parametrize(
    ("prompt", "tuning"), [("none", "frozen"), ("vpt_deep", "frozen"), ("none", "last:1")]
)
def test_the_count__of_a_detector__is_that_of_real_layers_and_their_backward(prompt, tuning, head):
    detector = make_detector(prompt=prompt, head=head, tuning=tuning, size=(64, 64))

    def loss(model, images):
        return torch.stack([output.sum() for output in model.outputs(images)]).sum()

    assert count_flops(detector, 2) == real(detector, images_of(detector), loss)


@pytest.mark.parametrize("prompt", ["none", "vpt_deep"])
@pytest.mark.parametrize("head", clip.HEADS)
def test_the_count__of_a_head_of_texts__is_that_of_a_real_step(head, prompt):
    model = clip.build("clip", head, prompt)
    found = count_flops(model, 3)
    assert found == real(model, clip.images())
    if head.startswith("coop"):
        without = count_flops(clip.build("clip", "zero_shot", prompt), 3)
        assert found.forward > without.forward  # the texts are encoded


def test_the_count__of_consistency__holds_the_frozen_models_forward():
    model = clip.build("clip", "coop", "vpt_deep")
    weights = Consistency(image=1.0, text=1.0, logits=1.0)

    def loss(model, images):
        labels = torch.zeros(len(images), dtype=torch.int64)
        return model.loss(Batch(images, labels, labels), consistency=weights)["loss"]

    found = count_flops(model, 3, consistency=weights)
    assert found == real(model, clip.images(), loss)
    assert found.step > count_flops(model, 3).step


# -------------------------------------------------------------------------- the sums, written out


class PlainViT:
    """Multiply-adds times two of a plain ViT's parts, S tokens in, Q of them kept."""

    def __init__(self, native, classes, batch):
        self.width, self.hidden = native.embed_dim, native.blocks[0].mlp.fc1.out_features
        self.depth, self.patches = len(native.blocks), native.patch_embed.num_patches
        self.tokens = self.patches + 1
        self.classes, self.batch = classes, batch

    @property
    def embed(self):
        return 2 * self.patches * self.width * 3 * 8 * 8

    @property
    def head(self):
        return 2 * self.width * self.classes

    def queries(self, count):
        return 2 * count * self.width**2

    def keys_values(self, count):
        return 2 * count * 2 * self.width**2

    def product(self, queries, keys):
        """One of the two of attention, over all heads."""
        return 2 * queries * keys * self.width

    def rest(self, count):
        """The output projection and the MLP."""
        return 2 * count * (self.width**2 + 2 * self.width * self.hidden)

    def block(self, queries, sequence, keys):
        made = self.queries(queries) + self.keys_values(sequence) + self.rest(queries)
        return made + 2 * self.product(queries, keys)


def vit(prompt, tuning="frozen"):
    native = make("test_vit")
    return build(native, prompt, tuning), PlainViT(native, 5, BATCH)


def test_a_linear_probe__costs_a_forward_and_the_heads_gradient():
    model, sums = vit("none")
    tokens = sums.tokens
    forward = sums.embed + sums.depth * sums.block(tokens, tokens, tokens) + sums.head
    assert count_flops(model, BATCH) == Flops(forward, forward + sums.head)


def test_full_fine_tuning__costs_three_forwards__but_for_the_images_gradient():
    model, sums = vit("none", "full")
    forward, step = count_flops(model, BATCH).forward, count_flops(model, BATCH).step
    assert step == 3 * forward - sums.embed


def test_prompts_as_context__cost_keys_and_values_once_for_the_batch():
    model, sums = vit({"name": "vpt_deep", "num_tokens": 7})
    tokens, keys = sums.tokens, sums.tokens + 7  # 32: a CPU pads none
    rows = sums.depth * sums.keys_values(7) / BATCH
    inner, last = sums.block(tokens, tokens, keys), sums.block(1, tokens, keys)
    forward = sums.embed + (sums.depth - 1) * inner + last + rows + sums.head
    # Backwards every product of two tensors with gradients is two, that with a frozen weight one;
    # into block 0 nothing with a gradient comes but the prompt's keys and values.
    first = sums.rest(tokens) + 3 * sums.product(tokens, keys)
    middle = inner + 2 * sums.product(tokens, keys)
    ending = last + 2 * sums.product(1, keys)
    backward = first + (sums.depth - 2) * middle + ending + rows + 2 * sums.head
    assert count_flops(model, BATCH) == Flops(round(forward), round(forward + backward))


def test_inserted_prompts__cost_what_any_token_costs():
    model, sums = vit({"name": "vpt_deep", "num_tokens": 3})
    longer = sums.tokens + 3
    block = sums.block(longer, longer, longer)
    forward = sums.embed + sums.depth * block + sums.head
    backward = sums.depth * (block + 2 * sums.product(longer, longer)) + 2 * sums.head
    assert count_flops(model, BATCH, insert=True) == Flops(forward, forward + backward)


def test_a_shorter_way__is_not_taken_where_prompts_flow():
    model, _ = vit({"name": "vpt_shallow", "num_tokens": 3})
    by_itself, inserted = (count_flops(model, BATCH, insert=way) for way in (False, True))
    assert by_itself.forward < inserted.forward  # the last block keeps one token
    deep, _ = vit({"name": "vpt_deep", "num_tokens": 3})
    assert count_flops(deep, BATCH, insert=False).step < by_itself.step


def test_vit_b_16__has_the_published_count():
    """17.6 thousand million multiply-adds (DeiT-B, Touvron et al. 2021), here two each."""
    with torch.device("meta"):
        model = build(VisionTransformer(), "none")
    found = count_flops(model, 1).forward
    assert found / 2 == pytest.approx(17.6e9, rel=0.005)


def test_a_batch_of_nothing__is_refused():
    with pytest.raises(ConfigError, match=r"batch_size 0: .* 1 or more"):
        count_flops(make_detector(), 0)


# ---------------------------------------------------------------------------------- side effects


@pytest.mark.parametrize("training", [True, False])
def test_counting__leaves_model_gradients_and_random_numbers_alone(training):
    model = build(make("test_vit"), {"name": "vpt_deep", "num_tokens": 3, "dropout": 0.5})
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    count_flops(model, 2, insert=True)
    assert torch.equal(torch.rand(4), expected)
    assert model.training is training
    assert model.backbone.training is False
    assert model.prompted.insert is False
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_counting__a_learned_context__leaves_no_shapes_behind():
    model = clip.build("clip", "coop").eval()
    with torch.no_grad():
        expected = model(clip.images())
        count_flops(model, 3)
        assert torch.equal(model(clip.images()), expected)
