"""Prompt files of strangers: whatever is in them, loading one is refused in a line or harmless."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import vpt
from tests.fixtures import make_folder
from tests.hostile_prompts import (
    CANARY,
    FILES,
    NAMES,
    Tally,
    peak_megabytes,
    raw_files,
    read_only,
    sealed_files,
    try_file,
    use,
)
from tests.training import make_config
from vpt.engine.prompt_file import read_prompt_file, read_prompt_header, read_prompt_outline
from vpt.errors import PromptFileError
from vpt.experiment import build
from vpt.storage.sealed_file import read_sealed, write_sealed


def original(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    return copy.deepcopy(read_sealed(FILES / f"{name}.safetensors"))


def sealed(path: Path, header: dict, tensors: dict[str, torch.Tensor]) -> Path:
    write_sealed(path / "hostile.safetensors", tensors, header)
    return path / "hostile.safetensors"


def refusal(path: Path, load=vpt.load_prompt) -> str:
    with pytest.raises(PromptFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------- the first format


@pytest.mark.parametrize("name", ["linear", "zero_shot", "sentences"])
def test_a_file_of_the_first_format__gives_the_logits_that_it_gave_then(name):
    model = vpt.load_prompt(FILES / f"{name}.safetensors")
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *model.preprocess.size, generator=random)
    expected = json.loads((FILES / "logits.json").read_text())[name]
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_a_detector_of_the_first_format__has_its_classes_and_category_ids():
    detector = vpt.load_detector(FILES / "detector.safetensors")
    assert detector.class_names == ["a", "b"]
    assert detector.category_ids == (7, 9)


# ------------------------------------------------------------------------------------- many files


def test_a_few_files_with_changed_bytes__are_all_refused(tmp_path):
    tally = Tally()
    for number, content in enumerate(raw_files(400)):
        try_file(tmp_path / "a.safetensors", content, f"raw {number}", read_only, tally)
    assert tally.faults == []
    assert tally.accepted == 0
    assert tally.refused > 390


def test_a_few_files_with_a_seal_that_is_right__are_refused_or_harmless(tmp_path):
    tally = Tally()
    for what, content in sealed_files(40):
        try_file(tmp_path / "a.safetensors", content, what, use, tally)
    assert tally.faults == []
    assert tally.refused > 25


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_great_many_files__are_refused_or_harmless__in_bounded_memory(tmp_path):
    for name in NAMES:
        use(FILES / f"{name}.safetensors")
    tally, before = Tally(), peak_megabytes()
    for number, content in enumerate(raw_files(100_000)):
        try_file(tmp_path / "a.safetensors", content, f"raw {number}", read_only, tally)
    assert tally.accepted == 0
    for what, content in sealed_files(2_000):
        try_file(tmp_path / "a.safetensors", content, what, use, tally)
    assert tally.faults == []
    assert tally.tried > 101_900
    assert peak_megabytes() - before < 300


# ------------------------------------------------------------------------------- what costs memory


class BuiltError(AssertionError):
    """Raised in place of building a backbone."""


@pytest.fixture
def no_backbone(monkeypatch):
    """Loading may look at shapes on the meta device, and build nothing."""

    def build(*args, **options):
        raise BuiltError

    monkeypatch.setattr("vpt.api.prompt_files.create_backbone", build)
    monkeypatch.setattr("vpt.text.create_text_tower", build)


GIANT = {
    "backbone.activation": None,
    "backbone.name": "timm/vit_giant_patch14_dinov2.lvd142m",
    "backbone.image_size": [224, 224],
    "backbone.grid": [16, 16],
    "preprocess.size": [224, 224],
}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "linear",
            {"prompt": {"name": "vpt_deep", "num_tokens": 10_000}},
            "prompt.tokens has shape",
        ),
        ("linear", {"prompt": {"name": "vpt_deep", "num_tokens": 500_000}}, "at most 10,000"),
        ("linear", {"prompt": {"name": "vpt_deep", "layers": {"first": 10**9}}}, "at most 1,000"),
        (
            "linear",
            {"class_names": None, "head.num_classes": 900_000},
            r"its header asks for \(900000",
        ),
        ("linear", {"head": {"name": "mlp", "width": 16_384, "num_classes": 3}}, "unknown"),
        ("linear", {"tuning": "full"}, "missing"),
        ("linear", {"tuning": "last:9"}, "last:9 blocks"),
        (
            "linear",
            GIANT,
            r"has shape \(1, 2, 192\), its header asks for \(1, 2, 1536\)",
        ),
        ("detector", {"head.channels": 4_096}, "its header asks for"),
        ("detector", {"head.num_convs": 10**5}, "at most 32"),
        ("sentences", {"head.context.num_tokens": 1_000}, "its header asks for"),
        ("sentences", {"head.context.class_specific": True}, "its header asks for"),
        ("zero_shot", {"head.learn_scale": False}, "unknown"),
    ],
)
def test_a_header_that_asks_for_other_tensors__is_refused_before_anything_is_built(
    name, change, says, tmp_path, no_backbone
):
    header, tensors = original(name)
    for key, value in change.items():
        *sections, last = key.split(".")
        inside = header
        for section in sections:
            inside = inside[section]
        inside[last] = value
    load = vpt.load_detector if name == "detector" else vpt.load_prompt
    path = sealed(tmp_path, header, tensors)
    with pytest.raises(PromptFileError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    if load is vpt.load_prompt and "tuning" not in change:
        with pytest.raises(PromptFileError, match=says):
            vpt.PromptBank.from_files(None, {"a": path})


def test_the_control__gets_as_far_as_the_backbone(no_backbone):
    for name in ("linear", "zero_shot", "sentences"):
        with pytest.raises(BuiltError):
            vpt.load_prompt(FILES / f"{name}.safetensors")
    with pytest.raises(BuiltError):
        vpt.load_detector(FILES / "detector.safetensors")


# --------------------------------------------------------------------------------- what is a number


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite__is_refused_by_every_reader(value, tmp_path):
    header, tensors = original("linear")
    path = sealed(tmp_path, header, {**tensors, "head.bias": torch.full((3,), value)})
    assert "tensor 'head.bias' holds NaN or infinity" in refusal(path)
    assert "holds NaN" in refusal(path, read_prompt_file)


def test_a_double_that_no_float_holds__is_refused(tmp_path):
    header, tensors = original("linear")
    large = torch.full((3,), 1e300, dtype=torch.float64)
    assert "holds NaN" in refusal(sealed(tmp_path, header, {**tensors, "head.bias": large}))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_a_tensor_of_whole_numbers__is_refused(dtype, tmp_path):
    header, tensors = original("linear")
    path = sealed(tmp_path, header, {**tensors, "head.bias": torch.ones(3, dtype=dtype)})
    assert "a model's are floating point" in refusal(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_has_not__is_refused(number, tmp_path, monkeypatch):
    header, tensors = original("linear")
    header["metrics"] = {"val/top1": 0.123456789}
    monkeypatch.setattr(
        "vpt.storage.sealed_file._canonical_json",
        lambda path, values: json.dumps(values).replace("0.123456789", number),
    )
    path = sealed(tmp_path, header, tensors)
    assert "is damaged" in refusal(path, read_prompt_header)


# ------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("key", ["templates", "class_prompts"])
@pytest.mark.parametrize("name", [f"{CANARY}", f"{CANARY}#a", "openai_imagenet"])
def test_a_name_in_place_of_sentences__is_refused_and_no_file_is_opened(
    key, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / CANARY).write_text('{"circle": ["secret {}"], "square": ["secret {}"]}')
    header, tensors = original("zero_shot")
    header["head"] = {**header["head"], "templates": None, key: name}
    message = refusal(sealed(tmp_path, header, tensors))
    assert "sentences" in message
    assert "secret" not in message


def test_the_path_of_a_weight_file__is_not_opened_and_only_its_name_is_shown(tmp_path):
    header, tensors = original("linear")
    weights = tmp_path / "private" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"secret")
    header["backbone"]["weights"] = str(weights)
    message = refusal(sealed(tmp_path, header, tensors))
    assert "the local file 'weights.safetensors'" in message
    assert "--weights FILE" in message
    assert "private" not in message.partition(": ")[2]


# --------------------------------------------------------------------------------- what it may say


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_names": ["a", "a", "b"]}, "names must differ from each other"),
        ({"class_names": ["a", "", "b"]}, "is empty"),
        ({"class_names": ["a", "b"]}, "2 class_names for a head of 3 classes"),
        ({"class_names": "abc"}, "must be a list"),
        ({"preprocess": {"size": [32, 32], "mean": "dark", "std": [1, 1, 1]}}, "preprocess.mean"),
        ({"preprocess": {"size": [32, 32], "mean": [0] * 3, "std": [0, 1, 1]}}, "preprocess.std.0"),
        ({"preprocess": {"size": [32, 32], "mean": [0] * 3, "std": [-1] * 3}}, "preprocess.std.0"),
        (
            {"preprocess": {"size": [10**9, 32], "mean": [0] * 3, "std": [1] * 3}},
            "preprocess.size.0",
        ),
        (
            {"preprocess": {"size": [8_000] * 2, "mean": [0] * 3, "std": [1] * 3, "crop_pct": 0.1}},
            "resize images to more than",
        ),
        (
            {"preprocess": {"size": [32] * 2, "mean": [0] * 3, "std": [1] * 3, "crop_pct": 0}},
            "preprocess.crop_pct",
        ),
        (
            {
                "preprocess": {
                    "size": [32] * 2, "mean": [0] * 3, "std": [1] * 3, "interpolation": "lanczos4"
                }
            },
            "preprocess.interpolation",
        ),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"num_tokens": 3}}, "prompt"),
        ({"head": {"name": "linear"}}, "num_classes"),
        ({"head": {"name": "linear", "num_classes": True}}, "num_classes"),
        ({"config": {"train": {"precision": "fp8"}}}, "config"),
        ({"config": {"data": [1]}}, "config"),
        ({"requires": [3]}, "requires the feature 3"),
        ({"vpt_version": "1\n2"}, "must be printable text on one line"),
        ({"note": {str(n): n for n in range(60_000)}}, "more than 50,000 keys"),
    ],
)  # fmt: skip
def test_a_field_out_of_its_bounds__is_named(change, says, tmp_path):
    header, tensors = original("linear")
    path = sealed(tmp_path, {**header, **change}, tensors)
    for load in (vpt.load_prompt, read_prompt_header):
        assert says in refusal(path, load)


def test_endless_nesting__is_refused(tmp_path):
    header, tensors = original("linear")
    for _ in range(100):
        header["config"] = {"a": header.get("config")}
    assert "nested deeper than 64 levels" in refusal(sealed(tmp_path, header, tensors))


def test_a_tensor_table_that_does_not_fill_its_bytes__is_refused(tmp_path, monkeypatch):
    header, tensors = original("linear")
    save = __import__("safetensors.torch").torch.save
    monkeypatch.setattr(
        "safetensors.torch.save",
        lambda given, metadata: save(given, metadata).replace(b'"shape":[3]', b'"shape":[4]'),
    )
    path = sealed(tmp_path, header, tensors)
    assert "does not fill its place" in refusal(path, read_prompt_outline)


def test_the_file_that_a_run_starts_from__is_read_as_strictly(tmp_path):
    header, tensors = original("linear")
    tensors["prompt.tokens"][0, 0, 0] = float("nan")
    changes = {
        "train__init_from": str(sealed(tmp_path, header, tensors)),
        "backbone": "bundled/glyph_vit",
        "prompt": {"name": "vpt_shallow", "num_tokens": 2},
    }
    with pytest.raises(PromptFileError, match="holds NaN"):
        build(make_config(tmp_path / "run", make_folder(tmp_path / "data"), **changes))
