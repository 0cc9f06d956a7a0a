"""torch.export: one graph for any number of images, with the very numbers of the model."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.kinds import KINDS, images_for, make
from vpt.api import create_model, list_prompts

BATCH = ({0: torch.export.Dim("batch", min=2, max=64)},)


def assert_exports(model, native) -> None:
    """Exported from two images, it gives what the model gives of one, three and eight."""
    exported = torch.export.export(model, (images_for(native),), dynamic_shapes=BATCH).module()
    for count in (1, 3, 8):  # in the grad mode of the export: torch's attention differs by it
        images = images_for(native, count, seed=count)
        assert (exported(images) - model(images)).abs().max() == 0.0


@pytest.mark.parametrize("kind", ["test_vit", "dinov3", "clip_tok"])
@pytest.mark.parametrize("way", ["context", "inserted"])
def test_any_batch_size__is_exported__whichever_way_the_prompts_go(kind, way):
    native = make(kind)
    model = create_model(native, "vpt_deep", num_tokens=3, num_classes=4).eval()
    model.prompted.insert = way == "inserted"
    assert_exports(model, native)


def test_a_baked_model__is_exported():
    native = make("test_vit")
    model = create_model(native, "vpt_deep", num_tokens=3, num_classes=4).eval().bake()
    assert_exports(model, native)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone__is_exported(kind):
    native = make(kind)
    assert_exports(create_model(native, "vpt_deep", num_tokens=3, num_classes=4).eval(), native)


OPTIONS = {"pixels": {"width": 4}}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", list_prompts())
def test_every_prompt__is_exported(prompt):
    native = make("test_vit")
    model = create_model(native, prompt, num_classes=4, **OPTIONS.get(prompt, {})).eval()
    assert_exports(model, native)
