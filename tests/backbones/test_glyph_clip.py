"""The small CLIP that ships with the package: file, towers, renderer, training."""

from __future__ import annotations

import re
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from vpt.backbones import create_backbone
from vpt.backbones.bundled.captioned import (
    DIGIT_WORDS,
    CaptionedRenderer,
    CaptionSettings,
)
from vpt.backbones.bundled.clip_pretraining import (
    ClipPretrainSettings,
    Vocabulary,
    contrastive_loss,
    export_clip,
    pretrain_clip,
)
from vpt.backbones.bundled.glyph_clip import PREPROCESS, WEIGHTS, start_from_glyph_vit
from vpt.backbones.bundled.pen_digits import SKELETONS, pen_atlas, smooth
from vpt.backbones.bundled.recipes import read
from vpt.config import load_yaml
from vpt.data import evaluation_transform, load_descriptor, read_splits
from vpt.text import build_classifier, create_text_tower

ROOT = Path(__file__).parents[2]
MOST_BYTES = 12_000_000
TINY = ClipPretrainSettings(steps=4, batch_size=24, warmup_steps=1, checkpoint_every=2, log_every=1)


@pytest.fixture(scope="module")
def renderer() -> CaptionedRenderer:
    return CaptionedRenderer()


def test_the_weights__are_small_and_loaded_by_open_clips_own_factory__strictly():
    assert WEIGHTS.stat().st_size <= MOST_BYTES
    model = open_clip.create_model(
        "glyph_clip", pretrained=str(WEIGHTS), force_preprocess_cfg=PREPROCESS
    )
    stored = load_file(WEIGHTS)
    assert set(stored) == set(model.state_dict())
    assert all(torch.equal(t, stored[n].float()) for n, t in model.state_dict().items())
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"


def test_words_that_no_caption_has__are_rows_of_zeros__and_no_others():
    rows = load_file(WEIGHTS)["token_embedding.weight"]
    known = set(Vocabulary().tokens.tolist())
    assert set(rows.any(dim=1).nonzero().flatten().tolist()) == known
    assert len(known) < 300


def test_every_caption__is_in_the_vocabulary_and_the_context(renderer):
    vocabulary = Vocabulary()
    end = len(vocabulary.tokens) - 1
    for step in range(20):
        numbers = vocabulary(renderer.render(64, size=16, step=step).captions)
        assert (numbers == end).any(dim=1).all()
        assert (numbers[:, -8:] == 0).all()


def test_zero_shot__reads_real_handwriting_by_words_alone():
    """0.1 is chance; nothing of these scans was trained on."""
    descriptor = load_descriptor(ROOT / "datasets/digits.yaml")
    train = read_splits(descriptor).require("train")
    backbone, tower = create_backbone("bundled/glyph_clip"), create_text_tower("bundled/glyph_clip")
    transform = evaluation_transform(backbone.preprocess)
    images = torch.stack([transform(Image.fromarray(train.array[s.source])) for s in train.samples])
    assert descriptor.text.templates
    classifier = build_classifier(tower, DIGIT_WORDS, descriptor.text.templates)
    with torch.no_grad():
        tokens = backbone.embed(images)
        for index in range(backbone.depth):
            tokens = backbone.run_block(index, tokens)
        predicted = classifier.logits(backbone.pool(tokens)).argmax(dim=1)
    assert (predicted == torch.tensor(train.labels)).float().mean() > 0.6


def test_the_image_tower__starts_as_glyph_vit__up_to_rounding():
    body = timm.create_model("glyph_vit", pretrained=True, num_classes=0).eval()
    visual = open_clip.create_model("glyph_clip").visual.eval()
    start_from_glyph_vit(visual, body)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = visual.ln_post(visual.transformer(visual._embeds(images)))
        torch.testing.assert_close(found, body.forward_features(images), atol=2e-5, rtol=1e-5)


def test_a_batch__is_a_function_of_seed_and_step(renderer):
    one, again = renderer.render(32, step=3), CaptionedRenderer().render(32, step=3)
    assert torch.equal(one.images, again.images)
    assert one.captions == again.captions
    assert torch.equal(one.matches, again.matches)
    assert not torch.equal(one.images, renderer.render(32, step=4).images)
    assert not torch.equal(one.images, CaptionedRenderer(seed=1).render(32, step=3).images)


def test_matches__are_captions_that_are_true_of_a_picture(renderer):
    batch = renderer.render(160, step=5)
    assert batch.matches.diagonal().all()
    assert 0 <= batch.images.min() <= batch.images.max() <= 1
    for picture, caption in batch.matches.nonzero().tolist():
        said, own = batch.captions[caption], batch.captions[picture]
        for place in ("on the left", "on the right", "at the top", "at the bottom"):
            assert place not in said or place in own or " the " not in own or place not in own
        for colour in ("red", "purple"):
            assert (colour in said) == (colour in own)


def test_captions__read_as_sentences(renderer):
    captions = [c for step in range(5) for c in renderer.render(128, size=16, step=step).captions]
    wrong = re.compile(r"\ba (a|an|eight|image|orange)\b|\ban (a|seven|photo|red)\b")
    assert not [caption for caption in captions if wrong.search(caption)]
    assert {"handwritten", "printed"} <= {word for caption in captions for word in caption.split()}


def test_pen_digits__fill_their_cells__in_several_ways():
    cells, digits = pen_atlas()
    assert sorted(set(digits.tolist())) == list(range(10)) == sorted(SKELETONS)
    assert all(len(ways) >= 3 for ways in SKELETONS.values())
    assert (cells.flatten(1).max(dim=1).values > 200).all()
    longest = torch.maximum(cells.amax(1).gt(64).sum(1), cells.amax(2).gt(64).sum(1))
    assert (longest >= 44).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9))
@settings(max_examples=30)
def test_a_smooth_curve__passes_through_its_points(points):
    given_points = torch.tensor(points)
    torch.testing.assert_close(smooth(given_points, steps=5)[::5], given_points)


def test_the_loss__is_cross_entropy_where_each_caption_is_true_of_one_picture():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(5)
    expected = 0.5 * sum(
        torch.nn.functional.cross_entropy(each, target) for each in (logits, logits.T)
    )
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(5).bool()), expected)


def test_training__goes_on_bit_for_bit_and_exports_the_whole_vocabulary(tmp_path):
    torch.set_num_threads(1)
    lines: list[str] = []
    whole = pretrain_clip(TINY, log=lines.append)
    path = tmp_path / "run.safetensors"
    pretrain_clip(TINY, checkpoint=path, stop_after=2)
    resumed = pretrain_clip(TINY, checkpoint=path)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in whole.state_dict().items())
    assert len(lines) == TINY.steps
    export_clip(path, tmp_path / "weights.safetensors", settings=TINY, date="2026-01-01")
    stored = load_file(tmp_path / "weights.safetensors")
    assert {n: t.shape for n, t in stored.items()} == {
        n: t.shape for n, t in load_file(WEIGHTS).items()
    }


def test_a_few_steps__lower_the_loss():
    settings = ClipPretrainSettings(
        steps=8, batch_size=32, warmup_steps=1, log_every=1, pictures=CaptionSettings(digits=0.8)
    )
    losses: list[float] = []
    pretrain_clip(
        settings, log=lambda line: losses.append(float(line.split("loss ")[1].split()[0]))
    )
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.2


def test_the_recipe__is_the_shipped_config():
    recipe = read(load_yaml(ROOT / "configs/pretrain/glyph_clip.yaml"))
    assert recipe.model == "glyph_clip"
    with pytest.raises(ValueError, match="none of glyph_vit"):
        read({"model": "glyph_bert"})
    with pytest.raises(ValueError, match="stepz"):
        read({"model": "glyph_clip", "stepz": 1})
