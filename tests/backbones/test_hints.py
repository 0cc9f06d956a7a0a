"""What a wrong backbone name, another network, or a weight file of another model is answered."""

from __future__ import annotations

import pytest
import timm
from safetensors.torch import save_file

from vpt.backbones import create_backbone
from vpt.errors import BackboneError


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("resnet50", "'timm/resnet50' is a ResNet.*e.g. 'timm/vit_small_patch16_224' of about its"),
        ("timm/resnet18.a1_in1k", "is a ResNet.*'timm/vit_tiny_patch16_224' of about its size"),
        ("timm/swin_tiny_patch4_window7_224", "is a SwinTransformer.*'timm/vit_small_patch16_224'"),
        ("vit_base_patch16_224", r"did you mean 'timm/vit_base_patch16_224'\?"),
        ("google/vit-base-patch16-224", r"did you mean 'timm/vit_base_patch16_224'\?"),
        ("glyph_vit", r"did you mean 'bundled/glyph_vit'\?"),
        ("ViT-B-16", r"did you mean 'open_clip/ViT-B-16:"),
        ("timm/vit_base_patch16_225", "did you mean 'timm/vit_base_patch16_224' or"),
        ("facebook/dinov2-base", r"vpt list backbones '\*dinov2\*' shows names with 'dinov2'"),
        ("", "names are timm/<model>, open_clip/<architecture>:<tag> or bundled/<model>"),
    ],
)
def test_a_name_that_is_none__leads_to_one_that_is(name, saying):
    with pytest.raises(BackboneError, match=saying):
        create_backbone(name)


def weights_of(tmp_path, change):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(change(state), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (
            lambda state: {f"encoder.{name}": tensor for name, tensor in state.items()},
            "of the 78 tensors expected it has 0; missing are such as 'cls_token' and 'norm.bias', "
            "but others such as 'encoder.",
        ),
        (
            lambda state: {name: tensor for name, tensor in state.items() if ".1.attn" not in name},
            "of the 78 tensors expected it has 74; missing are such as 'blocks.1.attn.qkv.weight' "
            "and 'blocks.1.attn.proj.bias'",
        ),
        (
            lambda state: {**state, "norm.bias": state["norm.bias"][:7].clone()},
            "its tensor 'norm.bias' has the shape (7,), expected is (64,)",
        ),
        (
            lambda state: {**state, "more": state["norm.bias"].clone()},
            "it has 1 tensors more than the 78 expected",
        ),
    ],
)
def test_weights_of_another_model__are_told_by_their_tensors(tmp_path, change, saying):
    path = weights_of(tmp_path, change)
    with pytest.raises(BackboneError) as error:
        create_backbone("timm/test_vit", weights=path)
    assert str(error.value).startswith(f"weights {path} do not fit 'timm/test_vit': {saying}")
    assert "\n" not in str(error.value)


def test_weights_of_another_model__are_told_of_a_clip_too(tmp_path):
    path = weights_of(tmp_path, lambda state: state)
    with pytest.raises(BackboneError, match="tensors expected it has 0; missing are such as 'pos"):
        create_backbone("bundled/glyph_clip", weights=path)
