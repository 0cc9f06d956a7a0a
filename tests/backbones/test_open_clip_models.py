"""open_clip's models by name: what is found, what is refused, and what is said."""

from __future__ import annotations

import logging

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower
from safetensors.torch import save_file

from tests.contracts.kinds import native_features
from vpt.backbones import create_backbone, list_backbones
from vpt.backbones.base import weights_hash
from vpt.backbones.bundled.glyph_clip import WEIGHTS
from vpt.backbones.open_clip_models import create_open_clip, parse_clip_name
from vpt.backbones.open_clip_towers import wrap_image_tower
from vpt.errors import BackboneError
from vpt.models import PromptedBackbone
from vpt.prompts import NoPrompt

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "native": {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32},
    "timm": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
}


@pytest.fixture
def tiny(monkeypatch):
    """Makes tiny architectures known to open_clip, and a file with weights for one of them."""

    def add(kind, tmp_path=None, **options):
        config = {"embed_dim": 24, "vision_cfg": {**TOWERS[kind], **options}, "text_cfg": TEXT}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, f"tiny-{kind}", config)
        if tmp_path is None:
            return None
        torch.manual_seed(3)
        weights = tmp_path / "clip.safetensors"
        save_file(open_clip.create_model(f"tiny-{kind}").state_dict(), weights)
        return weights

    return add


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("ViT-B-32:openai", "ViT-B-32-quickgelu:openai"),
        ("ViT-H-14-378:dfn5b", "ViT-H-14-378-quickgelu:dfn5b"),
        ("ViT-B-16-quickgelu:laion2b_s34b_b88k", "ViT-B-16:laion2b_s34b_b88k"),
    ],
)
def test_weights_of_the_other_activation__are_refused__and_the_right_name_is_given(name, right):
    with pytest.raises(BackboneError, match=f"use 'open_clip/{right}'"):
        create_backbone(f"open_clip/{name}")
    assert parse_clip_name(f"open_clip/{right}").tag == right.partition(":")[2]


def test_weights_without_quick_gelu__are_refused__for_an_architecture_with_it():
    with pytest.raises(BackboneError, match="trained with GELU, 'roberta-ViT-B-32' has QuickGELU"):
        create_backbone("open_clip/roberta-ViT-B-32:laion2b_s12b_b32k")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("open_clip/ViT-B16:openai", "did you mean 'open_clip/ViT-B-16'"),
        ("open_clip/ViT-B-16:laion2b_s34b_b88", "did you mean 'laion2b_s34b_b88k'"),
        ("bundled/glyph_clop", "did you mean 'bundled/glyph_clip'"),
        ("open_clip/ViT-L-14-336", "with a tag of: none is published"),
        ("open_clip/ViT-L-14", "with a tag of: laion400m_e31, "),
    ],
)
def test_an_unknown_name_or_tag__is_refused__with_the_nearest(name, hint):
    with pytest.raises(BackboneError, match=hint):
        create_backbone(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RN50:openai", "a ModifiedResNet"),
        ("RN50x64-quickgelu:openai", "a ModifiedResNet"),
        ("convnext_base:laion400m_s13b_b51k", "timm's 'convnext_base' .of convnext"),
        ("ViTamin-B:datacomp1b", "of vitamin"),
        ("MobileCLIP-S1:datacompdr", "of fastvit"),
        ("MobileCLIP-B:datacompdr", "of vision_transformer_hybrid"),
        ("swin_base_patch4_window7_224", "of swin_transformer"),
        ("vit_relpos_medium_patch16_cls_224", "of vision_transformer_relpos"),
    ],
)
def test_a_tower_without_plain_tokens__is_refused_by_name__before_any_download(name, reason):
    with pytest.raises(BackboneError, match=f"{reason}.*open_clip's VisionTransformer and Timm"):
        create_backbone(f"open_clip/{name}")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("timm", {"timm_pool": "abs_attn", "timm_proj": ""}, "pools a feature map"),
        ("native", {"scaled_cosine_attn": True}, "scaled cosine attention"),
        ("native", {"pool_type": "none"}, "pools nothing"),
        ("native", {"attentional_pool": True, "pool_type": "none"}, "pools nothing"),
    ],
)
def test_what_the_towers_options_rule_out__is_refused(tiny, kind, options, reason):
    tiny(kind, **options)
    with pytest.raises(BackboneError, match=reason):
        create_backbone(f"open_clip/tiny-{kind}", pretrained=False)


def test_the_list__has_open_clips_plain_vision_transformers_alone():
    names = [name for name in list_backbones() if name.startswith("open_clip/")]
    assert {
        "open_clip/ViT-B-16-quickgelu:openai",
        "open_clip/ViT-L-14:laion2b_s32b_b82k",
        "open_clip/ViT-H-14-CLIPA-336:laion2b",
        "open_clip/coca_ViT-L-14:laion2b_s13b_b90k",
        "open_clip/ViT-SO400M-14-SigLIP-384:webli",
        "open_clip/EVA02-L-14:merged2b_s4b_b131k",
        "open_clip/PE-Core-B-16:meta",
    } <= set(names)
    others = ("RN", "convnext", "ViTamin", "MobileCLIP-", "MobileCLIP2-S", "MobileCLIP2-B", "swin")
    assert not [name for name in names if name.removeprefix("open_clip/").startswith(others)]
    assert list_backbones()[:2] == ["bundled/glyph_vit", "bundled/glyph_clip"]
    assert list_backbones("ViT-B-16-SigLIP:*") == ["open_clip/ViT-B-16-SigLIP:webli"]


def test_every_architecture_of_the_list__has_a_tower_that_an_adapter_takes():
    listed = {
        name.removeprefix("open_clip/").partition(":")[0]
        for name in list_backbones()
        if name.startswith("open_clip/")
    }
    assert len(listed) > 60
    towers = {}
    for architecture in listed:
        config = open_clip.get_model_config(architecture)
        key = str(config["vision_cfg"]), config["embed_dim"], config.get("quick_gelu", False)
        towers[key] = config
    with torch.device("meta"):
        for config in towers.values():
            vision = config["vision_cfg"] | {"timm_model_pretrained": False}
            quick = config.get("quick_gelu", False)
            tower = _build_vision_tower(config["embed_dim"], vision, quick)
            backbone = wrap_image_tower(tower)
            assert backbone.feature_dim == config["embed_dim"]
            assert backbone.sha256 is None


# ---------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", TOWERS)
def test_a_local_file_of_the_whole_model__is_loaded_strictly(tiny, kind, tmp_path):
    weights = tiny(kind, tmp_path)
    name = f"open_clip/tiny-{kind}"
    backbone = create_backbone(name, weights=weights)
    native = open_clip.create_model(f"tiny-{kind}", pretrained=str(weights)).visual.eval()
    images = torch.randn(2, 3, *backbone.preprocess.size)
    with torch.no_grad():
        found = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(found, native_features(native, images))
    assert backbone.sha256 == weights_hash(native.state_dict())
    assert (backbone.name, backbone.pretrained, backbone.weights) == (name, True, str(weights))

    state = open_clip.create_model(f"tiny-{kind}").state_dict()
    del state["logit_scale"]
    save_file(state, weights)
    with pytest.raises(BackboneError, match=r"clip.safetensors do not fit .*logit_scale"):
        create_backbone(name, weights=weights)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled weights are not built")
def test_the_bundled_clip__computes_what_open_clip_does__also_in_another_size():
    native = create_open_clip("bundled/glyph_clip").requires_grad_(False)
    backbone = create_backbone("bundled/glyph_clip")
    images = torch.randn(2, 3, *backbone.preprocess.size)
    with torch.no_grad():
        found = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(found, native.encode_image(images))
    assert backbone.preprocess.crop_mode == "squash"
    wider = create_backbone("bundled/glyph_clip", image_size=(48, 64))
    assert (wider.grid, wider.sha256) == ((6, 8), backbone.sha256)


@pytest.mark.parametrize(
    ("file", "reason"),
    [("none.safetensors", "no such file"), ("weights.pt", "only .safetensors files are read")],
)
def test_a_file_that_is_missing_or_of_another_kind__is_refused(tiny, file, reason, tmp_path):
    tiny("native")
    with pytest.raises(BackboneError, match=reason):
        create_backbone("open_clip/tiny-native", weights=tmp_path / file)


def test_without_network__a_download_that_fails_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no\nroute")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", fail)
    with pytest.raises(BackboneError, match=r"no route; without network give backbone\.weights="):
        create_backbone("open_clip/ViT-B-32:laion2b_e16")


@pytest.mark.parametrize("kind", TOWERS)
def test_making_a_tower__is_silent(tiny, kind, capfd, caplog):
    tiny(kind)
    handlers = list(logging.root.handlers)
    with caplog.at_level(logging.DEBUG):
        create_backbone(f"open_clip/tiny-{kind}", pretrained=False)
    assert logging.root.handlers == handlers
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("size", [(48, 48), (32, 48), (16, 16)])
def test_native_positions_of_another_size__are_open_clips_own(tiny, size, tmp_path):
    weights = tiny("native", tmp_path)
    native = open_clip.create_model(
        "tiny-native", pretrained=str(weights), force_image_size=size
    ).visual.eval()
    as_loaded = create_backbone("open_clip/tiny-native", weights=weights)
    backbone = create_backbone("open_clip/tiny-native", weights=weights, image_size=size)
    assert torch.equal(backbone.body.positional_embedding, native.positional_embedding)
    assert backbone.sha256 == as_loaded.sha256 == weights_hash(as_loaded.body.state_dict())
    assert backbone.grid == (size[0] // 8, size[1] // 8)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        found = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(found, native(images))
    with pytest.raises(BackboneError, match="takes images of 32x32 pixels, not"):
        as_loaded.embed(images)


def test_timm_positions_of_another_size__are_open_clips_own(tiny, tmp_path):
    weights = tiny("timm", tmp_path)
    native = open_clip.create_model(
        "tiny-timm", pretrained=str(weights), force_image_size=(64, 96)
    ).visual.eval()
    backbone = create_backbone("open_clip/tiny-timm", weights=weights, image_size=(64, 96))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = PromptedBackbone(backbone, NoPrompt())(images).pooled
        assert torch.equal(found, native(images))
    assert backbone.sha256 == create_backbone("open_clip/tiny-timm", weights=weights).sha256


@pytest.mark.parametrize("kind", TOWERS)
def test_a_size_that_patches_do_not_cover__is_refused(tiny, kind):
    tiny(kind)
    with pytest.raises(BackboneError, match="image_size 36x36 is no multiple of the patch size"):
        create_backbone(f"open_clip/tiny-{kind}", pretrained=False, image_size=36)
