"""What a baked model is on every backbone with every prompt: the same, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle  # noqa: TID251 - the model must survive it, as loaders and launchers pickle

import pytest
import torch

from tests.contracts.kinds import images_for, make
from tests.contracts.test_backbone_contract import kinds as every_backbone
from tests.contracts.test_detector_contract import build as build_detector
from tests.contracts.test_model_contract import CASES, VARIANTS, build, take_steps
from vpt.api import load_prompt, save_prompt
from vpt.backbones import wrap_backbone
from vpt.errors import ConfigError
from vpt.models import count_flops
from vpt.structures import Letterbox

DEEP = {"name": "vpt_deep", "num_tokens": 3}
TOKENS = [DEEP, {"name": "vpt_deep", "num_tokens": 2, "layers": [0, 2]}, "vpt_shallow"]
ONE_OF_EACH_ATTENTION = [
    *("dinov3", "clip_tok", "clip_custom"),
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("test_vit", "siglip", "rope_grouped")
    ),
]
BFLOAT16 = {"device_type": "cpu", "dtype": torch.bfloat16}


def moved(model, seed=5):
    """The model in eval, with prompts that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.prompt.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def check(model, images):
    """Baked and unbaked, in fp32 and under autocast; the number of baked layers."""
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(model.bake()(images), expected)
        count = len(model.baked_layers)
        assert torch.equal(model.unbake()(images), expected)
        with torch.autocast(**BFLOAT16):
            rough = model(images)
            assert torch.equal(model.bake()(images), rough)
        assert model.unbake().baked_layers == ()
    return count


@every_backbone
def test_every_backbone__baked__gives_the_same_bits(kind):
    backbone = wrap_backbone(make(kind))
    counts = [check(moved(build(backbone, each)), images_for(make(kind))) for each in TOKENS]
    takes = backbone.takes_context(0)
    # Of the layers 0 and 2 the second is the last of the blocks, but for the deeper test_vits.
    assert counts == [takes * backbone.depth, takes * int(backbone.depth == 3), 0]


@pytest.mark.parametrize("kind", ONE_OF_EACH_ATTENTION)
def test_every_prompt__baked__gives_the_same_bits(kind):
    backbone, images = wrap_backbone(make(kind)), images_for(make(kind))
    for options, _ in [*CASES.values(), *VARIANTS.values()]:
        check(moved(build(backbone, options)), images)


def test_keys_of_deltas_and_learned_keys__are_baked_with_the_tokens():
    lora, kv = {"name": "lora", "targets": ["key"]}, {"name": "kv", "num_tokens": 4}
    model = moved(build(make("eva02"), [lora, DEEP, kv, {"name": "adapter", "width": 4}])).bake()
    assert model.baked_layers == (0, 1, 2)
    assert all(each.keys.shape == (1, 4, 7, 8) for each in model.prompted.baked.contexts.values())


def test_a_detector__baked__gives_the_same_bits():
    model = moved(build_detector())
    images = torch.randn(2, 3, *model.preprocess.size)
    boxes = [Letterbox.fit((20, 30), min(model.preprocess.size))] * 2
    expected = model.predict(images, boxes)
    found = model.bake().predict(images, boxes)
    assert len(model.baked_layers) == model.backbone.depth
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.scores, other.scores)


def test_a_baked_model__computes_no_keys_of_prompts_again():
    model = moved(build(make("siglip"), {"name": "vpt_deep", "num_tokens": 50}))
    before = count_flops(model, 1).forward
    after = count_flops(model.bake(), 1).forward
    assert before - after == model.backbone.depth * 50 * 2 * 2 * 32 * 32
    assert model.baked_layers


def test_a_head_that_reads_prompts__gets_those_of_its_layer():
    model = moved(build(make("test_vit"), DEEP))
    images = images_for(make("test_vit"))
    with torch.no_grad():
        expected = model.prompted(images, need=("prompts",)).prompts
        assert torch.equal(model.bake().prompted(images, need=("prompts",)).prompts, expected)


def test_copies__are_baked__and_files_are_as_before(tmp_path):
    native = make("test_vit")
    model, images = moved(build(native, [DEEP, "kv"])), images_for(native)
    names = list(model.state_dict())
    save_prompt(model, tmp_path / "plain.safetensors")
    with torch.no_grad():
        expected = model.bake()(images)
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        unpickled = torch.load(saved, weights_only=False)  # noqa: TID251 - whole models, by users
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), unpickled):
            assert twin.baked_layers == model.baked_layers
            assert torch.equal(twin(images), expected)
            twin.prompt.prompts[0].tokens.zero_()
            with pytest.raises(ConfigError, match="changed since bake"):
                twin(images)
        assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == names
    save_prompt(model, tmp_path / "baked.safetensors")
    plain, baked = (tmp_path / f"{name}.safetensors" for name in ("plain", "baked"))
    assert plain.read_bytes() == baked.read_bytes()
    with torch.no_grad():
        assert torch.equal(load_prompt(baked, native)(images), expected)


def test_what_changes_the_prompt__unbakes_or_is_refused():
    native = make("test_vit")
    model, images = moved(build(native, DEEP)).bake(), images_for(native)
    other = moved(build(native, DEEP), seed=6)
    trained = dict(other.trained_tensors())
    with torch.no_grad():
        expected = other(images)
        model.load_trained(trained)
        assert torch.equal(model(images), expected)
        model.bake().load_state_dict(other.state_dict())
        assert torch.equal(model(images), expected)
    assert model.baked_layers == ()
    model.bake()
    take_steps(model, native, 1)
    assert model.baked_layers == ()
    with torch.no_grad():
        model.bake().prompt.tokens.add_(1.0)
        for state in (model, copy.deepcopy(model)):
            with pytest.raises(ConfigError, match=r"changed since bake\(\); call bake\(\) again"):
                state(images)
        model.bake().prompt.tokens = torch.nn.Parameter(torch.zeros_like(model.prompt.tokens))
        with pytest.raises(ConfigError, match="changed since bake"):
            model(images)
    with pytest.raises(ConfigError, match=r"is training; call eval\(\) first"):
        model.train().bake()


def test_as_baked__leaves_the_model_as_it_was():
    model = moved(build(make("test_vit"), DEEP))
    model.train()
    with model.as_baked():
        assert model.baked_layers
        assert not model.training
    assert model.training
    assert not model.baked_layers
    model.eval().bake()
    with model.as_baked():
        pass
    assert model.baked_layers


def test_prompts_that_get_a_gradient__are_not_taken_as_baked():
    native = make("test_vit")
    model = moved(build(native, DEEP)).bake()
    model(images_for(native)).sum().backward()
    assert model.prompt.tokens.grad.abs().max() > 0


def test_another_precision__is_refused__and_casts_and_moves_go_along():
    native = make("test_vit")
    model, images = moved(build(native, DEEP)).bake(), images_for(native)
    with torch.autocast(**BFLOAT16), pytest.raises(ConfigError, match=r"autocast None.*bfloat16"):
        model.predict(images)
    low = copy.deepcopy(model).bfloat16()
    assert {t.dtype for t in low.prompted.baked.buffers()} == {torch.bfloat16}
    with torch.no_grad():
        assert (low(images.bfloat16()).float() - model(images)).abs().max() < 0.2
        assert torch.equal(low.bake()(images.bfloat16()), low.unbake()(images.bfloat16()))
        assert model.to("meta")(images.to("meta")).shape == (2, 5)
    assert model.baked_layers


def test_a_baked_model__is_one_graph():
    native = make("clip_tok")
    model, images = moved(build(native, DEEP)).bake(), images_for(native)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
