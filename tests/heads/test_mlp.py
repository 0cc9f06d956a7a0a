"""The MLP head: its layers, its numbers, and that it is saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.contracts.kinds import images_for, make
from vpt.api import create_model, load_prompt, save_prompt
from vpt.errors import ConfigError
from vpt.structures import Features


@pytest.mark.parametrize(("layers", "width"), [(2, None), (3, 7)])
def test_mlp_k__is_k_linear_layers_with_relu_between(layers, width):
    native = make("test_vit")
    head = {"name": "mlp", "layers": layers, "width": width, "dropout": 0.5}
    model = create_model(native, "none", num_classes=5, head=head).eval()
    wide = width or 64
    hidden = 64 * wide + wide + (layers - 2) * (wide * wide + wide)
    assert sum(p.numel() for p in model.trainable_parameters()) == hidden + 5 * wide + 5
    steps = [step for linear in model.head.hidden for step in (linear, nn.ReLU())]
    pooled = torch.randn(4, 64)
    expected = nn.Sequential(*steps, model.head.last)(pooled)
    assert torch.equal(model.head(Features((4, 6), pooled=pooled)), expected)
    model.head.train()
    assert not torch.equal(model.head(Features((4, 6), pooled=pooled)), expected)


def test_an_mlp__is_saved_and_loaded(tmp_path):
    native = make("test_vit")
    model = create_model(native, "vpt_deep", num_classes=5, head="mlp").eval()
    save_prompt(model, tmp_path / "p.safetensors")
    images = images_for(native)
    with torch.no_grad():
        assert torch.equal(load_prompt(tmp_path / "p.safetensors", native)(images), model(images))


def test_one_layer__is_refused():
    with pytest.raises(ConfigError, match="layers"):
        create_model(make("test_vit"), num_classes=2, head={"name": "mlp", "layers": 1})
