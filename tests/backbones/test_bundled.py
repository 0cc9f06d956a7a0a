"""The bundled backbone: what it was shown, how it was trained, what it is worth."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from timm.layers import Attention
from timm.models.vision_transformer import Block

from vpt.backbones.bundled import WEIGHTS
from vpt.backbones.bundled.pretraining import (
    CanvasSize,
    PretrainSettings,
    export_weights,
    pretrain,
)
from vpt.backbones.bundled.rendering import (
    FONTS,
    GLYPHS,
    IGNORED,
    NUMERAL_CATEGORIES,
    TARGETS,
    GlyphRenderer,
    _characters,
)

DIGITS_FLOOR = 0.90
"""Mean of three 8-shot probes measured on the shipped file, minus a margin."""

TINY = PretrainSettings(
    seed=3,
    steps=6,
    warmup_steps=1,
    decay_steps=2,
    plain_images=16,
    ramp_images=32,
    precision="float32",
    sizes=(CanvasSize(32, 16, 0.5), CanvasSize(48, 8, 0.5)),
    architecture={"embed_dim": 32, "depth": 2, "num_heads": 2},
    log_every=2,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def renderer() -> GlyphRenderer:
    return GlyphRenderer(0)


def test_alphabet__has_no_numeral_of_any_script() -> None:
    drawn = {character for font in FONTS for _, character in _characters(font, GLYPHS)} | set(
        GLYPHS
    )
    assert len(drawn) > 300
    assert not [c for c in drawn if unicodedata.category(c) in NUMERAL_CATEGORIES]
    assert not [c for c in drawn if unicodedata.numeric(c, None) is not None]
    # Compatibility forms such as circled or mathematical digits decompose into digits.
    decomposed = {d for c in drawn for d in unicodedata.normalize("NFKD", c)}
    assert not [d for d in decomposed if unicodedata.category(d) in NUMERAL_CATEGORIES]


def test_alphabet__has_every_glyph_once() -> None:
    assert len(set(GLYPHS)) == len(GLYPHS)


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
@pytest.mark.parametrize("size", [32, 96])
def test_render__gives_images_and_targets_in_range(
    renderer: GlyphRenderer, size: int, difficulty: float
) -> None:
    batch = renderer.render(24, size=size, difficulty=difficulty, step=5)
    assert batch.images.shape == (24, 3, size, size)
    assert batch.coverage.shape == (24, 1, size, size)
    assert 0.0 <= batch.images.min() < batch.images.max() <= 1.0
    assert set(batch.targets) == set(TARGETS)
    for name, target in batch.targets.items():
        assert target.shape == (24,)
        known = target[target != IGNORED]
        assert ((known >= 0) & (known < TARGETS[name])).all(), name


def test_render__same_seed_and_step__is_bit_identical(renderer: GlyphRenderer) -> None:
    first = renderer.render(8, step=7)
    renderer.render(8, step=8)
    again = GlyphRenderer(0).render(8, step=7)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets["symbol"], again.targets["symbol"])


def test_render__other_step_or_seed__is_another_batch(renderer: GlyphRenderer) -> None:
    first = renderer.render(8, step=7).images
    assert not torch.equal(first, renderer.render(8, step=8).images)
    assert not torch.equal(first, GlyphRenderer(1).render(8, step=7).images)


def test_render__easiest__is_grey_on_black(renderer: GlyphRenderer) -> None:
    images = renderer.render(32, difficulty=0.0).images
    assert torch.equal(images[:, 0], images[:, 1])
    assert images.median() == 0.0


def test_render__difficulty_out_of_range__is_refused(renderer: GlyphRenderer) -> None:
    with pytest.raises(ValueError, match=r"difficulty 1\.5"):
        renderer.render(2, difficulty=1.5)


def test_pretrain__learns_on_a_fixed_easy_task() -> None:
    lines: list[str] = []
    settings = PretrainSettings(
        steps=60,
        warmup_steps=5,
        decay_steps=1,
        lr=3e-3,
        plain_images=10_000,
        precision="float32",
        sizes=(CanvasSize(32, 32, 1.0),),
        loss_weights={"coverage": 1.0},
        architecture={"embed_dim": 32, "depth": 1, "num_heads": 2},
        log_every=20,
    )
    pretrain(settings, log=lines.append)
    losses = [float(line.partition("loss ")[2].split()[0]) for line in lines]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def test_pretrain__resumed__equals_uninterrupted(tmp_path: Path) -> None:
    whole = pretrain(TINY, checkpoint=tmp_path / "whole.safetensors")
    pretrain(TINY, checkpoint=tmp_path / "parts.safetensors", stop_after=3)
    parts = pretrain(TINY, checkpoint=tmp_path / "parts.safetensors")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    files = [tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"]
    assert _tensors(files[0]).keys() == _tensors(files[1]).keys()
    assert all(torch.equal(t, _tensors(files[1])[n]) for n, t in _tensors(files[0]).items())


def test_pretrain__bfloat16__trains_fp32_weights() -> None:
    torch.manual_seed(0)
    settings = PretrainSettings.from_dict(
        {"steps": 2, "warmup_steps": 1, "decay_steps": 1, "seed": 3}
        | {"sizes": [{"size": 32, "batch_size": 4, "probability": 1.0}]}
        | {"architecture": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
    )
    backbone = pretrain(settings)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in backbone.parameters())


def test_pretrain__exploding_loss__raises_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    pretrain(TINY, checkpoint=path, stop_after=2)
    kept = path.read_bytes()
    broken = PretrainSettings(**{**vars(TINY), "lr": 1e30})
    with pytest.raises(FloatingPointError, match="step"):
        pretrain(broken, checkpoint=path)
    assert path.read_bytes() == kept


def test_settings__unknown_key__is_named() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        PretrainSettings.from_dict({"learning_rate": 1.0})
    with pytest.raises(ValueError, match="colour"):
        PretrainSettings.from_dict({"loss_weights": {"colour": 1.0}})
    with pytest.raises(ValueError, match="float8"):
        PretrainSettings.from_dict({"precision": "float8"})


def test_settings__schedules__start_and_end_where_they_say() -> None:
    settings = PretrainSettings(steps=100, warmup_steps=10, decay_steps=20, lr=1.0)
    assert settings.lr_at(0) == pytest.approx(0.1)
    assert settings.lr_at(50) == 1.0
    assert settings.lr_at(99) == pytest.approx(0.05)
    assert settings.difficulty_at(settings.plain_images) == 0.0
    assert settings.difficulty_at(settings.plain_images + settings.ramp_images) == 1.0


def test_export__is_fp16_and_says_what_made_it(tmp_path: Path) -> None:
    checkpoint, exported = tmp_path / "run.safetensors", tmp_path / "weights.safetensors"
    backbone = pretrain(TINY, checkpoint=checkpoint)
    metadata = export_weights(checkpoint, exported, settings=TINY, date="2026-01-01")
    assert json.loads(metadata["settings"])["seed"] == 3
    tensors = _tensors(exported)
    assert tensors.keys() == backbone.state_dict().keys()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensors[name], tensor.half()), name


def test_packaged_file__is_small_fp16_and_documented() -> None:
    assert WEIGHTS.stat().st_size <= 10_000_000
    assert {t.dtype for t in _tensors(WEIGHTS).values()} == {torch.float16}
    with safe_open(WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["license"] == "Apache-2.0"
    assert {"seed", "images", "date", "trained_on", "settings"} <= metadata.keys()


def test_create_model__any_directory__is_an_ordinary_timm_vit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("glyph_vit", pretrained=True, num_classes=0).eval()
    assert {type(block) for block in model.blocks} == {Block}
    assert {type(block.attn) for block in model.blocks} == {Attention}
    packaged = _tensors(WEIGHTS)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, packaged[name].float()), name


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("how", ["img_size", "dynamic"])
def test_create_model__pretrained__gives_finite_features(size: int, how: str) -> None:
    options = {"img_size": size} if how == "img_size" else {"dynamic_img_size": True}
    model = timm.create_model("glyph_vit", pretrained=True, num_classes=0, **options).eval()
    with torch.no_grad():
        features = model(GlyphRenderer(0).render(4, size=size).images)
    assert features.shape == (4, model.num_features)
    assert features.isfinite().all()
    assert features.std(0).min() > 0


def test_create_model__with_classes__has_a_fresh_head() -> None:
    model = timm.create_model("glyph_vit", pretrained=True, num_classes=7)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert torch.equal(model.cls_token, _tensors(WEIGHTS)["cls_token"].float())


def test_shipped_features__separate_handwritten_digits_they_never_saw() -> None:
    digits = load_digits()
    model = timm.create_model("glyph_vit", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        features = model(torch.stack([_as_input(scan) for scan in digits.images[:1000]])).numpy()
    labels = digits.target[:1000]
    accuracies = [_probe(features, labels, shots=8, seed=seed) for seed in range(3)]
    assert np.mean(accuracies) > DIGITS_FLOOR


def _as_input(scan: np.ndarray) -> torch.Tensor:
    picture = Image.fromarray((scan * (255 / 16)).astype(np.uint8))
    pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).expand(3, -1, -1)


def _probe(features: np.ndarray, labels: np.ndarray, *, shots: int, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(labels))
    train = np.concatenate([order[labels[order] == digit][:shots] for digit in range(10)])
    test = np.setdiff1d(order, train)
    scaler = StandardScaler().fit(features[train])
    probe = LogisticRegression(max_iter=500).fit(scaler.transform(features[train]), labels[train])
    return float(probe.score(scaler.transform(features[test]), labels[test]))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(os.fspath(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
