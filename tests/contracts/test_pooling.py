"""Every way of pooling that a backbone has: native numbers, both ways of prompts, files."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from tests.contracts.kinds import images_for, is_timm, make, native_features
from vpt.api import PromptBank, create_model, load_prompt, save_prompt
from vpt.backbones import create_backbone, wrap_backbone
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import BackboneError, ConfigError, PromptFileError

TOKENS = ("token", "avg", "avgmax", "max")
POOLINGS = {
    "test_vit": TOKENS,
    "test_vit2": TOKENS[1:],
    "siglip": ("map", "avg", "avgmax", "max"),
    "clip_pre_norm": TOKENS,
    "avg_no_fc_norm": TOKENS,
    "res_post": TOKENS,
    "eva02": TOKENS,
    "dinov3": TOKENS,
    "eva_post_norm": TOKENS,
    "clip_tok": ("token", "avg"),
    "clip_avg_no_ln_pre": ("token", "avg"),
    "clip_attn_pool": ("map",),
    "clip_eva02": TOKENS,
}
CASES = [(kind, pooling) for kind, names in POOLINGS.items() for pooling in names]


def pooled_natively(kind: str, pooling: str):
    """The native model, pooled so by its own library."""
    native = make(kind)
    if is_timm(native):
        native.reset_classifier(0, global_pool=pooling)
    elif hasattr(native, "trunk"):
        native.trunk.global_pool = pooling
    elif native.attn_pool is None:
        native.pool_type = {"token": "tok", "avg": "avg"}[pooling]
    return native.eval()


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_backbone__names_its_poolings__and_refuses_others(kind):
    backbone = wrap_backbone(make(kind))
    assert set(backbone.poolings) == set(POOLINGS[kind])
    assert backbone.pooling == backbone.own_pooling
    for wrong in {"cls", "", "map", "token"} - set(POOLINGS[kind]):
        with pytest.raises(BackboneError, match=f"cannot pool '{wrong}': it can pool"):
            backbone.set_pooling(wrong)


@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_without_a_prompt__it_is_the_native_model__bit_for_bit(kind, pooling):
    native = pooled_natively(kind, pooling)
    model = create_model(make(kind), pool=pooling, num_classes=None).eval()
    images = images_for(native)
    with torch.no_grad():
        assert torch.equal(model(images), native_features(native, images))
    assert model.backbone.sha256 == wrap_backbone(make(kind)).sha256


@pytest.mark.parametrize(("kind", "pooling"), CASES)
def test_prompts_as_context__equal_inserted_ones__and_move_the_feature(kind, pooling):
    torch.manual_seed(0)
    model = create_model(make(kind), "vpt_deep", num_tokens=3, pool=pooling, num_classes=None)
    inserted = copy.deepcopy(model)
    inserted.prompted.insert = True
    images = images_for(make(kind))
    feature = model.eval()(images)
    assert torch.allclose(feature, inserted.eval()(images), atol=1e-5)
    assert torch.allclose(model(images[:1]), feature[:1], atol=1e-5)
    bare = create_model(make(kind), pool=pooling, num_classes=None).eval()(images)
    assert (feature - bare).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["test_vit", "dinov3"])
def test_other_poolings__give_other_features(kind):
    images = images_for(make(kind))
    features = [
        create_model(make(kind), pool=pooling, num_classes=None).eval()(images)
        for pooling in POOLINGS[kind]
    ]
    for place, one in enumerate(features):
        assert all((one - other).abs().max() > 1e-2 for other in features[:place])


def test_a_prompt_file__holds_the_pooling__and_comes_back_with_it(tmp_path):
    path = tmp_path / "a.safetensors"
    model = create_model("bundled/glyph_vit", "vpt_deep", pool="avg", num_classes=3).eval()
    save_prompt(model, path)
    header = read_prompt_header(path)
    assert (header.backbone.pool, header.requires) == ("avg", ["pool"])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_prompt(path)(images), model(images))
    assert torch.equal(load_prompt(path, model.backbone)(images), model(images))
    with pytest.raises(PromptFileError, match="by 'avg' pooling, the backbone given pools 'token'"):
        load_prompt(path, create_backbone("bundled/glyph_vit"))
    own = create_model("bundled/glyph_vit", num_classes=3)
    save_prompt(own, path)
    header = read_prompt_header(path)
    assert (header.backbone.pool, header.requires) == ("token", [])


def test_a_module_that_a_user_built__keeps_the_pooling_it_has(tmp_path):
    path = tmp_path / "a.safetensors"
    native = timm.create_model("test_vit", global_pool="avg", fc_norm=False).eval()
    model = create_model(native, num_classes=2).eval()
    save_prompt(model, path)
    assert read_prompt_header(path).backbone.pool == "avg"
    other = copy.deepcopy(native)
    other.global_pool = "token"
    with pytest.raises(PromptFileError, match="'avg' pooling"):
        load_prompt(path, other)


def test_a_shared_backbone__is_copied_before_it_pools_otherwise():
    backbone = create_backbone("bundled/glyph_vit")
    model = create_model(backbone, pool="max", num_classes=2)
    assert model.backbone is not backbone
    assert (model.backbone.pooling, backbone.pooling) == ("max", "token")
    assert create_model(backbone, pool="token", num_classes=2).backbone is backbone


def test_a_bank__holds_tasks_of_one_pooling():
    model = create_model("bundled/glyph_vit", pool="avg", num_classes=2).eval()
    bank = PromptBank(create_backbone("bundled/glyph_vit"), capacity=1, num_tokens=0, num_classes=2)
    with pytest.raises(ConfigError, match="has pooling avg, the bank's backbone token"):
        bank.add("task", model)


def test_heads_of_texts__want_the_towers_own_pooling():
    with pytest.raises(ConfigError, match=r"'token' pooling; leave out backbone\.pool"):
        create_model("bundled/glyph_clip", pool="avg", class_names=["a", "b"], head="zero_shot")
    assert create_model("bundled/glyph_clip", pool="avg", num_classes=2).pooling == "avg"


def test_a_pooling_that_is_none__is_refused_before_weights_are_loaded(monkeypatch):
    def no_download(*args, **options):
        raise AssertionError("downloads")

    monkeypatch.setattr("vpt.backbones.timm_models._create_with_weights", no_download)
    with pytest.raises(BackboneError, match="cannot pool 'cls': it can pool token, avg, avgmax"):
        create_backbone("timm/test_vit", weights="a.safetensors", pool="cls")
