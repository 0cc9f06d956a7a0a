"""Class names are checked when a model is created and when a file is written, in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

import vpt
from vpt.class_names import checked_class_names
from vpt.errors import ConfigError

WRONG = [
    ("cat", "is the one text 'cat'; give a list: ['cat']"),
    ([0, 1], "[0] is 0, of type int; names are texts: write '0'"),
    (["a", None], "[1] is None, of type NoneType"),
    (["a", "b", "a"], "[0] and [2] are both 'a'; names must differ"),
    (["a", " "], "[1] is ' ', which is empty"),
    (["a", ""], "[1] is '', which is empty"),
    ([], "is empty; give the name of every class"),
    ({"a", "b"}, "is a set, which has no order"),
    ({0: "a", 1: "b"}, "is a mapping; give a list of its names"),
    (3, "is 3; give a list of texts"),
    (["a", "b" * 1_001], "[1] has 1,001 characters, at most 1,000"),
    (["a", "\udcff"], "no valid Unicode"),
]


@pytest.mark.parametrize(("names", "says"), WRONG)
def test_a_wrong_list__is_one_sentence(names, says):
    with pytest.raises(ConfigError) as caught:
        checked_class_names(names)
    assert str(caught.value).startswith("class_names")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("a", "b"), np.array(["a", "b"]), (name for name in "ab")])
def test_any_sequence_of_texts__becomes_a_list_of_plain_texts(names):
    checked = checked_class_names(names)
    assert checked == ["a", "b"]
    assert {type(name) for name in checked} == {str}


@pytest.mark.parametrize("names", ["cat", [0, 1], ["a", "a"], ["a", ""]])
def test_no_model_is_created_and_no_file_written_with_wrong_names(names, tmp_path):
    for create in (vpt.create_model, vpt.create_detector):
        with pytest.raises(ConfigError, match="class_names"):
            create("bundled/glyph_vit", class_names=names)
    model = vpt.create_model("bundled/glyph_vit", num_classes=2)
    with pytest.raises(ConfigError, match="class_names"):
        vpt.save_prompt(model, tmp_path / "p.safetensors", class_names=names)
    assert list(tmp_path.iterdir()) == []
