import json
import re
from pathlib import Path

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt.errors import ConfigError
from vpt.text.templates import TEMPLATES, fill, resolve_class_prompts, resolve_templates


def refused(value, match, resolve=resolve_templates):
    with pytest.raises(ConfigError, match=match) as caught:
        resolve(value)
    assert len(str(caught.value).splitlines()) == 1


def test_named_sets__filled__same_sentences_as_open_clip():
    sets = {
        "openai_imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES,
        "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    }
    assert {name: len(TEMPLATES[name]) for name in TEMPLATES} == {
        "a_photo": 1,
        "openai_imagenet": 80,
        "simple": 7,
    }
    for name, sentences in sets.items():
        filled = [fill(template, "tench {}") for template in resolve_templates(name)]
        assert filled == [sentence("tench {}") for sentence in sentences]
    assert resolve_templates("a_photo") == ["a photo of a {}."]


@settings(deadline=None)
@given(template=st.text(), name=st.text())
def test_fill__any_text__never_fails_and_puts_the_name_in_as_it_is(template, name):
    bare = template.replace("{}", "").replace("{c}", "")
    assert fill(f"({template}", name).startswith("(")
    if "{" not in bare and "}" not in bare:
        expected = template.replace("{c}", "{}").split("{}")
        assert fill(template, name) == name.join(expected)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("a photo of a {}.", "a photo of a {c}\\1."),
        ("{c}, or {}", "{c}\\1, or {c}\\1"),
        ("a } stray { brace and a {}", "a } stray { brace and a {c}\\1"),
        ("{ {} }", "{ {c}\\1 }"),
    ],
)
def test_fill__braces_and_backslashes__stay(template, sentence):
    assert resolve_templates([template]) == [template]
    assert fill(template, "{c}\\1") == sentence


@settings(deadline=None)
@given(st.lists(st.text() | st.text("{}c ", max_size=8), max_size=4))
def test_resolve_templates__any_list__itself_where_each_has_a_place_and_no_other_field(templates):
    fields = [re.findall(r"\{([^{}]*)\}", template) for template in templates]
    if templates and all(own and set(own) <= {"", "c"} for own in fields):
        assert resolve_templates(templates) == templates
    else:
        refused(templates, "template")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "no template"),
        (["a photo."], "'a photo.' has no place"),
        (["a {}", "a {name}."], r"'a \{name\}.' has the field '\{name\}'"),
        (["a {0}"], "field"),
        ([""], "no place"),
        ([3], "'3' is no text"),
        ("openai_imagnet", "did you mean 'openai_imagenet'"),
        ("none of these", "known: a_photo"),
        ("missing.txt", "No such file"),
        ("some/missing", "No such file"),
        ("missing.json#cars", "templates missing.json#cars: No such file"),
    ],
)
def test_resolve_templates__bad__one_line(value, match):
    refused(value, match)


def test_resolve_templates__one_sentence__a_list_of_it():
    assert resolve_templates("a drawing of a {c}") == ["a drawing of a {c}"]


def test_resolve_templates__text_file__its_lines(tmp_path):
    path = tmp_path / "templates"
    path.write_bytes(b"\xef\xbb\xbfa photo of a {}.\r\n\r\n  a caf\xc3\xa9 with {c}\n")
    assert resolve_templates(path) == ["a photo of a {}.", "a café with {c}"]
    assert resolve_templates(str(path)) == resolve_templates(path)
    path.write_bytes(b"\n")
    refused(path, "no template")
    path.write_bytes(b"a \xff {}")
    refused(path, "no UTF-8")
    refused(tmp_path, r"templates .*not a file")


def test_resolve_templates__json_file__list_or_data_set(tmp_path):
    path = tmp_path / "en.json"

    def write(values):
        path.write_text(json.dumps(values))

    write(["a {c}."])
    assert resolve_templates(path) == ["a {c}."]
    write({"cars": ["a {c}."], "pets": ["a pet, {c}.", "{}"]})
    for value in (f"{path}#pets", Path(f"{path}#pets")):
        assert resolve_templates(value) == ["a pet, {c}.", "{}"]
    refused(path, r"several data sets \(write .*en\.json#NAME with one of 'cars, pets'\)")
    refused(f"{path}#pet", r"no data set 'pet', did you mean 'pets'\? \(write .*en\.json#NAME")
    refused(f"{path}#", "no data set ''")
    write({"cars": ["a {c}."]})
    assert resolve_templates(path) == resolve_templates(f"{path}#cars") == ["a {c}."]
    write(["a {c}."])
    refused(f"{path}#cars", "no data sets; leave out '#cars'")
    write({"cars": {"audi": ["an audi."]}})
    refused(path, "give it as class_prompts")
    write(3)
    refused(path, "a list of sentences is needed")
    path.write_text("[")
    refused(path, "no JSON")
    path.write_text("[" * 100_000)
    refused(path, "no JSON")


def test_resolve_templates__file_with_a_number_sign_in_its_name__is_read(tmp_path):
    path = tmp_path / "en.json#1.json"
    path.write_text(json.dumps({"cars": ["a {c}."], "pets": ["a pet, {c}."]}))
    assert resolve_templates(f"{path}#pets") == ["a pet, {c}."]
    path.write_text(json.dumps(["a {c}."]))
    assert resolve_templates(path) == ["a {c}."]
    (tmp_path / "list #1.txt").write_text("the {}")
    assert resolve_templates(tmp_path / "list #1.txt") == ["the {}"]


def test_resolve_class_prompts__mapping_or_file__sentences_by_class(tmp_path):
    prompts = {"cat": ["A cat purrs."], "dog": ["A dog {barks}.", "It wags."]}
    assert resolve_class_prompts(prompts) == {key: tuple(own) for key, own in prompts.items()}
    path = tmp_path / "cupl.json"
    path.write_text(json.dumps(prompts))
    assert resolve_class_prompts(path) == resolve_class_prompts(prompts)
    path.write_text(json.dumps({"pets": prompts, "cars": {}}))
    for value in (f"{path}#pets", Path(f"{path}#pets")):
        assert resolve_class_prompts(value) == resolve_class_prompts(prompts)
    refused(path, r"several data sets \(write .*cupl\.json#NAME", resolve_class_prompts)
    refused(f"{path}#cars", "mapping", resolve_class_prompts)
    refused(f"{path}#dogs", "no data set 'dogs'", resolve_class_prompts)
    path.write_text("[]")
    refused(f"{path}#pets", "no data sets; leave out '#pets'", resolve_class_prompts)
    refused(tmp_path / "none.json", "No such file", resolve=resolve_class_prompts)


@pytest.mark.parametrize("texts", [[], [""], [" "], "", None, [1], {}])
def test_resolve_class_prompts__class_without_a_sentence__one_line(texts):
    refused({"cat": texts}, "class 'cat' needs", resolve=resolve_class_prompts)
