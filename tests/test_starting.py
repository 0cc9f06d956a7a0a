"""`train.init_from`: what a run takes over, with classes added, left out, or in another order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.fixtures import make_image
from tests.test_detection_runs import make_config as make_detection_config
from tests.training import make_config
from vpt.api import create_detector, create_model, save_prompt
from vpt.errors import PromptFileError
from vpt.experiment import build
from vpt.runs import train

GLYPH = {"name": "bundled/glyph_vit"}


def make_classes(root: Path, names: list[str]) -> Path:
    for split in ("train", "val"):
        for label, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                make_image(10 * label + number).save(root / split / name / f"{number}.png")
    return root


def saved(path: Path, names: list[str] | None, *, head="linear", **options):
    """A prompt file whose tensors are all random, and its model."""
    torch.manual_seed(7)
    model = create_model(
        "bundled/glyph_vit",
        "vpt_deep",
        num_tokens=2,
        num_classes=3,
        class_names=names,
        head=head,
        **options,
    )
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_()
    save_prompt(model, path)
    return model


def started(tmp_path: Path, names: list[str], **changes):
    """The untrained model of a run over classes that starts from the file, and its note."""
    data = make_classes(tmp_path / "data", names)
    given = {"prompt": {"name": "vpt_deep", "num_tokens": 2}, "backbone": GLYPH} | changes
    config = make_config(
        tmp_path / "run", data, train__init_from=str(tmp_path / "a.safetensors"), **given
    )
    experiment = build(config)
    (note,) = experiment.notes
    return experiment.model, note.partition("a.safetensors: ")[2]


BEFORE = ["ant", "bee", "cow"]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (
            ["ant", "bee", "cow", "dog"],
            "the head starts with 3 of the file's 3 classes; new here: 'dog'",
        ),
        (["aphid", "bee", "cow"], "the head starts with 2 of the file's 3 classes; new here: "
         "'aphid'; not taken: 'ant'"),
        (["ant", "cow"], "the head starts with 2 of the file's 3 classes; not taken: 'bee'"),
        (BEFORE, "the head starts with all 3 classes"),
        (["x", "y"], "none of the file's 3 classes is here: their part of the head is new"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_rows_are_carried_by_name__and_the_log_says_which(tmp_path, names, note, head):
    before = saved(tmp_path / "a.safetensors", BEFORE, head=head)
    model, told = started(tmp_path, names, head=head)
    assert told == note
    fresh = build(make_config(tmp_path / "other", tmp_path / "data", backbone=GLYPH, head=head))
    rows = dict(model.head.named_parameters())
    old = dict(before.head.named_parameters())
    new = dict(fresh.model.head.named_parameters())
    last = "last." if head == "mlp" else ""
    for name in (f"{last}weight", f"{last}bias"):
        for place, label in enumerate(names):
            if label in BEFORE:
                assert torch.equal(rows[name][place], old[name][BEFORE.index(label)])
            else:
                assert torch.equal(rows[name][place], new[name][place])
    for name in rows.keys() - {f"{last}weight", f"{last}bias"}:
        assert torch.equal(rows[name], old[name])  # hidden layers are of no class
    assert torch.equal(model.prompt.tokens, before.prompt.tokens)


def test_classes_in_another_order__keep_their_own_rows(tmp_path):
    before = saved(tmp_path / "a.safetensors", ["cow", "ant", "bee"])
    model, told = started(tmp_path, BEFORE)
    assert told == "the head starts with all 3 classes"
    assert torch.equal(model.head.weight, before.head.weight[[1, 2, 0]])
    assert torch.equal(model.head.bias, before.head.bias[[1, 2, 0]])
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model.eval()(images), before.eval()(images)[:, [1, 2, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ({"head": "mlp"}, {}, "the file's has name mlp, not linear"),
        ({"head": {"name": "mlp", "layers": 2}}, {"head": "mlp"}, "layers 2, not 3"),
        ({"multi_label": True}, {}, "the file's is multi-label"),
        ({"pool": "avg"}, {}, "reads features by 'avg' pooling, not 'token'"),
    ],
)
def test_a_head_of_another_kind__starts_anew__and_the_log_says_why(tmp_path, file, changes, reason):
    before = saved(tmp_path / "a.safetensors", BEFORE, **file)
    model, told = started(tmp_path, BEFORE, **changes)
    assert told.startswith("the head starts anew (")
    assert reason in told
    assert torch.equal(model.prompt.tokens, before.prompt.tokens)


def test_a_file_without_class_names__gives_its_prompt_alone(tmp_path):
    saved(tmp_path / "a.safetensors", None)
    model, told = started(tmp_path, BEFORE)
    assert told == "no class of the head was taken: the file has no class names"
    assert model.head.weight.abs().max() < 0.1


def test_the_run__logs_it_once(tmp_path):
    saved(tmp_path / "a.safetensors", BEFORE)
    data = make_classes(tmp_path / "data", ["ant", "bee", "cow", "dog"])
    changes = {"prompt": {"name": "vpt_deep", "num_tokens": 2}, "backbone": GLYPH}
    path = str(tmp_path / "a.safetensors")
    lines: list[str] = []
    config = make_config(tmp_path / "run", data, train__init_from=path, **changes)
    train(config, log=lines.append)
    assert [line for line in lines if "new here: 'dog'" in line] == [
        f"train.init_from {path}: the head starts with 3 of the file's 3 classes; new here: 'dog'"
    ]


def clip_head(names: list[str], head: dict) -> torch.nn.Module:
    torch.manual_seed(3)
    return create_model("bundled/glyph_clip", class_names=names, head=head)


@pytest.mark.parametrize(
    ("head", "tensor"),
    [
        ({"name": "linear_from_text"}, "weight"),
        (
            {"name": "zero_shot", "context": {"num_tokens": 2, "class_specific": True}},
            "context.tokens",
        ),
    ],
)
def test_rows_of_texts__are_carried_by_name_too(tmp_path, head, tensor):
    before = clip_head(["zero", "one", "two"], head)
    with torch.no_grad():
        before.head.get_parameter(tensor).normal_()
    save_prompt(before, tmp_path / "a.safetensors")
    clip = {"name": "bundled/glyph_clip"}
    names = ["one", "two", "seven"]
    model, told = started(tmp_path, names, head=head, prompt={"name": "none"}, backbone=clip)
    assert "new here: 'seven'; not taken: 'zero'" in told
    own, old = model.head.get_parameter(tensor), before.head.get_parameter(tensor)
    here = model.class_names
    assert torch.equal(own[here.index("one")], old[1])
    assert torch.equal(own[here.index("two")], old[2])
    assert (own[here.index("seven")] - old[0]).abs().max() > 0.1


def boxes(root: Path, names: list[str]) -> Path:
    (root / "images").mkdir(parents=True)
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(names)]
    for number, split in enumerate(("train", "val")):
        images, annotations = [], []
        for place in range(len(names)):
            key = 10 * number + place + 1
            Image.new("RGB", (64, 64)).save(root / f"images/{key}.png")
            images.append({"id": key, "file_name": f"{key}.png", "width": 64, "height": 64})
            box = {"bbox": [4, 4, 30, 30], "area": 900, "iscrowd": 0}
            annotations.append({"id": key, "image_id": key, "category_id": place + 1, **box})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))
    fields = {"name": "boxes", "format": "coco", "root": str(root), "images": "images"}
    splits = {"train": "train.json", "val": "val.json"}
    (root / "d.yaml").write_text(json.dumps({**fields, "splits": splits}))
    return root / "d.yaml"


@pytest.mark.parametrize(("name", "anchors"), [("fcos", 1), ("retinanet", 9)])
def test_a_detectors_class_channels__are_carried_by_name(tmp_path, name, anchors):
    head = {"name": name, "channels": 32, "num_convs": 1}
    parts = {"neck": {"scales": [2, 1], "taps": 2}, "head": head}
    prompt = {"name": "vpt_deep", "num_tokens": 2, "dropout": 0.1}
    torch.manual_seed(0)
    before = create_detector(
        "bundled/glyph_vit", prompt, class_names=BEFORE, image_size=64, **parts
    )
    with torch.no_grad():
        for parameter in before.trainable_parameters():
            parameter.normal_()
    save_prompt(before, tmp_path / "a.safetensors")
    names = ["cow", "dog", "ant", "bee"]
    start = {"epochs": 1, "device": "cpu", "init_from": str(tmp_path / "a.safetensors")}
    data = boxes(tmp_path / "data", names)
    experiment = build(make_detection_config(tmp_path / "run", data, train=start, **parts))
    assert "new here: 'dog'" in experiment.notes[0]
    tensor = "head.layers.classification_head.cls_logits.weight"
    own = dict(experiment.model.trained_tensors())
    old = dict(before.trained_tensors())
    by_class = own[tensor].view(anchors, 4, *own[tensor].shape[1:])
    theirs = old[tensor].view(anchors, 3, *own[tensor].shape[1:])
    here = experiment.model.class_names
    for label in BEFORE:
        assert torch.equal(by_class[:, here.index(label)], theirs[:, BEFORE.index(label)])
    assert by_class[:, here.index("dog")].abs().max() < 0.1
    rest = [each for each in own if "cls_logits" not in each]
    assert all(torch.equal(own[each], old[each]) for each in rest)


def test_a_file_of_another_task__is_refused(tmp_path):
    saved(tmp_path / "a.safetensors", BEFORE)
    start = {"epochs": 1, "device": "cpu", "init_from": str(tmp_path / "a.safetensors")}
    config = make_detection_config(tmp_path / "run", boxes(tmp_path / "data", ["a"]), train=start)
    with pytest.raises(PromptFileError, match="holds a model for classification, and this run is"):
        build(config)


def test_a_detector_of_another_width__is_refused(tmp_path):
    parts = {"neck": {"scales": [2, 1], "taps": 2}}
    head = {"name": "fcos", "channels": 32, "num_convs": 2}
    prompt = {"name": "vpt_deep", "num_tokens": 2, "dropout": 0.1}
    before = create_detector(
        "bundled/glyph_vit", prompt, class_names=["a"], image_size=64, head=head, **parts
    )
    save_prompt(before, tmp_path / "a.safetensors")
    start = {"epochs": 1, "device": "cpu", "init_from": str(tmp_path / "a.safetensors")}
    config = make_detection_config(tmp_path / "run", boxes(tmp_path / "data", ["a"]), train=start)
    with pytest.raises(PromptFileError, match=r"train\.init_from"):
        build(config)
