"""The counts behind the speed of prompts as context, on a real size: 224 px, patches of 16 px."""

from __future__ import annotations

import pytest

from vpt.api import create_model
from vpt.models import count_flops, count_saved

BATCH = 8


@pytest.mark.parametrize(
    ("num_tokens", "step", "forward", "saved"), [(50, 0.75, 0.80, 0.80), (100, 0.62, 0.65, 0.65)]
)
def test_context__against_insertion__in_flops_and_saved_bytes(num_tokens, step, forward, saved):
    model = create_model(
        "timm/vit_tiny_patch16_224",
        {"name": "vpt_deep", "num_tokens": num_tokens},
        num_classes=10,
        pretrained=False,
    )
    plain = create_model("timm/vit_tiny_patch16_224", "none", num_classes=10, pretrained=False)
    context, insertion = count_flops(model, BATCH), count_flops(model, BATCH, insert=True)
    assert context.step <= step * insertion.step
    assert context.forward <= forward * insertion.forward
    assert context.forward <= 1.03 * count_flops(plain, BATCH).forward
    kept = count_saved(model, BATCH).total, count_saved(model, BATCH, insert=True).total
    assert kept[0] <= saved * kept[1]
