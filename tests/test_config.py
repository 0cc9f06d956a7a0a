from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

import vpt.heads
import vpt.prompts  # noqa: F401 - both register the entries that a run names
from vpt.config import (
    DetectionRunConfig,
    Registered,
    RunConfig,
    Schema,
    TransformConfig,
    dump,
    json_schema,
    load_config,
    load_yaml,
    validate,
)
from vpt.data import Descriptor
from vpt.errors import ConfigError
from vpt.heads import PyramidOptions
from vpt.protocols.clip_setup import ClipEvalConfig
from vpt.protocols.comparison import ComparisonConfig
from vpt.protocols.detector_comparison import DetectorComparisonConfig
from vpt.protocols.sweep_config import SweepConfig
from vpt.registry import Registry

MINIMAL = """\
run_dir: runs/birds
backbone: bundled/glyph_vit
prompt: vpt_deep
data: {dataset: datasets/digits.yaml, batch_size: 32}
optim: {lr: 5e-4}
train: {epochs: 3}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def minimal() -> dict[str, Any]:
    return {
        "run_dir": "runs/birds",
        "backbone": "bundled/glyph_vit",
        "prompt": "vpt_deep",
        "data": {"dataset": "datasets/digits.yaml", "batch_size": 32},
        "optim": {"lr": 5e-4},
        "train": {"epochs": 3},
    }


def complete() -> dict[str, Any]:
    return validate(RunConfig, minimal(), "run.yaml").model_dump(mode="json")


def error_of(function: Any, *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args)
    return str(caught.value)


# reading


def test_load_yaml__scalars__are_yaml_1_2(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "numbers: [5e-4, 1e3, 5.e-4, .5, -1, 1.]\n"
        "texts: [no, on, yes, 010, 0x10, 1_000, 1:30, 2024-01-01, '', '5']\n"
        "others: [true, false, null, ~]\n"
        "no: 1\n",
    )
    values = load_yaml(path)
    assert values["numbers"] == [5e-4, 1000.0, 5e-4, 0.5, -1, 1.0]
    assert values["texts"] == [
        *("no", "on", "yes", "010", "0x10", "1_000", "1:30", "2024-01-01", "", "5")
    ]
    assert values["others"] == [True, False, None, None]
    assert values["no"] == 1


def test_load_yaml__byte_order_mark_and_windows_lines__are_read(tmp_path: Path) -> None:
    assert load_yaml(write(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: x\r\n")) == {"a": 1, "b": "x"}


def test_load_yaml__anchors_and_merge_keys__are_expanded(tmp_path: Path) -> None:
    path = write(tmp_path, "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n")
    assert load_yaml(path) == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4: key 'c' is already set on line 3; keep one"),
        ("a: 1\n'a': 2\n", "line 2: key 'a' is already set on line 1; keep one"),
        ("a:\n\tb: 1\n", "line 2: .* that cannot start any token; indent with spaces"),
        ("", "is empty; write lines of 'key: value'"),
        ("# nothing\n", "is empty; write lines of 'key: value'"),
        ("- a\n", "line 1: is a list, not a mapping"),
        ("text\n", "line 1: is a single value, not a mapping"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", "line 2: tags .* are not allowed"),
        ("a: !other x\n", "line 1: tags such as !!python/object are not allowed"),
        ("a: 1\nb: [c, '${oc.env:HOME}']\n", r"line 2: '\${oc.env:HOME}': interpolation"),
        ("${a}: 1\n", "line 1: .*interpolation .* is not allowed; write the value"),
        ("a: ???\n", r"line 1: '\?\?\?' stands for a missing value; write the value"),
        ("a: 1\nb: {c: [\n", "line 3: while parsing a flow"),
        ("a: 1\n---\nb: 2\n", "line 2: expected a single document"),
        (b"a: 1\nb: \xff\n", "line 2: is not UTF-8; save it as UTF-8"),
        (b"a: 1\nb: \x00\n", "line 2: character 0x0 is not allowed; remove it"),
        ('a: "\\ud800"\n', "line 1: .*Unicode"),
        (BOMB, "line 6: expands to more than 200000 values"),
        ("a: &a [*a]\n", "line 1: an alias refers to itself"),
        ("a: " + "[" * 5000, "line 1: .*exceeded maximum nesting depth"),
        ("a: " + "[" * 60, "line 1: nested deeper than 50 levels"),
        ("1: a\n", "line 1: a key is not text; quote it"),
        ("? [a]\n: b\n", "line 1: a key is not text; quote it"),
        ("a: *b\n", "line 1: found undefined alias 'b'"),
        ("a: " + "x" * 1_000_000, "is larger than 1000000 bytes"),
    ],
)
def test_load_yaml__bad_file__names_file_line_and_rule(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_load_yaml__no_readable_file__says_so(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert error_of(load_yaml, missing) == (
        f"{missing}: cannot be read: No such file or directory; name a readable YAML file"
    )
    assert error_of(load_yaml, tmp_path) == f"{tmp_path}: is not a file; name a YAML file"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is not a file" in error_of(load_yaml, pipe)
    assert "cannot be read" in error_of(load_yaml, tmp_path / ("x" * 300))


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.text(), st.text("ab:-[]{}&*!?|>'\"#%@ \n\t<~1.e", max_size=40)))
def test_load_yaml__any_text__is_a_mapping_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        values: Any = load_yaml(path)
        message = "one line"
    except ConfigError as error:
        values, message = {}, str(error)
    assert isinstance(values, dict)
    assert len(message.splitlines()) == 1


# overrides


def test_override__dotted_keys__set_values_of_their_kind(run_file: Path) -> None:
    config = load_config(
        run_file, ["optim.lr=1e-3", "data.shots=null", "optim.betas=[0.8, 0.9]", "run_dir=a=b"]
    )
    assert config.optim.lr == 1e-3
    assert config.data.shots is None
    assert config.optim.betas == (0.8, 0.9)
    assert config.run_dir == Path("a=b")


def test_override__into_a_bare_name__keeps_the_name(run_file: Path) -> None:
    config = load_config(run_file, ["prompt.num_tokens=5", "backbone.pretrained=false"])
    assert isinstance(config.prompt, dict)
    assert (config.prompt["name"], config.prompt["num_tokens"]) == ("vpt_deep", 5)
    assert config.backbone.name == "bundled/glyph_vit"
    assert config.backbone.pretrained is False


def test_override__bare_name_over_mapping__replaces_it(run_file: Path) -> None:
    config = load_config(run_file, ["prompt.num_tokens=5", "prompt=none"])
    assert config.prompt == {"name": "none"}


def test_override__mapping_over_mapping__replaces_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a: {x: 1, y: 2}\n")
    assert load_yaml(path, ["a={z: 3}"]) == {"a": {"z": 3}}


def test_override__sections_not_in_the_file__are_made(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1\nb: null\nc: [1, {d: 2}]\n")
    values = load_yaml(path, ["x.y.z=1", "a.b=2", "b.c=3", "c.1.d=4"])
    assert values == {"a": {"b": 2}, "b": {"c": 3}, "c": [1, {"d": 4}], "x": {"y": {"z": 1}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "override 'optim.lr': has no '='; write key=value"),
        ("--lr=1", "override '--lr=1': '--lr' is not a dotted key; write e.g. optim.lr=0.1"),
        ("a..b=1", "override 'a..b=1': 'a..b' is not a dotted key"),
        ("=1", "override '=1': '' is not a dotted key"),
        ("a[0]=1", r"'a\[0\]' is not a dotted key"),
        ("a=", "override 'a=': has no value; write a=null for none"),
        ("a=${b}", r"override 'a=\${b}': .*interpolation .* is not allowed"),
        ("a=[x, '${b}']", "interpolation .* is not allowed"),
        ("a=!!python/name:os.system", "tags such as !!python/object are not allowed"),
        ("a={b: 1, b: 2}", "key 'b' is already set"),
        ("a=[1", "override 'a=.1': line .: while parsing a flow sequence"),
        ("c.x=1", "override 'c.x=1': 'c.x' leads into a list; name a position that it has"),
        ("c.7=1", "override 'c.7=1': 'c.7' leads into a list"),
    ],
)
def test_override__malformed__is_named(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "c: [1]\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path, [override])
    assert "\n" not in str(caught.value)


# checking


class Inner(Schema):
    sides: tuple[int, int] = (1, 2)
    where: Path | None = None
    ratio: float = Field(1.0, gt=0)
    on: bool = False


class Outer(Schema):
    count: int
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    either: int | list[float] | None = None


def test_schema__plain_values__fill_floats_tuples_and_paths() -> None:
    values = {"count": 1, "inner": {"sides": [3, 4], "where": "a/b", "ratio": 2}}
    inner = validate(Outer, values, "a.yaml").inner
    assert inner == Inner(sides=(3, 4), where=Path("a/b"), ratio=2.0)
    assert isinstance(inner.ratio, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "5"}, "count: value '5' is not allowed: must be an integer"),
        ({"count": True}, "count: value true is not allowed: must be an integer"),
        ({"count": 2.0}, "count: value 2.0 is not allowed: must be an integer"),
        ({"count": None}, "count: value null is not allowed: must be an integer"),
        ({}, "count: is required but missing; add it"),
        (
            {"inner": {"ratio": math.inf}},
            "inner.ratio: value inf is not allowed: must be a finite number",
        ),
        ({"inner": {"ratio": True}}, "inner.ratio: value true is not allowed: must be a number"),
        ({"inner": {"ratio": "1"}}, "inner.ratio: value '1' is not allowed: must be a number"),
        (
            {"inner": {"ratio": -1}},
            "inner.ratio: value -1 is not allowed: must be greater than 0",
        ),
        ({"inner": {"on": 1}}, "inner.on: value 1 is not allowed: must be true or false"),
        ({"inner": {"where": 3}}, "inner.where: value 3 is not allowed: must be a path"),
        ({"inner": {"sides": 3}}, "inner.sides: value 3 is not allowed: must be a list"),
        ({"inner": {"sides": [3]}}, "inner.sides.1: is required but missing; add it"),
        (
            {"inner": {"sides": [3, 4, 5]}},
            "inner.sides: value [3, 4, 5] is not allowed: must have at most 2 items",
        ),
        (
            {"inner": 3},
            "inner: value 3 is not allowed: must be a mapping of keys to values",
        ),
        ({"either": "x"}, "either: value 'x' is not allowed: must be an integer or a list"),
        ({"either": [1, "x"]}, "either.1: value 'x' is not allowed: must be a number"),
        (
            {"items": [{}, {"ratoi": 1}]},
            "items.1.ratoi: unknown key; did you mean 'items.1.ratio'?",
        ),
        ({"inner": {"cuont": 1}}, "inner.cuont: unknown key; did you mean 'count'?"),
        ({"ratio": 1.0}, "ratio: unknown key; did you mean 'inner.ratio'?"),
        (
            {"quite_other": 1},
            "quite_other: unknown key; known here: count, inner, items, either",
        ),
    ],
)
def test_validate__one_problem__is_one_line(values: dict[str, Any], message: str) -> None:
    if message.startswith("count:"):
        assert error_of(validate, Outer, values, "a.yaml") == f"a.yaml: {message}"
    else:
        assert error_of(validate, Outer, {"count": 1, **values}, "a.yaml") == f"a.yaml: {message}"


def test_validate__many_problems__are_ten_lines_and_a_count() -> None:
    values = {"count": 1, "items": [{"ratio": 0}] * 14}
    lines = error_of(validate, Outer, values, "a.yaml").splitlines()
    assert len(lines) == 11
    assert lines[0] == "a.yaml: items.0.ratio: value 0 is not allowed: must be greater than 0"
    assert lines[-1] == "a.yaml: and 4 more problems"


def test_validate__long_value_with_newlines__stays_one_short_line() -> None:
    message = error_of(validate, Outer, {"count": "x\n" * 1000, "key\n" * 1000: 1}, "a.yaml")
    assert len(message.splitlines()) == 2
    assert all(len(line) < 150 for line in message.splitlines())


def test_validate__key_at_top_level__is_sent_to_its_section() -> None:
    assert error_of(validate, RunConfig, {**minimal(), "lr": 0.1}, "run.yaml") == (
        "run.yaml: lr: unknown key; did you mean 'optim.lr'?"
    )


def every_key(values: Any, section: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield (*section, key)
            yield from every_key(value, (*section, key))


def typos(key: str) -> Iterator[str]:
    for position in range(len(key)):
        before, letter, after = key[:position], key[position], key[position + 1 :]
        yield before + after
        yield f"{before}{'s' if letter != 's' else 'q'}{after}"
        yield f"{before}{letter}{letter}{after}"
        if after and after[0] != letter:
            yield before + after[0] + letter + after[1:]


def test_validate__every_key_with_every_single_typo__names_the_right_key_first() -> None:
    values = complete()
    tried = 0
    for *section, key in every_key(values):
        for typo in sorted(set(typos(key)) - {""}):
            mistyped = copy.deepcopy(values)
            inside = mistyped
            for step in section:
                inside = inside[step]
            inside[typo] = inside.pop(key)
            lines = error_of(validate, RunConfig, mistyped, "run.yaml").splitlines()
            written, meant = ".".join([*section, typo]), ".".join([*section, key])
            expected = f"run.yaml: {written}: unknown key; did you mean '{meant}'"
            assert any(line.startswith(expected) for line in lines), (written, lines)
            tried += 1
    assert tried > 1500


# registered sections


class Tokens(Schema):
    num_tokens: int = Field(10, gt=0)
    layers: tuple[int, ...] | str = "all"


class Frame(Schema):
    width: int


def registered_schema() -> type[Schema]:
    registry: Registry[Any] = Registry("prompt")
    registry.register("tokens", Tokens, lambda: None)
    registry.register("frame", Frame, lambda: None)

    class Sections(Schema):
        one: Annotated[dict[str, Any], Registered(registry)] = Field(
            default_factory=lambda: {"name": "tokens"}
        )
        some: Annotated[Any, Registered(registry, many=True)] = "tokens"

    return Sections


TOKENS = {"name": "tokens", "num_tokens": 10, "layers": "all"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tokens", TOKENS),
        ({"name": "tokens", "layers": [0, 1]}, {**TOKENS, "layers": [0, 1]}),
        (["tokens", {"name": "frame", "width": 3}], [TOKENS, {"name": "frame", "width": 3}]),
    ],
)
def test_registered__any_form__becomes_plain_and_complete(value: Any, expected: Any) -> None:
    schema = registered_schema()
    config = validate(schema, {"some": value}, "a.yaml")
    assert config.model_dump() == {"one": TOKENS, "some": expected}
    assert validate(schema, config.model_dump(), "a.yaml") == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "tokns",
            "some: value 'tokns' is not allowed: unknown prompt 'tokns', did you mean 'tokens'? "
            "(known: tokens, frame)",
        ),
        ("frame", "some.width: is required but missing; add it"),
        (
            {"name": "tokens", "num_tokens": 0},
            "some.num_tokens: value 0 is not allowed: must be greater than 0",
        ),
        (
            {"name": "tokens", "num_token": 3},
            "some.num_token: unknown key; did you mean 'some.num_tokens'?",
        ),
        (
            ["tokens", {"name": "frame", "width": "3"}],
            "some.1.width: value '3' is not allowed: must be an integer",
        ),
        (
            [{"name": "frame", "widht": 3, "width": 3}],
            "some.0.widht: unknown key; did you mean 'some.0.width'?",
        ),
        ({"num_tokens": 3}, "some.name: is required but missing; add it"),
        ({"name": 3}, "some.name: value 3 is not allowed: must be text"),
        (3, "some: value 3 is not allowed: must be a name, a mapping or a list of those"),
        ([], "some: value [] is not allowed: must be a name, a mapping or a list of those"),
    ],
)
def test_registered__wrong_value__is_located(value: Any, message: str) -> None:
    error = error_of(validate, registered_schema(), {"some": value}, "a.yaml")
    assert error == f"a.yaml: {message}"


def test_registered__list_where_one_is_allowed__is_refused() -> None:
    assert error_of(validate, registered_schema(), {"one": ["tokens"]}, "a.yaml") == (
        "a.yaml: one: value ['tokens'] is not allowed: must be a name or a mapping"
    )


# the run's schema


def test_run_config__minimal_file__fills_every_default(run_file: Path) -> None:
    config = load_config(run_file)
    assert isinstance(config.prompt, dict)
    assert config.prompt["name"] == "vpt_deep"
    assert len(config.prompt) > 1
    assert config.head["name"] == "linear"
    assert config.tuning == "frozen"
    assert config.data.transform == TransformConfig()


def test_run_config__no_prompt__is_none() -> None:
    values = minimal()
    del values["prompt"]
    assert validate(RunConfig, values, "run.yaml").prompt == {"name": "none"}


def test_run_config__bare_transform_name__is_its_name(run_file: Path) -> None:
    config = load_config(run_file, ["data.transform=resize_crop", "data.transform.resize=40"])
    assert (config.data.transform.name, config.data.transform.resize) == ("resize_crop", 40)


@pytest.mark.parametrize(
    "override",
    [
        "tuning=last:2",
        "tuning=bias",
        "train.device=cuda:1",
        "train.device=mps",
        "loss.class_weights=balanced",
        "loss.class_weights=[1, 2.5]",
        "backbone.image_size=64",
        "backbone.image_size=[32, 64]",
        "prompt=[vpt_deep, none]",
        "seed=9223372036854775807",
    ],
)
def test_run_config__allowed_value__survives_dump(run_file: Path, override: str) -> None:
    config = load_config(run_file, [override])
    again = run_file.with_name("again.yaml")
    again.write_text(dump(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tuning=last:0",
            "tuning: value 'last:0' is not allowed: must be frozen, full, bias, norm or last:<k> "
            "with k of at least 1",
        ),
        (
            "train.device=gpu",
            "train.device: value 'gpu' is not allowed: must be auto, cpu, cuda, cuda:<n> or mps",
        ),
        (
            "data.transform.scale=[0.5, 1.5]",
            "data.transform.scale: value [0.5, 1.5] is not allowed: must be [low, high] with "
            "0 < low <= high <= 1",
        ),
        (
            "data.transform.ratio=[2, 1]",
            "data.transform.ratio: value [2, 1] is not allowed: must be [low, high] with "
            "0 < low <= high",
        ),
        ("optim.lr=0", "optim.lr: value 0 is not allowed: must be greater than 0"),
        ("optim.name=adam", "optim.name: value 'adam' is not allowed: must be 'sgd' or 'adamw'"),
        ("optim.betas=[1, 0.9]", "optim.betas.0: value 1 is not allowed: must be less than 1"),
        ("optim.min_lr=1", "optim: min_lr 1.0 exceeds lr 0.0005; lower min_lr"),
        (
            "optim.warmup_epochs=4",
            "optim.warmup_epochs 4.0 exceeds train.epochs 3; lower it",
        ),
        (
            "data.train_on=train_and_val",
            "train.select null needs a validation split, which data.train_on train_and_val learns "
            "from; set train.select: last",
        ),
        (
            "data={train_on: train_and_val, shots: 4, dataset: photos, batch_size: 8}",
            "data: train_on train_and_val takes all images of both; leave out shots",
        ),
        (
            "loss.class_weights=[1, 0]",
            "loss.class_weights.1: value 0 is not allowed: must be greater than 0",
        ),
        (
            "loss.class_weights=even",
            "loss.class_weights: value 'even' is not allowed: must be 'balanced' or a list",
        ),
        (
            "backbone.image_size=big",
            "backbone.image_size: value 'big' is not allowed: must be an integer or a list",
        ),
        (
            "prompt=vpt_dep",
            "prompt: value 'vpt_dep' is not allowed: unknown prompt 'vpt_dep', did you mean "
            "'vpt_deep'",
        ),
    ],
)
def test_run_config__value_out_of_its_range__names_the_rule(
    run_file: Path, override: str, message: str
) -> None:
    error = error_of(load_config, run_file, [override])
    assert error.startswith(f"{run_file}: {message}")
    assert "\n" not in error


def test_run_config__frozen__cannot_be_changed(run_file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(run_file).seed = 1  # type: ignore[misc]


# bounds


def numbers_without_a_bound(node: Any, path: str = "") -> Iterator[str]:
    """Where a JSON Schema allows any number, however large."""
    if isinstance(node, dict):
        bounds = {"maximum", "exclusiveMaximum", "enum", "const"}
        if node.get("type") in ("integer", "number") and not bounds & node.keys():
            yield path
        for key, value in node.items():
            yield from numbers_without_a_bound(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers_without_a_bound(value, f"{path}/{index}")


@pytest.mark.parametrize(
    "schema",
    [
        RunConfig,
        DetectionRunConfig,
        Descriptor,
        ClipEvalConfig,
        SweepConfig,
        ComparisonConfig,
        DetectorComparisonConfig,
        PyramidOptions,
    ],
)
def test_every_number_of_a_config__has_a_largest_value(schema: type[Schema]) -> None:
    unbound = list(numbers_without_a_bound(json_schema(schema)))
    # What a sweep may choose from is checked as a run's config, scales against a list.
    allowed = ("SearchConfig/properties/space", "/properties/scales")
    assert [place for place in unbound if not any(each in place for each in allowed)] == []


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("prompt.num_tokens=1000000", "must be at most 10,000: every block attends to each"),
        ("prompt.projection=1000000000", "must be at most 16,384: no backbone's tokens are as"),
        ("prompt.layers={first: 1000000000}", "must be at most 1,000: no backbone has as many"),
        ("backbone.image_size=1000000", "must be at most 8,192: a larger image would take"),
        ("backbone.image_size=[32, 1000000]", "must be at most 8,192"),
        ("data.num_workers=100000", "must be at most 256: each one is a process"),
        ("data.batch_size=1000000000", "must be at most 65,536: a batch is held in memory"),
        ("data.shots=100000000000", "must be at most 1,000,000,000"),
        ("optim.lr=1e30", "must be at most 1,000,000"),
        ("data.cache_gb=1e9", "must be at most 1,000,000.0: that is a petabyte"),
        ('run_dir="a\\0b"', "must not hold a NUL character"),
        ('data.dataset="a\\0b"', "must not hold a NUL character"),
        (f"run_dir={'a/' * 3000}", "must have at most 4,096 characters"),
        (f"data.root=/{'a' * 300}", "must have at most 255 bytes between two slashes"),
        ("head={name: mlp, width: 1000000000}", "must be at most 16,384: a layer would take"),
        ("head={name: mlp, layers: 1000000}", "must be at most 16: MLP-k has a few layers"),
        ("prompt={name: adapter, width: 10000000}", "must be at most 16,384"),
        ("prompt={name: pixels, width: 100000000}", "must be at most 8,192"),
        ("prompt={name: lora, rank: 10000000}", "must be at most 16,384"),
        (f"prompt=[{'none,' * 33}]", "must have at most 32 members, not 33"),
    ],
)
def test_a_value_that_would_cost_gigabytes__is_one_line_with_the_reason(
    run_file: Path, override: str, rule: str
) -> None:
    error = error_of(load_config, run_file, [override])
    assert rule in error
    assert "\n" not in error
    assert len(error) < 400


def test_thousands_of_wrong_keys__are_ten_lines_and_not_compared_with_every_key() -> None:
    values = {**minimal(), **{f"key_{number}": 1 for number in range(20_000)}}
    lines = error_of(validate, RunConfig, values, "run.yaml").splitlines()
    assert len(lines) == 11
    assert lines[-1] == "run.yaml: and 19990 more problems"


def test_a_long_list_in_the_place_of_a_section__is_one_line() -> None:
    values = {**minimal(), "data": list(range(200_000)), "optim": [{}] * 200_000}
    lines = error_of(validate, RunConfig, values, "run.yaml").splitlines()
    assert len(lines) == 2
    assert all("must be a mapping of keys to values" in line for line in lines)


def test_a_long_list__is_parsed_by_the_same_events_as_a_short_one(tmp_path: Path) -> None:
    path = write(tmp_path, f"a: [{', '.join(['1234567'] * 10_000)}]\nb: [c, {{d: e}}]\n")
    values = load_yaml(path, ["b.1.d=f"])
    assert values["a"] == [1234567] * 10_000
    assert values["b"] == ["c", {"d": "f"}]


def test_override__into_what_an_anchor_shares__changes_one_place(tmp_path: Path) -> None:
    path = write(tmp_path, "a: &a {x: 1}\nb: *a\n")
    assert load_yaml(path, ["a.x=2"]) == {"a": {"x": 2}, "b": {"x": 1}}


def test_override__of_a_hundred_levels__is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1\n")
    assert "deeper than 50 levels" in error_of(load_yaml, path, [f"{'a.' * 100}b=1"])


# writing


def finite(**limits: Any) -> st.SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False, **limits)


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(LETTERS, min_size=1, max_size=60).filter(
    lambda text: "${" not in text and text != "???"
)
TRICKY = st.sampled_from(["5e-4", "no", "1:30", "010", "null", "~", "<<", "=", "a: b", "- a", " a"])


@settings(deadline=None, max_examples=100)
@given(
    run_dir=TEXT | TRICKY,
    name=TEXT | TRICKY,
    root=st.none() | TEXT,
    seed=st.integers(0, 2**63 - 1),
    lr=finite(min_value=1e-300, max_value=1e6),
    weights=st.none() | st.lists(finite(min_value=1e-300, max_value=1e6)),
    prompt=st.sampled_from(["none", "vpt_deep", ["vpt_deep", "none"], {"name": "vpt_shallow"}]),
    betas=st.tuples(*[finite(min_value=0, max_value=0.999)] * 2),
)
def test_dump__any_config__loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    run_dir: str,
    name: str,
    root: str | None,
    seed: int,
    lr: float,
    weights: list[float] | None,
    prompt: Any,
    betas: tuple[float, float],
) -> None:
    values = {
        **minimal(),
        "run_dir": run_dir,
        "backbone": {"name": name},
        "prompt": prompt,
        "seed": seed,
        "data": {"dataset": run_dir, "root": root, "batch_size": 1},
        "optim": {"lr": lr, "betas": betas},
        "loss": {"class_weights": weights},
    }
    config = validate(RunConfig, values, "run.yaml")
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_bytes(dump(config).encode())
    assert load_config(path) == config


def test_json_schema__run__describes_every_key_and_entry() -> None:
    schema = json_schema(RunConfig)
    assert json.loads(json.dumps(schema)) == schema
    for name, definition in schema["$defs"].items():
        if name.endswith("Config"):
            keys = definition.get("anyOf", [definition])[-1]["properties"]
            assert all("description" in key for key in keys.values()), name
    kinds = schema["properties"]["prompt"]["oneOf"]
    assert "vpt_deep" in kinds[0]["enum"]
    (deep,) = (kind for kind in kinds if kind.get("title") == "vpt_deep")
    assert deep["properties"]["name"] == {"const": "vpt_deep"}
    assert "num_tokens" in deep["properties"]
    assert deep["additionalProperties"] is False
    assert kinds[-1]["type"] == "array"
