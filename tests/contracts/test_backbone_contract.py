"""What every backbone x prompt passes."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - the model must survive it, as loaders and launchers pickle

import pytest
import torch

from tests.contracts.kinds import (
    BY_INSERTION,
    KINDS,
    TOKEN_POOLED,
    WITH_PRE_NORM,
    images_for,
    is_timm,
    make,
    native_features,
)
from tests.oracle import vpt_features
from vpt.backbones import wrap_backbone
from vpt.models import PromptedBackbone
from vpt.prompts import NoPrompt, Prompt, TokenPrompt

LAYERS = {"shallow": (0,), "deep": None, "last": (2,), "gaps": (0, 2)}
kinds = pytest.mark.parametrize("kind", KINDS)


def token_prompt(native, layers=None, num_tokens=12, **options) -> TokenPrompt:
    torch.manual_seed(1)
    at = wrap_backbone(native).dimensions
    chosen = tuple(range(at.depth)) if layers is None else layers
    options = {"embed_dim": at.embed_dim, "patch_size": (8, 8), "init": "normal", **options}
    return TokenPrompt(num_tokens, chosen, std=1.0, **options).eval()


def prompted(native, prompt: Prompt, **options) -> PromptedBackbone:
    return PromptedBackbone(wrap_backbone(native), prompt, **options).eval()


def pooled(model: PromptedBackbone, images: torch.Tensor) -> torch.Tensor:
    return model(images).pooled


@kinds
@pytest.mark.parametrize("grad", [False, True])
def test_no_prompt_and_zero_tokens__equal_the_native_model__bit_for_bit(kind, grad):
    native = make(kind).requires_grad_(False)  # torch chooses kernels by it, even under no_grad
    images = images_for(native)
    with torch.set_grad_enabled(grad):
        expected = native_features(native, images)
        for prompt in (NoPrompt(), token_prompt(native, num_tokens=0)):
            assert torch.equal(pooled(prompted(native, prompt), images), expected)


@kinds
@pytest.mark.parametrize("layers", LAYERS)
def test_prompts__equal_the_papers_insertion__both_ways(kind, layers):
    native = make(kind)
    images = images_for(native)
    prompt = token_prompt(native, LAYERS[layers])
    rows = {layer: prompt.rows(layer) for layer in prompt.layers}
    with torch.no_grad():
        plain = pooled(prompted(native, NoPrompt()), images)
        expected = vpt_features(native, images, rows)
        scale = expected.abs().max()
        assert (expected - plain).abs().max() > 1e-2
        for insert in (False, True):
            found = pooled(prompted(native, prompt, insert=insert), images)
            assert (found - expected).abs().max() <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("kind", sorted(WITH_PRE_NORM))
@pytest.mark.parametrize("layers", ["shallow", "deep"])
def test_prompts_before_the_pre_norm__equal_the_papers_insertion__both_ways(kind, layers):
    native = make(kind)
    images = images_for(native)
    prompt = token_prompt(native, LAYERS[layers], placement="pre_norm")
    rows = {layer: prompt.rows(layer) for layer in prompt.layers}
    with torch.no_grad():
        after = vpt_features(native, images, rows)
        expected = vpt_features(native, images, rows, "pre_norm")
        assert (expected - after).abs().max() > 1e-3
        for insert in (False, True):
            found = pooled(prompted(native, prompt, insert=insert), images)
            assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


@kinds
def test_the_place_and_start_of_prompts__are_those_of_the_familys_papers(kind):
    at = wrap_backbone(make(kind)).dimensions
    expected = ("post_norm", "uniform") if is_timm(make(kind)) else ("pre_norm", "normal")
    assert (at.prompt_placement, at.prompt_init) == expected


@kinds
def test_gradients__of_context_and_insertion__agree(kind):
    native = make(kind)
    images = images_for(native)
    feature_dim = wrap_backbone(native).feature_dim
    target = torch.randn(2, feature_dim, generator=torch.Generator().manual_seed(3))

    def gradient(insert: bool) -> torch.Tensor:
        prompt = token_prompt(native)
        (pooled(prompted(native, prompt, insert=insert), images) * target).sum().backward()
        return prompt.tokens.grad

    by_context, by_insertion = gradient(False), gradient(True)
    assert (by_context - by_insertion).norm() <= 1e-4 * by_insertion.norm()
    assert by_insertion.abs().amax(dim=(1, 2)).min() > 0


@kinds
def test_known_blocks_take_context_and_others_go_by_insertion(kind):
    backbone = wrap_backbone(make(kind))
    expected = kind not in BY_INSERTION
    assert all(backbone.takes_context(index) == expected for index in range(backbone.depth))
    assert (backbone.pooled_tokens == 1) == (
        kind in TOKEN_POOLED or kind in {"res_post"} | BY_INSERTION
    )


@kinds
def test_an_image__does_not_depend_on_its_batch_neighbours(kind):
    native = make(kind)
    model = prompted(native, token_prompt(native))
    images, others = images_for(native, 3), images_for(native, 3, seed=9)
    others[0] = images[0]
    with torch.no_grad():
        one, among = pooled(model, images), pooled(model, others)
        alone = pooled(model, images[:1])
    assert torch.equal(one[0], among[0])
    assert torch.allclose(one[0], alone[0], atol=1e-5, rtol=1e-5)


@kinds
def test_prompt_dropout__masks_each_image_apart__and_both_ways_agree(kind):
    native = make(kind)
    images = images_for(native, 1).expand(2, -1, -1, -1)
    results = []
    for insert in (False, True):
        model = prompted(native, token_prompt(native, dropout=0.5), insert=insert).train()
        torch.manual_seed(5)
        with torch.no_grad():
            results.append(pooled(model, images))
    scale = max(1.0, results[1].abs().max())
    assert (results[0] - results[1]).abs().max() <= 1e-5 * scale
    assert (results[0][0] - results[0][1]).abs().max() > 1e-3


@kinds
def test_train__leaves_the_backbone_in_eval__and_its_weights_untouched(kind):
    native = make(kind)
    model = prompted(native, token_prompt(native)).train()
    assert not any(module.training for module in model.backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(model.prompt.parameters(), lr=1.0)
    for step in range(3):
        pooled(model, images_for(native, seed=step)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(before[n], t) for n, t in model.backbone.state_dict().items())


@kinds
def test_deepcopy_and_pickle__are_independent__and_compute_the_same(kind):
    native = make(kind)
    model = prompted(native, token_prompt(native))
    images = images_for(native)
    with torch.no_grad():
        expected = pooled(model, images)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        model.prompt.tokens.zero_()
        assert all(torch.equal(pooled(twin, images), expected) for twin in twins)


@kinds
def test_meta_device_and_bfloat16__run(kind):
    native = make(kind)
    model = prompted(native, token_prompt(native))
    images = images_for(native)
    with torch.no_grad():
        exact = pooled(model, images)
        low = pooled(copy.deepcopy(model).bfloat16(), images.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = pooled(model, images)
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()
    assert torch.nn.functional.cosine_similarity(mixed.float(), exact).min() > 0.95
    on_meta = copy.deepcopy(model).to("meta")(images.to("meta"))
    assert on_meta.pooled.shape == exact.shape


@kinds
def test_a_marked_patch__lands_in_its_own_cell(kind):
    native = make(kind)
    model = prompted(native, token_prompt(native))
    images = images_for(native, 1)
    backbone = model.backbone
    height, width = backbone.patch_size
    with torch.no_grad():
        embedded = backbone.embed(images)
        h, w = embedded.grid
        marked = images.clone()
        marked[..., height : 2 * height, 2 * width : 3 * width] += 1.0
        difference = (backbone.embed(marked).patches - embedded.patches).abs().sum(-1).view(h, w)
        features = model(images, need=("pooled", "patches", "prefix"), taps=(0,))
    assert (h, w) == backbone.grid == (images.shape[2] // height, images.shape[3] // width)
    assert difference.nonzero().tolist() == [[1, 2]]
    assert features.patches.shape == (1, h * w, backbone.embed_dim)
    assert features.prefix.shape == (1, backbone.num_prefix, backbone.embed_dim)
    assert features.taps[0].shape == features.patches.shape
    assert torch.allclose(features.pooled, pooled(model, images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        "test_vit",
        "siglip",
        "eva02",
        "dinov3",
        "eva_post_norm_rope",
        "clip_tok",
        "clip_attn_pool",
        "clip_custom",
        "clip_pe",
    ],
)
@pytest.mark.parametrize("layers", ["shallow", "deep"])
def test_compile__gives_one_full_graph(kind, layers):
    native = make(kind)
    model = prompted(native, token_prompt(native, LAYERS[layers]))
    images = images_for(native)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(images).pooled, pooled(model, images), atol=1e-5)


def test_a_head_that_reads_prompts__makes_the_last_layer_insert():
    native = make("test_vit")
    model = prompted(native, token_prompt(native))
    with torch.no_grad():
        features = model(images_for(native), need=("prompts",))
    assert features.prompts.shape == (2, 12, native.embed_dim)
    assert features.pooled is None
