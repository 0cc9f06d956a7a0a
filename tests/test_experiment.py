"""The composition root: from options to models, from configs to experiments; shipped configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import vpt.experiment.settings as settings_module
from tests.fixtures import make_cub, make_folder
from tests.training import make_config
from vpt.api import create_model, list_prompts, load_prompt, save_prompt
from vpt.config import RunConfig, load_config, validate
from vpt.data import load_descriptor
from vpt.engine.prompt_file import read_prompt_file, read_prompt_header
from vpt.errors import BackboneError, ConfigError, DataError, PromptFileError
from vpt.experiment import build
from vpt.runs import train

ROOT = Path(__file__).parents[1]
EVALUATIONS = {"quickstart", "methods_digits", "clip_quickstart", "detection_quickstart"} | {
    f"clip_vpt_{name}" for name in ("oxford_pets", "eurosat", "dtd")
}
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem not in EVALUATIONS)
CUB_CONFIGS = ["vpt_deep_cub", "vpt_deep_cub_adamw"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, images=4)
    for index in (1, 2):
        (root / "train" / "class_1" / f"{index}.png").unlink()
    return root


def tiny(prompt="vpt_deep", **options):
    torch.manual_seed(0)
    given = {"num_classes": 3, "pretrained": False, "image_size": 32} | options
    return create_model("timm/test_vit", prompt, **given)


# ------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompt": "vpt_dep"}, "vpt_deep"),
        ({"num_token": 3}, "num_tokens"),
        ({"num_tokens": "3"}, "must be an integer"),
        ({"tuning": "biases"}, "use frozen, full, bias, norm or last:<k>"),
        ({"class_names": ["a", "b"]}, "2 class_names for num_classes 3"),
        ({"head": {"name": "linear", "init": "papers"}}, "'paper'"),
        ({"prompt": {"name": "pixels", "width": 16}}, "leaves nothing of a 32x32 image"),
        (
            {"head": {"name": "mlp", "width": 16_384, "layers": 16}},
            "trained values, 15 GB; at most",
        ),
        ({"num_tokens": 10_000, "projection": 16_384}, "trained values, 4 GB; at most 500,000,000"),
    ],
)
def test_create_model__with_a_wrong_option__names_it_and_the_way_out(options, problem):
    with pytest.raises(ConfigError, match=problem):
        tiny(**options)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("timm/vit_base_patch16_224x", {}, "did you mean"),
        ("timm/resnet18", {}, "not supported"),
        ("timm/test_vit", {"tuning": "last:9"}, "use last:1..last:6"),
        ("timm/test_vit", {"image_size": 33}, "no multiple of the patch size"),
        ("timm/test_vit", {"image_size": 8_192}, "262,144 patch tokens .* at most 65,536"),
        ("timm/test_vit", {"weights": "nowhere.safetensors"}, "no such file"),
    ],
)
def test_create_model__with_an_impossible_backbone__says_why(name, options, problem):
    given = {"num_classes": 3, "pretrained": False} | options
    with pytest.raises(BackboneError, match=problem):
        create_model(name, "vpt_deep", **given)


def test_prompts__may_be_a_name_a_mapping_a_prompt_or_a_list():
    named = tiny("vpt_deep", num_tokens=4)
    mapped = tiny({"name": "vpt_deep", "num_tokens": 4})
    given = tiny(named.prompt)
    listed = tiny([{"name": "pixels", "width": 3}, named.prompt])
    assert torch.equal(named.prompt.tokens, mapped.prompt.tokens)
    assert given.prompt is named.prompt
    assert listed.prompt.rows(2) is not None
    assert {"none", "vpt_shallow", "vpt_deep", "pixels"} <= set(list_prompts())


def test_the_papers_head__starts_with_its_bias_and_spread():
    head = tiny(head={"name": "linear", "init": "paper"}, num_classes=200).head
    assert torch.allclose(head.bias, torch.tensor(-4.59512))
    assert float(head.weight.detach().std()) == pytest.approx(0.1, rel=0.02)


def test_a_prompt_file__keeps_names_metrics_seed__and_predicts_the_same(tmp_path):
    model = tiny(
        class_names=["owl", "jay", "wren"], prompt={"name": "vpt_shallow", "num_tokens": 2}
    )
    path = tmp_path / "p.safetensors"
    save_prompt(model, path, metrics={"val/top1": 0.5}, seed=7)
    header = read_prompt_header(path)
    assert (header.class_names, header.metrics, header.seed) == (
        ["owl", "jay", "wren"],
        {"val/top1": 0.5},
        7,
    )
    torch.manual_seed(0)
    twin = create_model("timm/test_vit", num_classes=None, pretrained=False, image_size=32)
    loaded = load_prompt(path, twin.backbone)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.predict(images), model.eval().predict(images))
    assert loaded.prompt.options == model.prompt.options
    assert loaded.preprocess == model.preprocess


@pytest.mark.parametrize(
    ("names", "problem"),
    [(["a", "b"], "2 class names for a head of 3"), (["a", "b", "a"], "differ")],
)
def test_save__with_class_names_that_do_not_fit__is_refused(names, problem, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        save_prompt(tiny(), tmp_path / "p.safetensors", class_names=names)


def test_save__with_a_tensor_that_is_not_finite__is_refused_and_keeps_the_old_file(tmp_path):
    model, path = tiny(), tmp_path / "p.safetensors"
    save_prompt(model, path)
    old = path.read_bytes()
    with torch.no_grad():
        model.prompt.tokens[0, 0, 0] = float("nan")
    with pytest.raises(PromptFileError, match=r"'prompt\.tokens' holds NaN"):
        save_prompt(model, path)
    assert path.read_bytes() == old


def test_load__with_random_weights_of_its_own__is_refused(tmp_path):
    save_prompt(tiny(), tmp_path / "p.safetensors")
    torch.manual_seed(99)
    with pytest.raises(PromptFileError, match="belongs to 'timm/test_vit' with weights"):
        load_prompt(tmp_path / "p.safetensors")


# ----------------------------------------------------------------------------------------- configs


def test_build__twice__gives_the_same_start__also_of_random_backbones(data, tmp_path):
    torch.manual_seed(1)
    one = build(make_config(tmp_path, data)).model
    torch.manual_seed(2)
    two, other = (build(make_config(tmp_path, data, seed=seed)).model for seed in (0, 1))
    assert one.backbone.sha256 == two.backbone.sha256 != other.backbone.sha256
    assert torch.equal(one.prompt.tokens, two.prompt.tokens)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_settings__follow_the_config_as_written(data, tmp_path):
    config = make_config(
        tmp_path, data, optim__head_lr=0.2, optim__weight_decay=0.03, optim__head_weight_decay=0.0,
        optim__warmup_epochs=1.5, optim__accumulation=2, data__batch_size=3, train__max_steps=9,
    )  # fmt: skip
    experiment = build(config)
    settings = experiment.settings
    assert experiment.batches_per_epoch == 4  # 10 images
    assert settings.optim.warmup_steps == 3  # 1.5 epochs of 2 steps
    assert settings.optim.lr == {"prompt": 0.01, "neck": 0.2, "head": 0.2, "backbone": 0.01}
    assert settings.optim.weight_decay == {
        "prompt": 0.03,
        "neck": 0.0,
        "head": 0.0,
        "backbone": 0.03,
    }
    assert (settings.max_steps, settings.accumulation) == (9, 2)


def test_balanced_class_weights__are_inverse_to_the_counts__with_mean_one_per_image(data, tmp_path):
    weights = build(
        make_config(tmp_path, data, loss__class_weights="balanced")
    ).settings.class_weights
    assert weights == (10 / (3 * 4), 10 / (3 * 2), 10 / (3 * 4))
    assert sum(w * n for w, n in zip(weights, (4, 2, 4), strict=True)) == pytest.approx(10)


def test_class_weights_of_another_length__are_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="2 values for 3 classes"):
        build(make_config(tmp_path, data, loss__class_weights=[1.0, 2.0]))


def test_too_many_shots_and_too_small_a_resize__are_refused(data, tmp_path):
    with pytest.raises(DataError, match="'class_1' has 2 images in 'train', fewer than 3 shots"):
        build(make_config(tmp_path, data, data__shots=3))
    with pytest.raises(ConfigError, match=r"transform\.resize 31 is smaller than the crop"):
        build(make_config(tmp_path, data, data__transform={"name": "resize_crop", "resize": 31}))


def test_the_papers_preprocessing__replaces_the_backbones(data, tmp_path):
    model = build(make_config(tmp_path, data, data__preprocess="imagenet")).model
    assert model.preprocess.mean == (0.485, 0.456, 0.406)
    assert (model.preprocess.interpolation, model.preprocess.crop_pct) == ("bilinear", 0.875)
    assert model.backbone.preprocess.mean == (0.5, 0.5, 0.5)
    squashed = build(make_config(tmp_path, data, data__preprocess="squash")).model.preprocess
    assert squashed.mean == model.preprocess.mean
    assert (squashed.crop_mode, squashed.crop_pct) == ("squash", 1.0)


def test_a_data_set_without_validation__is_refused_before_a_backbone_is_made(tmp_path, monkeypatch):
    images = make_folder(tmp_path / "data", splits=("train", "test"))
    monkeypatch.setattr(settings_module, "create_backbone", lambda *a, **k: pytest.fail("made"))
    with pytest.raises(DataError, match="no 'val' split"):
        build(make_config(tmp_path / "run", images, data__val_fraction=0.0))


# ---------------------------------------------------------------------------- the shipped configs


def test_every_shipped_config__is_valid__and_tells_its_command():
    names = {path.stem for path in CONFIGS}
    assert {"finetune", *CUB_CONFIGS} <= names
    for path in CONFIGS:
        load_config(path)
        header = path.read_text().split("\nrun_dir:")[0]
        assert f"configs/{path.name}" in header
        assert all(
            line.startswith("#") or line == "task: detection" for line in header.splitlines()
        )


def test_the_papers_config__has_the_papers_schedule():
    config = load_config(ROOT / "configs" / "vpt_deep_cub.yaml")
    assert config.backbone.name == "timm/vit_base_patch16_224.orig_in21k"
    assert (config.prompt["num_tokens"], config.prompt["dropout"]) == (10, 0.1)
    assert (config.optim.name, config.optim.momentum, config.optim.schedule) == (
        "sgd",
        0.9,
        "cosine",
    )
    assert (config.train.epochs, config.optim.warmup_epochs, config.data.batch_size) == (
        100,
        10,
        128,
    )
    assert (config.optim.lr, config.optim.weight_decay) == (0.25, 1e-3)
    assert (config.data.preprocess, config.data.transform.resize) == ("imagenet", 256)
    assert load_descriptor(ROOT / config.data.dataset).format == "cub"


@pytest.mark.parametrize("name", CUB_CONFIGS)
def test_the_cub_configs__run_end_to_end__on_a_folder_in_cubs_layout(name, tmp_path):
    make_cub(tmp_path / "CUB_200_2011")
    descriptor = yaml.safe_load((ROOT / "datasets" / "cub_200_2011.yaml").read_text())
    del descriptor["counts"]
    (tmp_path / "cub.yaml").write_text(yaml.safe_dump(descriptor))
    overrides = {
        "run_dir": tmp_path / "run",
        "backbone.name": "timm/test_vit",
        "backbone.pretrained": "false",
        "backbone.image_size": 32,
        "data.dataset": tmp_path / "cub.yaml",
        "data.root": tmp_path / "CUB_200_2011",
        "data.batch_size": 8,
        "data.transform.resize": 36,
        "data.num_workers": 0,
        "train.max_steps": 2,
        "train.device": "cpu",
    }
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config(path, [f"{key}={value}" for key, value in overrides.items()])
    result = train(config)
    assert result.steps == 2
    assert result.parameters["prompt"] == 6 * 10 * 64
    assert 0 <= result.test["top1"] <= 1
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert [len(split[part]) for part in ("train", "val", "test")] == [27, 3, 12]
    header = read_prompt_header(tmp_path / "run" / "prompt.safetensors")
    assert header.class_names == ["001.Bird_1", "002.Bird_2", "003.Bird_3"]


@pytest.mark.parametrize("name", CUB_CONFIGS)
def test_missing_cub_data__is_one_line__saying_what_from_where_and_whereto(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(settings_module, "create_backbone", lambda *a, **k: pytest.fail("made"))
    dataset = f"data.dataset={ROOT / 'datasets' / 'cub_200_2011.yaml'}"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        build(load_config(ROOT / "configs" / f"{name}.yaml", [dataset]))
    message = str(caught.value)
    assert "\n" not in message
    assert "the data of 'CUB-200-2011' are not in 'data/CUB_200_2011'" in message
    assert "download CUB_200_2011.tgz (1.1 GB) from https://data.caltech.edu/" in message
    assert "unpack it in data/" in message


def clip_run(tmp_path, data, name, **changes):
    """A run of the bundled CLIP, for `train.init_from`."""
    return make_config(
        tmp_path / name,
        data,
        backbone="bundled/glyph_clip",
        prompt={"name": "vpt_deep", "num_tokens": 2, "placement": "pre_norm"},
        head={"name": "zero_shot", "context": {"num_tokens": 2}},
        train__epochs=1,
        **changes,
    )


def started(config):
    return {name: tensor.detach().clone() for name, tensor in build(config).model.trained_tensors()}


def test_init_from__takes_learned_words_for_other_classes_too(data, tmp_path):
    train(clip_run(tmp_path, data, "first"))
    file = tmp_path / "first" / "prompt.safetensors"
    trained = read_prompt_file(file)[1]
    other = make_folder(tmp_path / "other", classes=2, images=2)
    start = started(clip_run(tmp_path, other, "second", train__init_from=str(file)))
    assert start.keys() == trained.keys() == {"prompt.tokens", "head.context.tokens"}
    assert all(torch.equal(tensor, trained[name]) for name, tensor in start.items())


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"head": {"name": "zero_shot", "context": {"num_tokens": 2, "position": "front"}}}, False),
        ({"head": {"name": "zero_shot", "context": {"num_tokens": 2, "std": 0.5}}}, True),
    ],
)
def test_init_from__takes_words_only_where_they_stand_the_same(data, tmp_path, change, taken):
    train(clip_run(tmp_path, data, "first"))
    file = tmp_path / "first" / "prompt.safetensors"
    config = clip_run(tmp_path, data, "second", train__init_from=str(file))
    values = config.model_dump(mode="json") | change
    start = started(validate(RunConfig, values, "test"))
    words = read_prompt_file(file)[1]["head.context.tokens"]
    assert torch.equal(start["head.context.tokens"], words) == taken


def test_init_from__a_prompt_on_the_other_side_of_the_pre_norm__is_refused(data, tmp_path):
    train(clip_run(tmp_path, data, "first"))
    config = clip_run(
        tmp_path, data, "second", train__init_from=str(tmp_path / "first" / "prompt.safetensors")
    )
    values = config.model_dump(mode="json")
    values["prompt"]["placement"] = "post_norm"
    with pytest.raises(PromptFileError, match="another kind of prompt"):
        build(validate(RunConfig, values, "test"))
