"""Arguments of `create_model` and `create_detector` that are mistyped, or of another type."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import vpt
from vpt.errors import ConfigError
from vpt.prompts import NoPrompt

BACKBONE = "bundled/glyph_vit"


@pytest.mark.parametrize(
    ("prompt", "options", "saying"),
    [
        ("vpt_deep", {"num_token": 3}, "no argument 'num_token'; did you mean 'num_tokens'"),
        ("none", {"num_token": 3}, "'num_tokens' is an option of .*: give e.g. prompt='vpt_deep'"),
        ("lora", {"num_tokens": 3}, "'num_tokens' is an option of kv, vpt_deep, vpt_gated"),
        ("none", {"num_clases": 3}, "did you mean 'num_classes'"),
        ("vpt_deep", {"class_nams": ["a"]}, "did you mean 'class_names'"),
        (["vpt_deep"], {"num_tokens": 3}, "'num_tokens' belongs into the prompt itself"),
        (NoPrompt(), {"num_tokens": 3}, "'num_tokens' belongs into the prompt itself"),
        ("vpt_deep", {"zzz": 3}, "create_model has no argument 'zzz'$"),
        ("vpt_dep", {"num_token": 3}, "unknown prompt 'vpt_dep', did you mean 'vpt_deep'"),
    ],
)
def test_an_unknown_keyword__leads_to_the_nearest(prompt, options, saying):
    with pytest.raises(ConfigError, match=saying):
        vpt.create_model(BACKBONE, prompt, num_classes=3, **options)


@pytest.mark.parametrize(
    ("value", "saying"),
    [
        ("3", r"from 1 to 1,000,000, not '3'; write num_classes=3"),
        (3.0, r"not 3\.0"),
        (True, "not True"),
        (0, "not 0"),
        (-1, "not -1"),
        (10**9, "not 1000000000"),
        ([3], r"not \[3\]"),
    ],
)
def test_num_classes__is_a_positive_integer(value, saying):
    for create in (vpt.create_model, vpt.create_detector):
        with pytest.raises(ConfigError, match=f"num_classes must be an integer {saying}|{saying}"):
            create(nn.Identity(), num_classes=value)


def test_num_classes__may_be_numpys():
    assert vpt.create_model(BACKBONE, num_classes=np.int64(3)).head.num_classes == 3


def test_a_detector__tells_of_unknown_keywords_too():
    with pytest.raises(ConfigError, match="create_detector has no argument 'num_clases'; did you"):
        vpt.create_detector(BACKBONE, num_classes=2, num_clases=3)
