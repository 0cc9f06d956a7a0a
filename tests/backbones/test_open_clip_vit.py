"""open_clip towers that a user built: their options, tensors, preprocessing and prompts."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import ResidualAttentionBlock
from PIL import Image
from timm.layers import AttentionPool2d
from torch import nn

from tests.contracts.kinds import images_for, make, native_features
from vpt.api import create_model, load_prompt, save_prompt
from vpt.backbones import wrap_backbone
from vpt.data import evaluation_transform
from vpt.engine.prompt_file import read_prompt_file, write_prompt_file
from vpt.engine.prompt_header import PreprocessRecord
from vpt.errors import BackboneError, ConfigError
from vpt.models import PromptedBackbone, start_from_patches
from vpt.prompts import NoPrompt, PromptList, TokenPrompt
from vpt.structures import Preprocess

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}


# ------------------------------------------------------------------------------------ whole models


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_clip__gives_its_image_tower__and_stays_as_it_is(quick):
    clip = open_clip.CLIP(24, VISION, TEXT, quick_gelu=quick).eval()
    backbone = wrap_backbone(clip)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(found, clip.encode_image(images))
    assert backbone.activation == ("QuickGELU" if quick else "GELU")
    assert backbone.name == ""
    assert backbone.sha256 == wrap_backbone(clip.visual).sha256
    assert all(parameter.requires_grad for parameter in clip.parameters())
    backbone.body.proj.zero_()
    assert clip.visual.proj.abs().min() > 0


@pytest.mark.parametrize("kind", ["clip_tok", "clip_custom", "clip_attn_pool", "clip_pe"])
def test_with_gradients_flowing__the_numbers_are_those_of_the_frozen_tower(kind):
    native = make(kind)
    images = images_for(native).requires_grad_()
    found = PromptedBackbone(wrap_backbone(native), NoPrompt())(images).pooled
    trained = native_features(native, images)
    assert torch.allclose(found, trained, atol=1e-5, rtol=1e-6)
    assert torch.equal(found, native_features(native.requires_grad_(False), images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_clip_in_half_precision__keeps_its_mixed_types__with_and_without_prompts(dtype):
    clip = open_clip.CLIP(24, VISION, TEXT, cast_dtype=dtype).eval()
    convert_weights_to_lp(clip, dtype)
    backbone = wrap_backbone(clip)
    images = torch.randn(2, 3, 32, 32).to(dtype)
    prompt = TokenPrompt(
        3, (0, 1), embed_dim=32, patch_size=(8, 8), init="normal", std=1, placement="pre_norm"
    )
    with torch.no_grad():
        plain = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(plain, clip.encode_image(images))
        one, other = (
            PromptedBackbone(backbone, prompt, insert=insert)(images).pooled
            for insert in (False, True)
        )
    assert one.dtype == dtype
    assert torch.allclose(one.float(), other.float(), atol=0.05)
    PromptedBackbone(backbone, prompt)(images).pooled.float().sum().backward()
    assert prompt.tokens.grad.abs().amax(dim=(1, 2)).min() > 0


def test_a_resnet_and_a_hybrid__are_refused_by_class():
    clip = open_clip.CLIP(24, VISION | {"layers": [1, 1, 1, 1]}, TEXT)
    with pytest.raises(BackboneError, match="the image tower is a ModifiedResNet, which is not"):
        wrap_backbone(clip)
    tower = make("clip_linear")
    tower.trunk = nn.Identity()
    with pytest.raises(BackboneError, match="is a Identity, which is not supported: open_clip's"):
        wrap_backbone(tower)
    tower = make("clip_linear")
    tower.trunk.patch_embed = nn.Identity()
    with pytest.raises(BackboneError, match="makes its patches with a Identity"):
        wrap_backbone(tower)


def test_scaled_cosine_and_pools_of_maps__are_refused():
    clip = open_clip.CLIP(24, VISION | {"scaled_cosine_attn": True}, TEXT)
    with pytest.raises(BackboneError, match="scaled cosine attention"):
        wrap_backbone(clip)
    tower = make("clip_linear")
    tower.head = nn.Sequential(OrderedDict(pool=AttentionPool2d(64, feat_size=2, num_heads=4)))
    with pytest.raises(BackboneError, match="pools a feature map"):
        wrap_backbone(tower)


class _LookAlike(ResidualAttentionBlock):
    """A subclass may compute anything."""


class _OtherAttention(nn.MultiheadAttention):
    """As it may."""


@pytest.mark.parametrize("part", ["block", "attention", "no_batch_first", "extra_bias"])
def test_a_block_of_an_unknown_kind__goes_by_insertion__with_the_same_numbers(part):
    native = make("clip_tok")
    known = wrap_backbone(native)
    block = native.transformer.resblocks[1]
    if part == "block":
        block.__class__ = _LookAlike
    elif part == "attention":
        block.attn.__class__ = _OtherAttention
    elif part == "no_batch_first":
        block.attn.batch_first = False
    else:
        block.attn.add_zero_attn = True
    backbone = wrap_backbone(native)
    assert [backbone.takes_context(index) for index in range(3)] == [True, False, True]
    if part in ("block", "attention"):
        prompt = TokenPrompt(3, (0, 1, 2), embed_dim=32, patch_size=(8, 8), init="normal", std=1)
        images = images_for(native)
        with torch.no_grad():
            one, other = (PromptedBackbone(b, prompt)(images).pooled for b in (known, backbone))
        assert torch.allclose(one, other, atol=1e-4)


# ------------------------------------------------------------------------------------- selection


def test_biases_norms_and_last_blocks__are_those_of_the_native_names():
    backbone = wrap_backbone(make("clip_custom"))
    names = {name for name, _ in backbone.named_parameters()}
    biases = set(backbone.select("biases"))
    assert biases == {name for name in names if name.endswith((".bias", "in_proj_bias"))}
    norms = set(backbone.select("norms"))
    assert norms == {name for name in names if ".ln" in name}
    assert "body.transformer.resblocks.0.mlp.ln.weight" in norms
    last = set(backbone.select("blocks:last:1"))
    after = ("body.transformer.resblocks.2.", "body.ln_post.", "body.proj")
    assert last == {name for name in names if name.startswith(after)}
    assert set(backbone.select("blocks:last:3")) - last == {
        name
        for name in names
        if name.startswith("body.transformer.") and ".resblocks.2." not in name
    }


def test_a_layer_scale__is_no_norm__and_a_pooling_comes_after_the_blocks():
    assert not any(
        "gamma" in name for name in wrap_backbone(make("clip_layer_scale")).select("norms")
    )
    last = set(wrap_backbone(make("clip_attn_pool")).select("blocks:last:1"))
    assert {"body.attn_pool.query", "body.attn_pool.attn.in_proj_bias", "body.proj"} <= last
    assert "body.positional_embedding" not in last
    linear = wrap_backbone(make("clip_linear"))
    assert "projection.2.weight" in linear.select("blocks:last:1")


@pytest.mark.parametrize("kind", ["clip_attn_pool", "clip_coca_parallel", "clip_coca_cascade"])
def test_whatever_can_be_trained__gets_a_gradient(kind):
    native = make(kind)
    backbone = wrap_backbone(native)
    backbone.unfreeze(backbone.select("all"))
    prompted = PromptedBackbone(backbone, NoPrompt())
    prompted(images_for(native)).pooled.square().sum().backward()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == set(backbone.select("all")) == backbone.trained
    assert all(p.grad.abs().max() > 0 for p in backbone.parameters() if p.requires_grad)
    assert any("attn_pool.query" in name for name in trained) == (kind != "clip_coca_parallel")


def test_the_projection__can_be_trained__and_is_frozen_again():
    backbone = copy.deepcopy(wrap_backbone(make("clip_linear")))
    backbone.unfreeze(backbone.select("blocks:last:1"))
    assert backbone.projection[2].weight.requires_grad
    assert not backbone.body.blocks[0].attn.qkv.weight.requires_grad
    backbone.freeze()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# ---------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(
    ("size", "interpolation"),
    [(32, "bicubic"), (32, "bilinear"), (32, "random"), ((32, 48), "bicubic")],
)
def test_evaluation_images__are_open_clips_own__bit_for_bit(resize_mode, size, interpolation):
    config = PreprocessCfg(
        size=size, resize_mode=resize_mode, interpolation=interpolation, fill_color=7
    )
    tower = open_clip.CLIP(24, VISION | {"image_size": size}, TEXT).visual
    tower.preprocess_cfg = vars(config)
    theirs = image_transform_v2(config, is_train=False)
    ours = evaluation_transform(wrap_backbone(tower).preprocess)
    random = np.random.default_rng(0)
    for width, height in [(31, 57), (90, 61), (33, 32), (101, 20), (5, 7)]:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert torch.equal(ours(image), theirs(image)), (width, height)


def test_preprocess__goes_through_json__and_older_values_have_no_fill():
    padded = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3, crop_mode="border", fill=(0, 0, 0))
    assert PreprocessRecord(**padded.to_dict()).preprocess() == padded
    plain = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3)
    assert "fill" not in plain.to_dict()
    assert PreprocessRecord(**plain.to_dict()).preprocess() == plain


# --------------------------------------------------------------------------------------- placement


@pytest.mark.parametrize(
    ("kind", "placement", "init"),
    [
        ("test_vit", "post_norm", "uniform"),
        ("clip_tok", "pre_norm", "normal"),
        ("clip_siglip", "pre_norm", "normal"),
    ],
)
def test_a_prompt_without_placement_and_init__gets_the_familys__and_notes_them(
    kind, placement, init
):
    options = create_model(make(kind), "vpt_deep", num_classes=2).prompt.options
    assert (options["placement"], options["init"]) == (placement, init)
    given = {"placement": "post_norm", "init": "uniform"}
    options = create_model(make(kind), "vpt_deep", num_classes=2, **given).prompt.options
    assert (options["placement"], options["init"]) == ("post_norm", "uniform")


def test_a_prompt_file_without_placement__loads_as_before(tmp_path):
    native = make("test_vit")
    path = tmp_path / "p.safetensors"
    model = create_model(native, "vpt_deep", num_classes=2).eval()
    save_prompt(model, path)
    header, tensors = read_prompt_file(path)
    options = {key: value for key, value in header.prompt.items() if key != "placement"}
    write_prompt_file(path, tensors, header.model_copy(update={"prompt": options}))
    loaded = load_prompt(path, native)
    assert loaded.prompt.placement == "post_norm"
    images = images_for(native)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_normal_start_values__have_deviation_0_02():
    prompt = create_model(make("clip_tok"), "vpt_deep", num_classes=2, num_tokens=100).prompt
    assert float(prompt.tokens.detach().std()) == pytest.approx(0.02, rel=0.03)


def test_only_rows_of_layer_0__pass_the_pre_norm():
    native = make("clip_tok")
    backbone = wrap_backbone(native)
    images = images_for(native)

    def features(placement, layers):
        torch.manual_seed(0)
        prompt = TokenPrompt(
            3, layers, embed_dim=32, patch_size=(8, 8), init="normal", placement=placement
        )
        with torch.no_grad():
            return PromptedBackbone(backbone, prompt)(images).pooled

    assert torch.equal(features("pre_norm", (1, 2)), features("post_norm", (1, 2)))
    assert (features("pre_norm", (0, 1)) - features("post_norm", (0, 1))).abs().max() > 1e-2


def test_prompts_in_a_list__must_agree_on_their_placement():
    def prompt(placement, num_tokens=2):
        at = {"embed_dim": 32, "patch_size": (8, 8)}
        return TokenPrompt(num_tokens, (0,), placement=placement, **at)

    assert PromptList([NoPrompt(), prompt("pre_norm")]).placement == "pre_norm"
    assert PromptList([prompt("post_norm", 0), prompt("pre_norm")]).placement == "pre_norm"
    with pytest.raises(ConfigError, match="must have the same placement"):
        PromptList([prompt("pre_norm"), prompt("post_norm")])


@pytest.mark.parametrize("placement", ["pre_norm", "post_norm"])
def test_patches_as_start_values__are_taken_where_the_prompt_will_stand(placement):
    native = make("clip_tok")
    images = images_for(native, 3)
    options = {"name": "vpt_deep", "num_tokens": 4, "init": "patches", "placement": placement}
    model = create_model(native, options, num_classes=2)
    start_from_patches(model.prompted, images, torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = native.conv1(images).flatten(2).transpose(1, 2) + native.positional_embedding[1:]
        patches = (native.ln_pre(x) if placement == "post_norm" else x).flatten(0, 1)
        rows = model.prompt.rows(0)[0]
    same = (rows[:, None] - patches).abs().amax(dim=-1) < 1e-6
    assert same.sum(dim=1).tolist() == [1, 1, 1, 1]
