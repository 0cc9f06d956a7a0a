import os
import pickle  # noqa: TID251 (an attacker's file)
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vpt.engine.prompt_file import (
    HEADER_LIMIT,
    SENTENCES,
    prompt_file_problem,
    read_prompt_file,
    read_prompt_header,
    read_prompt_outline,
    write_prompt_file,
)
from vpt.engine.prompt_header import BackboneRecord, PreprocessRecord, PromptHeader, portable_config
from vpt.errors import PromptFileError
from vpt.storage.sealed_file import write_sealed

TENSORS = {"prompt.rows": torch.arange(6.0).reshape(2, 3), "head.weight": torch.ones(2, 2)}

PREPROCESS = {"size": [32, 48], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


def header(**changes):
    backbone = BackboneRecord(
        name="timm/test_vit", sha256="ab" * 32, pretrained=False, image_size=(32, 48), grid=(2, 3)
    )
    values = {"backbone": backbone, "preprocess": PREPROCESS, "prompt": {"name": "none"}}
    return PromptHeader(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "prompt.safetensors"
    write_prompt_file(path, TENSORS, header())
    return path


numbers = st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=5)
json_values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=4)
sides = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
methods = st.builds(
    lambda name, options: {**options, "name": name}, st.text(max_size=8), json_objects
)
heads = st.builds(lambda options: {**options, "num_classes": 2}, methods)
words = st.text(max_size=10).filter(str.isprintable)
names = st.lists(words.filter(str.strip), min_size=2, max_size=2, unique=True)
floats = st.floats(-10, 10)
spreads = st.floats(0.01, 10)
headers = st.builds(
    PromptHeader,
    backbone=st.builds(
        BackboneRecord,
        name=words,
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        pretrained=st.booleans(),
        weights=st.none() | words,
        image_size=sides,
        grid=sides,
        activation=st.none() | words,
    ),
    preprocess=st.builds(
        PreprocessRecord,
        size=sides,
        mean=st.tuples(floats, floats, floats),
        std=st.tuples(spreads, spreads, spreads),
        interpolation=st.sampled_from(["bicubic", "bilinear", "nearest"]),
        crop_pct=st.floats(0.5, 1.2),
        crop_mode=st.sampled_from(["center", "squash", "border"]),
        fill=st.none() | st.just((0, 128, 255)),
    ),
    prompt=methods | st.lists(methods, min_size=1, max_size=3),
    head=st.none() | heads,
    tuning=st.sampled_from(["frozen", "full", "last:12"]),
    class_names=st.none() | names,
    metrics=st.dictionaries(st.text(max_size=10), numbers, max_size=4),
    seed=st.none() | st.integers(0, 2**63 - 1),
    config=st.none() | json_objects,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=headers)
def test_prompt_header__any_values__read_back_equal(path, values):
    write_prompt_file(path, TENSORS, values)
    assert read_prompt_header(path) == values
    read, tensors = read_prompt_file(path)
    assert read == values
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_prompt_file__defaults__name_the_version_that_wrote_it(path):
    read = read_prompt_header(path)
    assert read.format_version == 1
    assert read.vpt_version[0].isdigit()
    assert read.requires == []


def test_prompt_file__cut_at_any_byte__refused_naming_the_path(path):
    raw = path.read_bytes()
    for length in range(0, len(raw), 7):
        path.write_bytes(raw[:length])
        with pytest.raises(PromptFileError, match=r"prompt\.safetensors"):
            read_prompt_file(path)


def test_prompt_file__random_bytes_flipped__always_refused(path):
    raw, generator = path.read_bytes(), random.Random(0)
    for _ in range(300):
        changed = bytearray(raw)
        for position in generator.sample(range(len(raw)), generator.choice([1, 1, 2, 8])):
            changed[position] ^= generator.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(PromptFileError):
            read_prompt_file(path)


def test_prompt_file__pickle_renamed__refused_and_its_code_never_runs(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "prompt.safetensors"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    path.write_bytes(pickle.dumps(Payload()))
    for read in (read_prompt_file, read_prompt_header):
        with pytest.raises(PromptFileError, match="pickle"):
            read(path)
    assert not canary.exists()


def test_prompt_file__nan_in_a_tensor__refused_and_old_file_kept(path):
    old = path.read_bytes()
    with pytest.raises(PromptFileError, match=r"tensor 'head\.bias' holds NaN"):
        write_prompt_file(path, {"head.bias": torch.tensor([1.0, float("nan")])}, header())
    assert path.read_bytes() == old


def test_prompt_file__nan_metric__refused():
    with pytest.raises(ValidationError, match="finite"):
        header(metrics={"top1": float("nan")})


@pytest.mark.parametrize(
    "newer",
    [{"format_version": 2, "novelty": 1}, {"requires": ["novelty"], "novelty": 1}],
    ids=["format", "feature"],
)
def test_prompt_file__from_a_newer_version__says_how_to_upgrade(path, newer):
    write_sealed(path, TENSORS, {**header().model_dump(mode="json"), **newer})
    for read in (read_prompt_file, read_prompt_header):
        with pytest.raises(PromptFileError, match="newer vpt: pip install -U vpt"):
            read(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"novelty": 1}, "novelty: unknown key"),
        ({"task": "flying"}, "task: value 'flying' is not allowed"),
        ({"backbone": {"name": "a"}}, r"backbone\.sha256: is required"),
        ({"format_version": "1"}, "format_version: value '1' is not allowed"),
    ],
)
def test_prompt_file__header_field_wrong__field_named_in_one_line(path, change, named):
    write_sealed(path, TENSORS, {**header().model_dump(mode="json"), **change})
    with pytest.raises(PromptFileError, match=f"prompt.safetensors .*{named}") as error:
        read_prompt_file(path)
    assert "\n" not in str(error.value)


def test_prompt_file__fifty_sentences_for_each_of_a_thousand_classes__are_kept_in_a_tensor(path):
    prompts = {
        f"class {label}": [f"sentence {number} about class {label}, ä 日本" for number in range(50)]
        for label in range(1_000)
    }
    head = {"name": "zero_shot", "class_prompts": prompts, "num_classes": 1_000}
    given = header(head=head, requires=["text"])
    assert prompt_file_problem(TENSORS, given) is None
    write_prompt_file(path, TENSORS, given)
    read, tensors = read_prompt_file(path)
    assert read.head == head
    assert tensors.keys() == TENSORS.keys()
    outline, table = read_prompt_outline(path)
    assert outline.head is not None
    assert outline.head["class_prompts"] is None
    assert outline.requires == ["text", "sentences"]
    assert table.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"\xff", b'{"a": "b"}', b'{"a": []}', b"[" * 100_000, b"null"]
)
def test_prompt_file__sentences_that_are_none__refused(path, content):
    values = {
        **header(head={"name": "zero_shot", "num_classes": 1}).model_dump(mode="json"),
        "requires": ["sentences"],
    }
    stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    write_sealed(path, {**TENSORS, SENTENCES: stored}, values)
    with pytest.raises(PromptFileError, match="its sentences cannot be read"):
        read_prompt_file(path)


def test_prompt_file__sentences_and_what_it_requires__belong_together(path):
    values = header().model_dump(mode="json")
    stored = torch.zeros(2, dtype=torch.uint8)
    for extra, requires in (({SENTENCES: stored}, []), ({}, ["sentences"])):
        write_sealed(path, {**TENSORS, **extra}, {**values, "requires": requires})
        with pytest.raises(PromptFileError, match="contradict each other"):
            read_prompt_header(path)
    write_sealed(path, {SENTENCES: torch.zeros(2)}, {**values, "requires": ["sentences"]})
    with pytest.raises(PromptFileError, match="are no bytes"):
        read_prompt_header(path)


def test_prompt_file__quotes_in_the_header__are_counted_as_they_are_written(path):
    quotes = header(config={"note": '"' * 1_100_000})
    problem = prompt_file_problem(TENSORS, quotes)
    assert problem is not None
    assert "'config'" in problem
    with pytest.raises(PromptFileError, match="its header takes"):
        write_prompt_file(path, TENSORS, quotes)


def test_portable_config__of_absolute_paths__keeps_the_last_part():
    values = {
        "run_dir": Path("/home/me/runs/a"),
        "data": {"root": Path("photos/small"), "dirs": [Path("/x/y")]},
        "head": {"templates": "/home/me/t.json", "class_prompts": {"a": ["/ {}"]}, "init": "/ a"},
        "optim": {"lr": 0.1, "betas": (0.9, 0.99)},
    }
    assert portable_config(values) == {
        "run_dir": "a",
        "data": {"root": "photos/small", "dirs": ["y"]},
        "head": {"templates": "t.json", "class_prompts": {"a": ["/ {}"]}, "init": "/ a"},
        "optim": {"lr": 0.1, "betas": [0.9, 0.99]},
    }


def test_prompt_file__header_over_the_limit__refused(path):
    with pytest.raises(PromptFileError, match=f"at most {HEADER_LIMIT}"):
        write_prompt_file(path, TENSORS, header(config={"note": "x" * HEADER_LIMIT}))
