"""What every prompt x backbone x tuning passes: counts, gradients, freezing, files."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.contracts.kinds import images_for, is_timm, make
from vpt.api import create_model, list_prompts, load_prompt, save_prompt
from vpt.backbones import create_backbone, wrap_backbone
from vpt.backbones.base import weights_hash
from vpt.backbones.bundled.glyph_vit import WEIGHTS
from vpt.engine.prompt_file import read_prompt_file, read_prompt_header
from vpt.errors import BackboneError, ConfigError, PromptFileError
from vpt.models import start_from_patches
from vpt.prompts import PixelPatch, PixelPrompt, Prompt
from vpt.prompts.initializers import paper_uniform_bound
from vpt.structures import Batch, Dimensions, Inside

CLASSES = 5
TUNINGS = ("frozen", "bias", "norm", "last:1", "full")

Formula = Callable[[Dimensions], int]


def frame(at, width=4):
    height, total_width = at.image_size
    return 3 * (2 * width * total_width + 2 * width * (height - 2 * width))


def width_of(at, projection):
    """Of a projection's output: with grouped queries there are fewer keys and values."""
    count = at.attention.heads if projection == "query" else at.attention.kv_heads
    return count * at.attention.head_dim


CASES: dict[str, tuple[Any, Formula]] = {
    "none": ("none", lambda at: 0),
    "vpt_deep": ({"name": "vpt_deep", "num_tokens": 3}, lambda at: at.depth * 3 * at.embed_dim),
    "vpt_shallow": ({"name": "vpt_shallow", "num_tokens": 3}, lambda at: 3 * at.embed_dim),
    "vpt_gated": (
        {"name": "vpt_gated", "num_tokens": 3},
        lambda at: 3 * at.embed_dim + at.depth - 1,
    ),
    "adapter": (
        {"name": "adapter", "width": 16},  # of three units all may be dead for four images
        lambda at: at.depth * (2 * at.embed_dim * 16 + 16 + at.embed_dim),
    ),
    "kv": (
        {"name": "kv", "num_tokens": 3},
        lambda at: at.depth * 3 * width_of(at, "query"),
    ),
    "kv_bias": (  # keys' alone get rounding for a gradient, see the test of it
        {"name": "kv_bias", "targets": ["value"]},
        lambda at: at.depth * width_of(at, "value"),
    ),
    "lora": (
        {"name": "lora", "rank": 2},
        lambda at: sum(
            at.depth * 2 * (at.embed_dim + width_of(at, name)) for name in ("query", "value")
        ),
    ),
    "pixels": ({"name": "pixels", "width": 4}, frame),
}
"""Each registered method: options, and the number of its parameters written out."""

VARIANTS: dict[str, tuple[Any, Formula]] = {
    "shared": (
        {"name": "vpt_deep", "num_tokens": 3, "shared": True},
        lambda at: 3 * at.embed_dim,
    ),
    "projection": (
        {"name": "vpt_deep", "num_tokens": 3, "projection": 6},
        lambda at: at.depth * 3 * 6 + 6 * at.embed_dim + at.embed_dim,
    ),
    "dropout": (
        {"name": "vpt_deep", "num_tokens": 3, "dropout": 0.3},
        lambda at: at.depth * 3 * at.embed_dim,
    ),
    "first_2": (
        {"name": "vpt_deep", "num_tokens": 3, "layers": {"first": 2}},
        lambda at: 2 * 3 * at.embed_dim,
    ),
    "last_1": (
        {"name": "vpt_deep", "num_tokens": 3, "layers": {"last": 1}},
        lambda at: 3 * at.embed_dim,
    ),
    "list": (
        {"name": "vpt_deep", "num_tokens": 3, "layers": [0, 2]},
        lambda at: 2 * 3 * at.embed_dim,
    ),
    "one_zero_token": (
        {"name": "vpt_deep", "num_tokens": 1, "init": "zeros"},
        lambda at: at.depth * at.embed_dim,
    ),
    "adapter_beside_with_tokens": (
        [
            {"name": "adapter", "width": 16, "form": "beside", "layers": {"last": 1}},
            {"name": "vpt_deep", "num_tokens": 2},
        ],
        lambda at: at.depth * 2 * at.embed_dim + 2 * at.embed_dim * 16 + 16 + at.embed_dim,
    ),
    "lora_of_keys_with_tokens": (
        [{"name": "lora", "rank": 2, "targets": ["key"], "dropout": 0.3}, {"name": "vpt_deep"}],
        lambda at: at.depth * (2 * (at.embed_dim + width_of(at, "key")) + 10 * at.embed_dim),
    ),
    "kv_untied": (
        {"name": "kv", "num_tokens": 3, "tied": False, "dropout": 0.3, "layers": {"last": 2}},
        lambda at: 2 * 2 * 3 * width_of(at, "query"),
    ),
    "tokens_and_kv": (
        [{"name": "vpt_deep", "num_tokens": 2}, {"name": "kv", "num_tokens": 3}],
        lambda at: at.depth * (2 * at.embed_dim + 3 * width_of(at, "query")),
    ),
    "shallow_and_kv": (
        [{"name": "vpt_shallow", "num_tokens": 2}, {"name": "kv", "num_tokens": 3}],
        lambda at: 2 * at.embed_dim + at.depth * 3 * width_of(at, "query"),
    ),
    "gated_and_shallow": (
        [{"name": "vpt_gated", "num_tokens": 2}, {"name": "vpt_shallow", "num_tokens": 3}],
        lambda at: 5 * at.embed_dim + at.depth - 1,
    ),
    "kv_bias_beside_kv": (
        [{"name": "kv", "num_tokens": 2}, {"name": "kv_bias", "layers": {"first": 2}}],
        lambda at: at.depth * 2 * width_of(at, "query") + 2 * 2 * width_of(at, "key"),
    ),
    "gated_with_temperature": (
        {"name": "vpt_gated", "num_tokens": 3, "temperature": True},
        lambda at: 3 * at.embed_dim + at.depth - 1 + at.depth,
    ),
    "patch": (
        {"name": "pixels", "form": "patch", "width": 9, "place": [4, 5]},
        lambda at: 3 * 9 * 9,
    ),
    "random_patch_and_tokens": (
        [{"name": "pixels", "form": "patch", "width": 9, "random": True}, "vpt_shallow"],
        lambda at: 3 * 9 * 9 + 10 * at.embed_dim,
    ),
    "pixels_and_tokens": (
        [{"name": "pixels", "width": 4}, {"name": "vpt_deep", "num_tokens": 2}],
        lambda at: frame(at) + at.depth * 2 * at.embed_dim,
    ),
}

has_glyph = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled weights are not built")
KINDS = ["test_vit", "siglip", "dinov3", "clip_tok", "clip_custom", "rope_grouped"]
KINDS += [pytest.param("glyph_vit", marks=has_glyph)]
kinds = pytest.mark.parametrize("kind", KINDS)


def build(native, prompt, tuning="frozen", **options):
    torch.manual_seed(2)
    return create_model(native, prompt, num_classes=CLASSES, tuning=tuning, **options)


def take_steps(model, native, count):
    """Names of the trained tensors that got a gradient in some step."""
    labels = torch.arange(4) % CLASSES
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    moved = set()
    model.train()
    for step in range(count):
        images = images_for(native, 4, seed=step)
        model.loss(Batch(images, labels, labels))["loss"].backward()
        for name, tensor in model.trained_tensors():
            if tensor.grad is not None and tensor.grad.abs().max() > 0:
                moved.add(name)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return moved


def selected(native, tuning):
    """The tensors of a native model that a tuning trains, told from the library's own names."""
    names = [name for name, _ in native.named_parameters() if not name.startswith("head.")]
    norms = tuple(n + "." for n, m in native.named_modules() if "Norm" in type(m).__name__)
    if is_timm(native):
        last = (f"blocks.{len(native.blocks) - 1}.", "norm.", "fc_norm.", "attn_pool.")
    else:
        last = (f"transformer.resblocks.{native.transformer.layers - 1}.", "ln_post.", "proj")
    biases = ("bias", "q_bias", "v_bias", "in_proj_bias")
    rules = {
        "frozen": lambda name: False,
        "full": lambda name: True,
        "bias": lambda name: name.rpartition(".")[2] in biases,
        "norm": lambda name: name.startswith(norms),
        "last:1": lambda name: name.startswith(last),
    }
    return {name for name in names if rules[tuning](name)}


def test_every_registered_prompt__has_its_formula_here():
    assert sorted(CASES) == sorted(list_prompts())


@kinds
@pytest.mark.parametrize("name", list_prompts())
def test_every_prompt__counts_learns_and_is_saved_exactly(name, kind, tmp_path):
    options, formula = CASES[name]
    check(make(kind), options, formula, "frozen", tmp_path / "p.safetensors")


@kinds
@pytest.mark.parametrize("tuning", TUNINGS[1:])
@pytest.mark.parametrize("name", ["vpt_deep", "lora"])  # tokens beside blocks, changes inside them
def test_every_tuning__counts_learns_and_is_saved_exactly(name, kind, tuning, tmp_path):
    options, formula = CASES[name]
    check(make(kind), options, formula, tuning, tmp_path / "p.safetensors")


@pytest.mark.parametrize("kind", ["test_vit", "rope_grouped", "clip_custom"])  # each attention
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant__counts_learns_and_is_saved_exactly(variant, kind, tmp_path):
    options, formula = VARIANTS[variant]
    check(make(kind), options, formula, "frozen", tmp_path / "p.safetensors")


def check(native, options, formula, tuning, path):
    shared = wrap_backbone(native)
    before = weights_hash(dict(shared.body.state_dict()))
    model = build(shared, options, tuning)
    tuned = selected(native, tuning)

    count = sum(p.numel() for p in model.trainable_parameters())
    of_backbone = sum(p.numel() for n, p in native.named_parameters() if n in tuned)
    head = CLASSES * shared.feature_dim + CLASSES
    assert count == formula(shared.dimensions) + head + of_backbone

    trained = {n for n, _ in model.trained_tensors()}
    assert take_steps(model, native, 2) == trained
    take_steps(model, native, 1)
    assert weights_hash(dict(shared.body.state_dict())) == before == shared.sha256

    save_prompt(model, path)
    tensors = read_prompt_file(path)[1]
    assert {n.removeprefix("backbone.body.") for n in tensors if n.startswith("backbone.")} == tuned
    assert tensors.keys() == trained

    images = images_for(native, 3, seed=7)
    with torch.no_grad():
        expected = model(images)
        loaded = load_prompt(path, shared)
        assert torch.equal(loaded(images), expected)
    assert (loaded.backbone is shared) == (tuning == "frozen")
    assert not loaded.training


@pytest.mark.parametrize("kind", ["test_vit", "eva02", "clip_tok"])
@pytest.mark.parametrize("name", [*list_prompts(), "tokens_and_kv"])
def test_every_prompt__is_one_graph__and_knows_no_neighbours(name, kind):
    options, _ = {**CASES, **VARIANTS}[name]
    native = make(kind)
    model, images = build(native, options).eval(), images_for(native, 3)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for tensor in model.prompt.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        logits = model(images)
        torch.testing.assert_close(compiled(images), logits, atol=1e-5, rtol=1e-5)
        others = images.clone()
        others[1:] = 0.0
        assert torch.equal(model(others)[0], logits[0])
    assert model.to("meta")(images.to("meta")).shape == (3, CLASSES)


@has_glyph
@pytest.mark.parametrize("tuning", ["frozen", "norm"])
def test_the_bundled_backbone__is_found_again_by_name(tuning, tmp_path):
    model = build("bundled/glyph_vit", "vpt_deep", tuning, class_names=list("abcde"))
    images = torch.randn(2, 3, *model.preprocess.size)
    save_prompt(model, tmp_path / "p.safetensors")
    loaded = load_prompt(tmp_path / "p.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    assert loaded.class_names == list("abcde")


def test_a_prompt_file__with_another_backbone__is_refused(tmp_path):
    native = make("test_vit")
    save_prompt(build(native, "vpt_deep"), tmp_path / "p.safetensors")
    with torch.no_grad():
        native.blocks[0].attn.qkv.bias[0] += 1e-3
    with pytest.raises(PromptFileError, match="belongs to 'timm/test_vit"):
        load_prompt(tmp_path / "p.safetensors", native)


def test_a_prompt_file__at_another_image_size__is_refused(tmp_path):
    torch.manual_seed(0)
    small = create_backbone("timm/test_vit", pretrained=False, image_size=32)
    save_prompt(build(small, "vpt_deep"), tmp_path / "p.safetensors")
    torch.manual_seed(0)
    large = create_backbone("timm/test_vit", pretrained=False, image_size=64)
    with pytest.raises(PromptFileError, match=r"was trained at \(32, 32\) pixels"):
        load_prompt(tmp_path / "p.safetensors", large)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_users_module__is_not_changed__whatever_is_trained(tuning):
    native = make("siglip").train()
    before = {name: tensor.clone() for name, tensor in native.state_dict().items()}
    take_steps(build(native, "vpt_deep", tuning), native, 2)
    assert native.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in native.state_dict().items())
    assert all(parameter.requires_grad for parameter in native.parameters())
    assert all(parameter.grad is None for parameter in native.parameters())
    assert native.training


def test_two_models_on_one_backbone__do_not_disturb_each_other():
    native = make("test_vit")
    shared = wrap_backbone(native)
    one, other = build(shared, "vpt_deep"), build(shared, "vpt_shallow").eval()
    images = images_for(native)
    with torch.no_grad():
        before = other(images)
    take_steps(one, native, 2)
    with torch.no_grad():
        assert torch.equal(other(images), before)
    assert one.backbone is other.backbone


def test_the_head_alone__or_none__is_saved_and_loaded(tmp_path):
    native = make("test_vit")
    model = create_model(native, "vpt_deep", num_classes=None)
    save_prompt(model, tmp_path / "p.safetensors")
    loaded = load_prompt(tmp_path / "p.safetensors", native)
    images = images_for(native)
    with torch.no_grad():
        assert loaded(images).shape == (2, native.num_features)
        assert torch.equal(loaded(images), model.eval()(images))
    assert read_prompt_header(tmp_path / "p.safetensors").head is None


def test_zero_tokens__train_the_head_alone__and_can_be_saved(tmp_path):
    native = make("test_vit")
    model = build(native, {"name": "vpt_deep", "num_tokens": 0})
    assert sum(p.numel() for p in model.trainable_parameters()) == CLASSES * 64 + CLASSES
    save_prompt(model, tmp_path / "p.safetensors")
    images = images_for(native)
    with torch.no_grad():
        loaded = load_prompt(tmp_path / "p.safetensors", native)
        assert torch.equal(loaded(images), model.eval()(images))


# ----------------------------------------------------------------------------------- start values


def test_uniform__is_bounded_by_the_papers_formula():
    assert paper_uniform_bound((16, 16), 768) == 0.0625
    native = make("test_vit")
    for width, options in ((64, {}), (6, {"projection": 6})):
        bound = math.sqrt(6 / (3 * 8 * 8 + width))
        prompt = build(native, "vpt_deep", num_tokens=50, **options).prompt
        assert 0.97 * bound < prompt.tokens.abs().max() <= bound
        assert abs(prompt.tokens.mean()) < 0.05 * bound


def test_normal__has_the_given_deviation():
    prompt = build(make("test_vit"), "vpt_deep", num_tokens=50, init="normal", std=0.3).prompt
    assert float(prompt.tokens.detach().std()) == pytest.approx(0.3, rel=0.03)


def test_zeros__are_refused_for_more_than_one_token__with_the_reason():
    with pytest.raises(ConfigError, match="equal tokens get equal gradients and stay one"):
        build(make("test_vit"), "vpt_deep", num_tokens=2, init="zeros")


@pytest.mark.parametrize("layers", ["all", [1, 3], {"last": 1}])
def test_patches__are_real_patch_tokens_of_their_own_layers_input(layers):
    native = make("test_vit")
    images = images_for(native, 3)
    model = build(
        native, {"name": "vpt_deep", "num_tokens": 4, "init": "patches", "layers": layers}
    )
    start_from_patches(model.prompted, images, torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = native.norm_pre(native._pos_embed(native.patch_embed(images)))
        for layer, block in enumerate(native.blocks):
            rows = model.prompt.rows(layer)
            if rows is not None:
                patches = x[:, native.num_prefix_tokens :].flatten(0, 1)
                same = (rows[0][:, None] == patches).all(dim=-1)
                assert same.sum(dim=1).tolist() == [1, 1, 1, 1]
                assert same.any(dim=0).sum() == 4
            x = block(x)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ({"first": 2}, (0, 1)),
        ({"last": 2}, (4, 5)),
        ([5, 0, 3], (0, 3, 5)),
    ],
)
def test_layers__are_the_named_ones__ascending(layers, expected):
    model = build(make("test_vit"), {"name": "vpt_deep", "num_tokens": 1, "layers": layers})
    assert model.prompt.layers == expected
    assert model.prompt.rows(expected[0]).shape == (1, 1, 64)


@pytest.mark.parametrize("layers", [{"first": 7}, [6], [0, 0], [], [-1]])
def test_layers_that_do_not_exist__are_refused(layers):
    with pytest.raises(ConfigError, match="layers"):
        build(make("test_vit"), {"name": "vpt_deep", "num_tokens": 1, "layers": layers})


def test_shared_tokens__are_the_same_at_every_layer():
    prompt = build(make("test_vit"), "vpt_deep", num_tokens=2, shared=True).prompt
    rows = [prompt.rows(layer) for layer in range(6)]
    assert all(torch.equal(row, rows[0]) for row in rows)


# ------------------------------------------------------------------------------------------ gates


def test_gates__mix_what_leaves_a_block_with_what_entered_it():
    """Written out after the paper, on timm's own modules."""
    native = make("test_vit")
    model, images = build(native, "vpt_gated", num_tokens=3).eval(), images_for(native, 2)
    first = native.num_prefix_tokens
    assert float(model.prompt.gate_of(0).detach()) == pytest.approx(1 / (1 + math.exp(5)))
    with torch.no_grad():
        model.prompt.tokens.normal_()
        model.prompt.gamma.copy_(torch.linspace(-3, 3, 5))
        x = native.norm_pre(native._pos_embed(native.patch_embed(images)))
        prompts = model.prompt.tokens.expand(2, -1, -1)
        for layer, block in enumerate(native.blocks):
            left = block(torch.cat([x[:, :first], prompts, x[:, first:]], dim=1))
            x = torch.cat([left[:, :first], left[:, first + 3 :]], dim=1)
            if layer < 5:
                share = 1 / (1 + math.exp(-(-3 + 1.5 * layer)))
                prompts = share * left[:, first : first + 3] + (1 - share) * prompts
        expected = native.forward_head(native.norm(x), pre_logits=True)
        found = model.prompted(images).pooled
        model.prompt.gamma.fill_(50.0)
        open_gates = model.prompted(images).pooled
        shallow = build(native, "vpt_shallow", num_tokens=3).eval()
        shallow.prompt.tokens.copy_(model.prompt.tokens)
        assert torch.equal(shallow.prompted(images).pooled, open_gates)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - open_gates).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["test_vit", "clip_layer_scale"])
def test_gates__in_the_backbones_arithmetic(kind):
    """The first block of the second widens what enters it, from bfloat16 to float32."""
    native = make(kind)
    model, images = build(native, "vpt_gated", gate=0.5).eval(), images_for(native)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", ["test_vit", "clip_custom"])
def test_a_temperature__divides_the_scores_of_a_block(kind):
    """Written out after the paper: the native model, its queries divided by tau."""
    native = make(kind)
    options = {"name": "vpt_gated", "num_tokens": 3, "gate": 50.0, "temperature": True}
    model, images = build(native, options).eval(), images_for(native, 2)
    shallow = build(native, "vpt_shallow", num_tokens=3).eval()
    taus = torch.linspace(0.5, 2.0, model.backbone.depth)
    with torch.no_grad():
        shallow.prompt.tokens.copy_(model.prompt.tokens)
        cold = shallow.prompted(images).pooled
        warm = model.prompted(images).pooled
        torch.testing.assert_close(warm, cold, atol=1e-5, rtol=1e-5)  # tau starts as 1
        model.prompt.log_temperature.copy_(taus.log())
        found = model.prompted(images).pooled
        for index, tau in enumerate(taus):
            _divide_scores(shallow.backbone.attention(index), float(tau))
        expected = shallow.prompted(images).pooled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - warm).abs().max() > 1e-2


def _divide_scores(attention, tau):
    """Make a native module's scores smaller by its queries: their norm, or their projection."""
    if hasattr(attention, "ln_q"):
        parts = attention.ln_q.weight, attention.ln_q.bias
    else:
        parts = attention.qkv.weight.chunk(3)[0], attention.qkv.bias.chunk(3)[0]
    for part in parts:
        part.div_(tau)


@pytest.mark.parametrize("kind", ["eva02", "clip_tok"])
def test_temperatures__of_a_list_multiply__and_both_ways_agree(kind):
    native = make(kind)
    gated = {"name": "vpt_gated", "num_tokens": 2, "temperature": True}
    model, images = build(native, [gated, gated]).eval(), images_for(native)
    single = build(native, [gated, {**gated, "temperature": False}]).eval()
    with torch.no_grad():
        for each, twin in zip(model.prompt.prompts, single.prompt.prompts, strict=True):
            each.log_temperature.copy_(torch.linspace(-0.5, 0.2, 3))
            twin.tokens.copy_(each.tokens)
        single.prompt.prompts[0].log_temperature.copy_(2 * torch.linspace(-0.5, 0.2, 3))
        found = model.prompted(images).pooled
        torch.testing.assert_close(found, single.prompted(images).pooled, atol=1e-5, rtol=1e-5)
        model.prompted.insert = True
        torch.testing.assert_close(found, model.prompted(images).pooled, atol=1e-5, rtol=1e-5)


def test_a_temperature__needs_attention_of_a_known_kind():
    build(make("res_post"), "vpt_gated")
    with pytest.raises(ConfigError, match="leave temperature out"):
        build(make("res_post"), {"name": "vpt_gated", "temperature": True})


class _Doubled(Prompt):
    """A method of a user's that does not ask what the blocks are."""

    inside_layers = (1,)

    def inside(self, layer, batch_size):
        return Inside(adapt=lambda given, made: 2 * made) if layer == 1 else None


@pytest.mark.parametrize("kind", ["res_post", "parallel", "eva_post_norm_rope"])
def test_what_is_added_inside_an_unknown_block__is_refused__not_computed_otherwise(kind):
    native = make(kind)
    with pytest.raises(
        BackboneError, match=r"block 1 of .* unknown kind: _Doubled can add nothing"
    ):
        create_model(native, _Doubled(), num_classes=2)(images_for(native))
    create_model(make("test_vit"), _Doubled(), num_classes=2)(images_for(make("test_vit")))


# ------------------------------------------------------------------------- biases of keys, values

BIASED = ["test_vit", "siglip", "dinov3", "eva02", "clip_tok", "clip_custom", "avg_no_fc_norm"]


@pytest.mark.parametrize("kind", BIASED)
@pytest.mark.parametrize("prompt", ["none", "vpt_deep", "vpt_shallow"])
def test_freed_biases__are_those_of_the_native_module(kind, prompt):
    """The native model with its own key and value biases changed, where it has them."""
    native = make(kind)
    model, images = build(native, [prompt, "kv_bias"]).eval(), images_for(native, 3)
    plain = build(wrap_backbone(native), prompt).eval()
    with torch.no_grad():
        for one, other in zip(
            model.prompt.prompts[0].parameters(), plain.prompt.parameters(), strict=True
        ):
            other.copy_(one)
        before = plain.prompted(images).pooled
        torch.testing.assert_close(model.prompted(images).pooled, before, atol=1e-5, rtol=1e-5)
        for name in ("key", "value"):
            model.prompt.prompts[1].biases[name].normal_(std=0.5)
        found = model.prompted(images).pooled
        for layer in range(model.backbone.depth):
            _add_biases(plain.backbone.attention(layer), model.prompt.prompts[1], layer)
        expected = plain.prompted(images).pooled
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().max() > 1e-2


def _add_biases(attention, prompt, layer):
    """Add to the module's own biases; one without them gets some."""
    key, value = prompt.biases["key"][layer], prompt.biases["value"][layer]
    added = torch.cat([torch.zeros_like(key), key, value])
    if getattr(attention, "in_proj_bias", None) is not None:
        attention.in_proj_bias += added
    elif getattr(attention, "q_bias", None) is not None:
        attention.k_bias += key
        attention.v_bias += value
    elif attention.qkv.bias is not None:
        attention.qkv.bias += added
    else:
        attention.qkv.bias = torch.nn.Parameter(added)


def gradients_of_biases(kind, prompt):
    """Of keys and of values, the largest."""
    native = make(kind)
    model = build(native, [prompt, "kv_bias"]).train()
    model.loss(Batch(images_for(native, 4), torch.arange(4), torch.arange(4)))["loss"].backward()
    biases = model.prompt.prompts[1].biases
    return tuple(float(biases[name].grad.abs().max()) for name in ("key", "value"))


@pytest.mark.parametrize("kind", ["test_vit", "clip_tok"])
@pytest.mark.parametrize("prompt", ["none", "vpt_deep", "vpt_shallow"])
def test_a_key_bias__that_all_keys_get__is_not_seen_by_the_softmax(kind, prompt):
    keys, values = gradients_of_biases(kind, prompt)
    assert keys < 1e-4 * values


@pytest.mark.parametrize(
    ("kind", "prompt"), [("test_vit", "kv"), ("dinov3", "none"), ("qk_norm", "none")]
)
def test_a_key_bias__that_not_all_get_alike__has_a_gradient(kind, prompt):
    keys, values = gradients_of_biases(kind, prompt)
    assert keys > 1e-3 * values


def test_freed_biases__need_attention_of_a_known_kind():
    with pytest.raises(ConfigError, match="use tuning=bias"):
        build(make("parallel"), "kv_bias")


def test_freed_biases__in_the_backbones_arithmetic():
    native = make("test_vit")
    model, images = build(native, ["vpt_deep", "kv_bias"]).eval(), images_for(native)
    with torch.no_grad():
        model.prompt.prompts[1].biases["value"].normal_()
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


# ------------------------------------------------------------------------------- keys and values


@pytest.mark.parametrize("tied", [True, False])
def test_keys_and_values__are_attended_to_beside_the_sequences_own(tied):
    """Written out after the paper, on timm's own modules."""
    native = make("test_vit")
    options = {"name": "kv", "num_tokens": 3, "tied": tied, "layers": [1, 4]}
    model, images = build(native, options).eval(), images_for(native, 3)
    with torch.no_grad():
        x = native.norm_pre(native._pos_embed(native.patch_embed(images)))
        for layer, block in enumerate(native.blocks):
            attention, y = block.attn, block.norm1(x)
            qkv = attention.qkv(y).unflatten(2, (3, attention.num_heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            if layer in (1, 4):
                keys = model.prompt.keys[(1, 4).index(layer)]
                values = keys if tied else model.prompt.values[(1, 4).index(layer)]
                k = torch.cat([k, keys.expand(3, -1, -1, -1)], dim=2)
                v = torch.cat([v, values.expand(3, -1, -1, -1)], dim=2)
            weights = (q @ k.transpose(2, 3) * attention.scale).softmax(dim=-1)
            x = x + block.ls1(attention.proj((weights @ v).transpose(1, 2).flatten(2)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        expected = native.forward_head(native.norm(x), pre_logits=True)
        found = model.prompted(images).pooled
        plain = build(native, "none").eval().prompted(images).pooled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - plain).abs().max() > 1e-2


def test_keys_and_values__go_in_beside_tokens__whichever_way_those_go():
    native = make("eva02")
    model = build(native, [{"name": "vpt_deep", "num_tokens": 2}, "kv"]).eval()
    images = images_for(native)
    with torch.no_grad():
        as_context = model.prompted(images).pooled
        model.prompted.insert = True
        inserted = model.prompted(images).pooled
    torch.testing.assert_close(as_context, inserted, atol=1e-5, rtol=1e-5)


def test_keys_and_values__in_the_backbones_arithmetic():
    native = make("test_vit")
    model, images = build(native, "kv").eval(), images_for(native)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("kind", ["res_post", "eva_post_norm"])
def test_keys_and_values__need_attention_of_a_known_kind(kind):
    with pytest.raises(ConfigError, match="unknown kind"):
        build(make(kind), "kv")


# --------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("form", ["behind", "beside"])
def test_an_adapter__starts_as_nothing__and_is_what_the_paper_says(form):
    """Written out after the papers, on timm's own modules."""
    native = make("test_vit")
    options = {"name": "adapter", "width": 3, "form": form, "scale": 0.5, "layers": [1, 4]}
    model, images = build(native, options).eval(), images_for(native, 3)
    plain = build(native, "none").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.prompted(images).pooled, plain.prompted(images).pooled, atol=1e-5, rtol=1e-5
        )
        for bottleneck in model.prompt.bottlenecks:
            bottleneck.up.weight.normal_()
        x = native.norm_pre(native._pos_embed(native.patch_embed(images)))
        for layer, block in enumerate(native.blocks):
            x = x + block.ls1(block.attn(block.norm1(x)))
            given = block.norm2(x)
            made = block.mlp(given)
            if layer in (1, 4):
                own = model.prompt.bottlenecks[(1, 4).index(layer)]
                inside = (made if form == "behind" else given) @ own.down.weight.T + own.down.bias
                made = made + 0.5 * (inside.clamp(min=0) @ own.up.weight.T + own.up.bias)
            x = x + block.ls2(made)
        expected = native.forward_head(native.norm(x), pre_logits=True)
        found = model.prompted(images).pooled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - plain.prompted(images).pooled).abs().max() > 1e-2


def test_an_adapter__needs_a_block_of_a_known_kind():
    with pytest.raises(ConfigError, match="unknown kind"):
        build(make("parallel"), "adapter")


# ------------------------------------------------------------------------------------------- lora


@pytest.mark.parametrize("kind", ["test_vit", "qk_norm", "eva02", "rope_grouped", "clip_tok"])
def test_lora__is_what_other_weights_would_be(kind):
    """Of prompts' keys and values too: W + s B A in place of W, in the native module."""
    native = make(kind)
    options = {"name": "lora", "rank": 2, "alpha": 3, "targets": ["query", "key", "value"]}
    tokens = {"name": "vpt_deep", "num_tokens": 2}
    model, images = build(native, [options, tokens]).eval(), images_for(native, 2)
    plain = build(native, [tokens]).eval()
    lora = model.prompt.prompts[0]
    with torch.no_grad():
        plain.prompt.prompts[0].tokens.copy_(model.prompt.prompts[1].tokens)
        before = plain.prompted(images).pooled
        torch.testing.assert_close(model.prompted(images).pooled, before, atol=1e-5, rtol=1e-5)
        for layer, changes in enumerate(lora.changes):
            for name, change in changes.items():
                change.up.weight.normal_(std=0.3)
                changed = 1.5 * change.up.weight @ change.down.weight
                weight_of(plain.backbone.attention(layer), name).add_(changed)
        expected, found = plain.prompted(images).pooled, model.prompted(images).pooled
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().max() > 1e-2


def weight_of(attention, projection):
    """The part of a native module's weights that makes queries, keys or values."""
    packed = getattr(attention, "in_proj_weight", None)
    if packed is None and getattr(attention, "qkv", None) is not None:
        packed = attention.qkv.weight
    if packed is None:
        return getattr(attention, f"{projection[0]}_proj").weight
    return packed.chunk(3)[("query", "key", "value").index(projection)]


def test_lora__needs_attention_of_a_known_kind():
    with pytest.raises(ConfigError, match="unknown kind"):
        build(make("parallel"), "lora")


# ----------------------------------------------------------------------------------------- pixels


def test_a_frame_of_30_pixels_at_224__has_69840_parameters():
    assert sum(p.numel() for p in PixelPrompt(30, (224, 224)).parameters()) == 69_840


def test_a_frame__changes_the_border_alone__and_all_of_it():
    prompt = PixelPrompt(3, (12, 17), init="normal")
    images = torch.zeros(2, 3, 12, 17)
    with torch.no_grad():
        changed = (prompt.on_images(images) != 0).all(dim=(0, 1))
    border = torch.ones(12, 17, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    assert torch.equal(changed, border)


def test_a_frame_that_leaves_nothing__is_refused():
    with pytest.raises(ConfigError, match="width 6 leaves nothing of a 12x17 image"):
        PixelPrompt(6, (12, 17))


def test_a_patch__changes_its_place_alone__and_all_of_it():
    prompt = PixelPatch(3, (12, 17), place=(8, 14), init="normal").train()
    images = torch.randn(2, 3, 12, 17)
    expected = images.clone()
    expected[:, :, 8:11, 14:17] += prompt.patch.detach()
    assert torch.equal(prompt.on_images(images), expected)
    assert sum(p.numel() for p in prompt.parameters()) == 27


def test_a_random_patch__is_where_the_seed_says__all_over_the_image__and_fixed_in_evaluation():
    prompt = PixelPatch(3, (12, 17), place=(1, 2), random=True, init="normal").train()
    images = torch.zeros(2, 3, 12, 17)

    def place(seed):
        torch.manual_seed(seed)
        changed = prompt.on_images(images).detach()
        rows, columns = (changed[0, 0] != 0).nonzero().T
        top, left = int(rows.min()), int(columns.min())
        assert torch.equal(changed[0], changed[1])
        assert torch.equal(changed[1, :, top : top + 3, left : left + 3], prompt.patch)
        assert int((changed != 0).sum()) == 2 * 27
        return top, left

    places = [place(seed) for seed in range(400)]
    assert places == [place(seed) for seed in range(400)]
    assert {top for top, _ in places} == set(range(10))
    assert {left for _, left in places} == set(range(15))
    prompt.eval()
    assert {place(seed) for seed in range(3)} == {(1, 2)}


@pytest.mark.parametrize("place", [(10, 0), (0, 15)])
def test_a_patch_that_leaves_the_image__is_refused(place):
    with pytest.raises(ConfigError, match="does not lie in a 12x17 image"):
        PixelPatch(3, (12, 17), place=place)


@pytest.mark.parametrize("options", [{"place": [1, 2]}, {"random": True}])
def test_a_frame_with_a_place__is_refused(options):
    with pytest.raises(ConfigError, match="set form: patch"):
        build(make("test_vit"), {"name": "pixels", "width": 4, **options})


def test_a_list__stands_side_by_side__and_refuses_different_layers():
    native = make("test_vit")
    first = {"name": "vpt_deep", "num_tokens": 2}
    model = build(native, [first, {"name": "vpt_deep", "num_tokens": 3}])
    assert model.prompt.rows(4).shape == (1, 5, 64)
    with pytest.raises(ConfigError, match="must prompt the same layers"):
        build(native, [first, "vpt_shallow"])
