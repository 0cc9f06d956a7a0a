"""Models inside of what torch puts around them: saved, in a bank, as a backbone."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vpt.api import PromptBank, create_model, load_prompt, save_prompt
from vpt.errors import BackboneError, ConfigError
from vpt.models import model_in

OPTIONS = {"num_classes": 2, "class_names": ["ant", "bee"]}


def model_of(prompt: str = "vpt_deep"):
    return create_model("bundled/glyph_vit", prompt, **OPTIONS).eval()


WRAPPERS = {
    "compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model__is_saved_as_the_one_inside(tmp_path, wrapper):
    model = model_of()
    wrapped = WRAPPERS[wrapper](model)
    save_prompt(wrapped, tmp_path / "wrapped.safetensors")
    save_prompt(model, tmp_path / "plain.safetensors")
    one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("wrapped", "plain"))
    assert one == other


def test_a_distributed_model__is_saved_as_the_one_inside(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        model = model_of()
        wrapped = nn.parallel.DistributedDataParallel(model)
        save_prompt(wrapped, tmp_path / "a.safetensors")
    finally:
        torch.distributed.destroy_process_group()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_prompt(tmp_path / "a.safetensors")(images), model(images))


def test_a_bank__takes_wrapped_models():
    model = model_of()
    options = {"capacity": 2, "num_tokens": 50, "num_classes": 2}
    bank = PromptBank(model.backbone, **options)
    bank.add("insects", torch.compile(model))
    bank.replace("insects", nn.DataParallel(model))
    images = torch.randn(2, 3, 32, 32)
    expected = model(images).softmax(dim=-1)
    assert torch.allclose(torch.stack(bank.predict(images, "insects")), expected, atol=1e-5)


def test_a_wrapped_backbone__is_the_one_inside():
    native = timm.create_model("test_vit", img_size=32)
    torch.manual_seed(0)
    plain = create_model(native, num_classes=None)
    images = torch.randn(1, 3, 32, 32)
    for wrapped in (torch.compile(native), nn.DataParallel(native), torch.compile(plain.backbone)):
        assert torch.equal(create_model(wrapped, num_classes=None)(images), plain(images))


def test_what_is_no_model__is_refused_in_one_sentence(tmp_path):
    for wrong in (nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2)), "prompt.safetensors", None):
        with pytest.raises(ConfigError, match="is no model of vpt; pass what create_model"):
            save_prompt(wrong, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"Classifier is not supported .* pass its \.backbone"):
        create_model(model_of(), num_classes=2)
    assert model_in(model_of()).class_names == ["ant", "bee"]
