"""What is kept for the backward pass: counted without values, and down to what autograd needs."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch.func import functional_call, grad
from torch.profiler import ProfilerActivity, profile

from tests.contracts.kinds import images_for, make
from tests.contracts.test_backbone_contract import token_prompt
from vpt.backbones import wrap_backbone
from vpt.heads import LinearHead
from vpt.models import Classifier, PromptedBackbone, count_saved

BATCH = 4


def classifier(kind="test_vit", num_tokens=12, **options):
    native = make(kind)
    backbone = wrap_backbone(native)
    prompt = token_prompt(native, num_tokens=num_tokens, **options)
    return Classifier(PromptedBackbone(backbone, prompt), LinearHead(backbone.feature_dim, 5))


def measured(model, images) -> int:
    """Bytes that are allocated by a forward pass and not given back, but for its output."""
    model.train()(images)  # what is made once is there
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        logits = model(images)
    del images
    return sum(e.self_cpu_memory_usage for e in record.key_averages()) - logits.nbytes


@pytest.mark.parametrize("kind", ["test_vit", "eva02", "clip_tok"])
@pytest.mark.parametrize("insert", [False, True])
def test_the_count__is_what_the_allocator_says(kind, insert):
    model = classifier(kind)
    images = images_for(model.backbone.body, BATCH)
    counted = count_saved(model, BATCH, insert=insert)
    model.prompted.insert = insert
    assert counted.total == pytest.approx(measured(model, images) / BATCH, rel=0.01)
    assert sum(counted.blocks) <= counted.total


def test_a_block_with_context__keeps_ten_rows_per_token__and_its_prompt_once():
    prompts, more = 7, 23  # 32 and 48 keys: no padding
    model = classifier("avg_no_fc_norm", num_tokens=prompts)  # every token is read to the end
    backbone = model.backbone
    tokens = backbone.num_prefix + backbone.grid[0] * backbone.grid[1]
    heads, width = 4, backbone.embed_dim
    rows = 10 * tokens * width  # into both norms, q, k, v, attended, and the MLP's 4 D
    norms, sums = 4 * tokens, heads * tokens
    once = 2 * prompts * width + 2 * prompts  # keys and values, and the norm of the rows
    floor = 4 * (rows + norms + sums + once / BATCH)
    saved = count_saved(model, BATCH)
    assert saved.blocks[1] == pytest.approx(floor, rel=0.01)
    larger = count_saved(classifier("avg_no_fc_norm", num_tokens=more), BATCH)
    added = 4 * once / BATCH * (more - prompts) / prompts
    assert larger.blocks[1] - saved.blocks[1] == pytest.approx(added, rel=0.01)


@pytest.mark.parametrize("kind", ["siglip", "qk_norm", "eva02", "dinov3", "clip_tok", "clip_pe"])
def test_context__keeps_less_than_insertion(kind):
    model = classifier(kind)
    assert count_saved(model, BATCH).total < 0.8 * count_saved(model, BATCH, insert=True).total


def test_grad_checkpointing__keeps_what_enters_each_block():
    model = classifier("avg_no_fc_norm")
    model.prompted.grad_checkpointing = True
    backbone = model.backbone
    tokens = backbone.num_prefix + backbone.grid[0] * backbone.grid[1]
    entered = 4 * tokens * backbone.embed_dim
    assert all(block < 1.8 * entered for block in count_saved(model, BATCH).blocks)


def test_prompts_from_layer_2_on__keep_nothing_of_the_blocks_before():
    model = classifier(layers=(2, 3, 4, 5))
    blocks = count_saved(model, BATCH).blocks
    assert blocks[:2] == (0, 0)
    assert min(blocks[2:]) > 0


def test_counting__leaves_the_model_alone():
    model = classifier().eval()
    before = copy.deepcopy(model.state_dict())
    attributes = set(vars(model.backbone))
    count_saved(model, BATCH)
    assert not model.training
    assert set(vars(model.backbone)) == attributes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gradients_by_torch_func__are_autograds():
    model = classifier()
    images = torch.randn(2, 3, *model.preprocess.size)
    trained = {name: t for name, t in model.named_parameters() if t.requires_grad}

    def largest(tensors):
        return functional_call(model, tensors, (images,)).max()

    found = grad(largest)({name: tensor.detach() for name, tensor in trained.items()})
    model(images).max().backward()
    for name, tensor in trained.items():
        torch.testing.assert_close(found[name], tensor.grad)
