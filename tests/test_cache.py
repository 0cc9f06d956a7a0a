"""What is kept of images changes no bit of a run, and is refused where it would."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.contracts.kinds import images_for, make
from tests.fixtures import make_folder
from tests.multi_label import make_squares
from tests.test_cli import fails_in_one_line, run
from tests.test_runs import assert_same_run, attempts_until_done, signal_in_training
from tests.training import make_config
from vpt.api import create_model
from vpt.backbones import create_backbone, wrap_backbone
from vpt.config import dump
from vpt.data.loading.loader import ImageDataset
from vpt.errors import ConfigError
from vpt.experiment import build, plan_cache
from vpt.models import Classifier
from vpt.runs import probe, train
from vpt.runs.cache import Start, place_free
from vpt.runs.feeding import fit_data

pytestmark = pytest.mark.usefixtures("no_drawing")

CPU = torch.device("cpu")
LAST_2 = {"name": "vpt_deep", "num_tokens": 2, "layers": {"last": 2}}

RECIPES = {
    "linear": {"prompt": "none"},
    "mlp": {"prompt": "none", "head": "mlp", "optim__accumulation": 2},
    "last_2_prompts": {"prompt": {**LAST_2, "dropout": 0.2}, "data__num_workers": 2},
    "last_2_blocks": {"prompt": "none", "tuning": "last:2", "loss__label_smoothing": 0.1},
    "prompts_and_blocks": {"prompt": LAST_2, "tuning": "last:1", "optim__accumulation": 3},
    "inside": {"prompt": {"name": "lora", "rank": 2, "layers": {"last": 1}, "dropout": 0.2}},
    "deep": {"prompt": {"name": "vpt_deep", "num_tokens": 2, "init": "patches"}},
    "norms": {"prompt": "none", "tuning": "norm", "optim__name": "sgd"},
    "bf16": {"prompt": LAST_2, "train__precision": "bf16", "data__eval_batch_size": 5},
    "linear_bf16": {"prompt": "none", "train__precision": "bf16"},
    "balance": {"prompt": LAST_2, "data__balance": True},
    "large_batch": {"prompt": "none", "data__batch_size": 64},
    "clip": {
        "backbone": "bundled/glyph_clip",
        "prompt": LAST_2,
        "head": {"name": "zero_shot", "context": {"num_tokens": 2}},
        "loss__consistency": {"image": 10, "text": 25, "logits": 1},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """13 training images (5, 5, 3 per class): four batches, the last of one image."""
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, images=5)
    for index in (1, 3):
        (root / "train" / "class_2" / f"{index}.png").unlink()
    return root


def config_of(path, data, cache, **changes):
    given = {"data__transform": "none", "train__epochs": 3, **changes}
    return make_config(path, data, data__cache=cache, **given)


def both(tmp_path, data, *, body=None, **changes):
    """The lines of a run with a cache, which equals one without, bit for bit."""
    lines: list[str] = []
    for cache in ("none", "memory"):
        config = config_of(tmp_path / cache, data, cache, **changes)
        train(config, backbone=body, log=lines.append if cache == "memory" else print)
    assert_same_run(tmp_path / "memory", tmp_path / "none")
    return [line for line in lines if line.startswith("cache: ")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_with_a_cache__is_the_run_without__bit_for_bit(recipe, data, tmp_path):
    lines = both(tmp_path, data, **RECIPES[recipe])
    assert [line.split(" images")[0] for line in lines[:2]] == [
        "cache: keeps 13 training",
        "cache: keeps 15 validation",
    ]


def test_images_of_several_classes__are_kept_with_their_targets(tmp_path):
    both(tmp_path, make_squares(tmp_path / "squares"), **RECIPES["linear"])


def test_mixed_images__are_other_ones_each_time(data, tmp_path):
    mixed = {"prompt": "none", "data__mix": {"mixup_alpha": 0.4}}
    with pytest.raises(ConfigError, match=r"cannot be kept, because data\.mix mixes them"):
        train(config_of(tmp_path / "run", data, "memory", **mixed))
    lines: list[str] = []
    train(config_of(tmp_path / "run", data, "auto", **mixed), log=lines.append)
    assert any("keeps 15 validation" in line for line in lines)


def test_a_compiled_model__does_without(data, tmp_path):
    compiled = {"prompt": "none", "train__compile": "default"}
    with pytest.raises(ConfigError, match=r"cannot be kept, because train\.compile changes"):
        build(config_of(tmp_path / "run", data, "memory", **compiled))
    experiment = build(config_of(tmp_path / "run", data, "auto", **compiled))
    assert not plan_cache(experiment.config, experiment.model, experiment.splits).train


def test_a_run_without_validation__keeps_its_training_images(data, tmp_path):
    changes = {"data__train_on": "train_and_val", "train__select": "last", "prompt": LAST_2}
    lines = both(tmp_path, data, **changes)
    assert [line.split(" x ")[0] for line in lines] == ["cache: keeps 28 training images"]


@pytest.mark.parametrize(
    "kind", ["siglip", "eva02", "dinov3", "rope_mixed", "res_post", "clip_custom", "clip_pe"]
)
@pytest.mark.parametrize(
    "recipe",
    [
        "last_2_prompts",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ("linear", "last_2_blocks")),
    ],
)
def test_every_family__gives_the_same_bits(kind, recipe, data, tmp_path):
    both(tmp_path, data, body=wrap_backbone(make(kind)), train__epochs=2, **RECIPES[recipe])


@pytest.mark.parametrize("recipe", ["linear", "last_2_prompts", "balance"])
def test_stopped_after_every_step__a_rebuilt_cache_ends_bit_identical(
    recipe, data, tmp_path, monkeypatch
):
    train(config_of(tmp_path / "none", data, "none", **RECIPES[recipe]))
    signal_in_training(monkeypatch, lambda step: True)
    changes = {**RECIPES[recipe], "data__num_workers": 0}
    assert attempts_until_done(config_of(tmp_path / "memory", data, "memory", **changes)) == 12
    monkeypatch.undo()
    assert_same_run(tmp_path / "memory", tmp_path / "none")


def test_each_image__is_read_once(data, monkeypatch):
    read, get = [], ImageDataset.__getitem__

    def noting(self, item):
        read.append((self.split.name, item[1]))
        return get(self, item)

    monkeypatch.setattr(ImageDataset, "__getitem__", noting)
    for name, expected in (("none", 3 * 28), ("memory", 28)):
        read.clear()
        # One batch: a last one that is smaller is not kept on every processor.
        options = {"prompt": "none", "data__batch_size": 13}
        batches = fit_data(build(config_of("unused", data, name, **options)), CPU)
        for epoch in range(3):
            assert sum(len(batch.images) for batch in batches.train(epoch, 0)) == 13
            with torch.no_grad():
                assert sum(len(batch.images) for batch in batches.val()) == 15
        assert len(read) == expected
    assert len(set(read)) == 28


def test_augmented_images__are_computed_every_epoch__validation_is_kept(data, tmp_path):
    changes = {"data__transform": {"name": "random_resized_crop"}, "prompt": LAST_2}
    lines: list[str] = []
    for cache in ("none", "auto"):
        train(config_of(tmp_path / cache, data, cache, **changes), log=lines.append)
    assert_same_run(tmp_path / "auto", tmp_path / "none")
    assert [line for line in lines if line.startswith("cache")] == [
        "cache: computes training images every epoch, because data.transform random_resized_crop "
        "changes them each time",
        "cache: keeps 15 validation images x 5 tokens x 64 x 4 bytes = 19.20 kB, before block 4",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__transform": "resize_crop"}, "data.transform resize_crop changes them each time"),
        ({"prompt": {"name": "pixels", "width": 4}}, "the prompt changes the images themselves"),
        ({"prompt": ["vpt_deep", {"name": "pixels", "width": 4}]}, "the prompt changes the images"),
        ({"tuning": "bias"}, "tuning bias trains what comes before the first block"),
        ({"tuning": "full"}, "tuning full trains what comes before the first block"),
        (
            {"data__cache_gb": 1e-5, "prompt": LAST_2},
            "13 images x 5 tokens x 64 x 4 bytes = 16.64 kB, before block 4, are more than is left "
            "of data.cache_gb 1e-05 (10.00 kB; raise it)",
        ),
    ],
)
def test_what_cannot_be_kept__is_refused_before_an_image_is_read(changes, says, data, monkeypatch):
    monkeypatch.setattr(ImageDataset, "__getitem__", lambda self, item: pytest.fail("read"))
    with pytest.raises(ConfigError) as error:
        build(config_of("unused", data, "memory", **changes))
    assert says in str(error.value)
    assert "data.cache=auto" in str(error.value)
    plan = plan_cache(*_parts(build(config_of("unused", data, "auto", **changes))))
    assert not plan.train
    assert says in plan.lines["train"]


def _parts(experiment):
    return experiment.config, experiment.model, experiment.splits


def test_the_room__is_for_training_images_first(data):
    experiment = build(config_of("unused", data, "auto", prompt=LAST_2))
    room = 15 * 5 * 64 * 4 / 1e9
    limited = experiment.config.data.model_copy(update={"cache_gb": room})
    config = experiment.config.model_copy(update={"data": limited})
    plan = plan_cache(config, experiment.model, experiment.splits)
    assert (plan.train, plan.val) == (True, False)


def test_the_announced_size__is_that_of_what_is_kept(data):
    for prompt, shape in (("none", (64,)), (LAST_2, (5, 64)), ("vpt_deep", (5, 64))):
        experiment = build(config_of("unused", data, "memory", prompt=prompt))
        lines: list[str] = []
        batches = fit_data(experiment, CPU, log=lines.append)
        images = next(iter(batches.train(0, 0))).images
        assert images.values.shape == (4, *shape)
        assert images.values.dtype == torch.float32
        assert f"13 training images x {' tokens x '.join(map(str, shape))} x 4 bytes" in lines[0]


class _Uneven(Classifier):
    """Its bits depend on the place in a batch, as several threads' may; or on the size."""

    of_place = True

    def begin(self, images):
        begun = super().begin(images)
        noise = torch.arange(len(images)) if self.of_place else torch.tensor(len(images))
        return begun.with_values(begun.values + 1e-4 * noise.view(-1, 1))


def _uneven(data, cache, *, of_place):
    experiment = build(config_of("unused", data, cache, prompt="none"))
    model = experiment.model
    model.__class__ = type("_Now", (_Uneven,), {"of_place": of_place})
    return replace(experiment, model=model)


def test_where_an_image_depends_on_its_place__training_images_are_not_kept(data):
    with pytest.raises(ConfigError, match=r"depend on its place in the batch here.*=auto"):
        fit_data(_uneven(data, "memory", of_place=True), CPU)
    lines: list[str] = []
    batches = fit_data(_uneven(data, "auto", of_place=True), CPU, log=lines.append)
    assert len(lines) == 2
    assert "depend on its place" in lines[0]
    assert isinstance(next(iter(batches.train(0, 0))).images, torch.Tensor)


def test_where_an_image_depends_on_the_size__the_last_batch_is_computed_anew(data, monkeypatch):
    lines: list[str] = []
    experiment = _uneven(data, "memory", of_place=False)
    batches = fit_data(experiment, CPU, log=lines.append)
    assert lines[0].endswith(
        "; the last 1 of each epoch anew, whose bits differ in so small a batch"
    )
    start = Start(experiment.model, CPU, "fp32")
    split = experiment.splits.train
    dataset = ImageDataset(split, experiment.train_transform, 0)
    for epoch in range(4):
        for batch in batches.train(epoch, 0):
            images = torch.stack([dataset[0, int(index)][0] for index in batch.indices])
            assert torch.equal(batch.images.values, start(images).values)


def test_place_free__finds_the_sizes_in_which_one_image_is_the_same_everywhere():
    model = create_model("timm/test_vit", num_classes=2, pretrained=False, image_size=32)
    sizes = place_free(Start(model, CPU, "fp32"), [4, 3])
    assert all(like.values.is_meta for like in sizes.values())
    model.__class__ = _Uneven
    assert place_free(Start(model, CPU, "fp32"), [1, 3]).keys() == {1}


@pytest.mark.parametrize("kind", ["test_vit", "siglip", "rope_mixed", "clip_tok", "clip_pe"])
@pytest.mark.parametrize(
    ("prompt", "tuning", "expected"),
    [
        ("none", "frozen", 3),
        ("none", "last:1", 2),
        ("none", "norm", 0),
        ("none", "bias", -1),
        ("none", "full", -1),
        ("vpt_shallow", "frozen", 0),
        ({**LAST_2, "layers": [1, 2]}, "last:1", 1),
        ([{**LAST_2, "layers": [2]}, {"name": "kv", "layers": [1]}], "frozen", 1),
        ({"name": "pixels", "width": 4}, "frozen", -1),
    ],
)
def test_the_first_change__is_where_a_gradient_first_arrives(kind, prompt, tuning, expected):
    native = make(kind)
    model = create_model(native, prompt, num_classes=2, tuning=tuning).train()
    found = model.prompted.first_change
    if kind != "test_vit":  # which has six blocks
        has_pre_norm = kind in ("clip_tok", "clip_pe")
        assert found == (-1 if tuning == "norm" and has_pre_norm else expected)
    if found >= 0:
        begun = model.begin(images_for(native))
        assert not begun.values.requires_grad
        assert torch.equal(model(begun), model(images_for(native)))
        if prompt == "none" and found < model.backbone.depth:
            assert model.backbone.run_block(found, begun.made).values.requires_grad


def test_a_probe__computes_the_same_features(data, tmp_path):
    config = config_of(tmp_path / "run", data, "memory", prompt="none")
    result = probe(config, backbone=create_backbone("timm/test_vit", pretrained=False))
    assert json.loads((tmp_path / "run/result.json").read_text())["val"] == result.val


def test_the_command__says_in_one_line_what_it_cannot_keep(data, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump(config_of(tmp_path / "run", data, "memory", tuning="bias")))
    fails_in_one_line("train", path, saying="data.cache=auto")
    code, _ = run("train", path, "data.cache=sometimes")
    assert code == 2
