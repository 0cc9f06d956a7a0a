"""The benchmark of banks: what it reports, never how fast this machine is."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
import torch
from rich.console import Console

from vpt.errors import ConfigError
from vpt.reports.bank_speed import BankBenchmark, bank_table, benchmark_bank

TINY = {"image_size": 32, "num_tokens": 2, "batch_size": 3, "tasks": 2, "resident": 5, "turns": 2}


@pytest.fixture(scope="module")
def result() -> BankBenchmark:
    return benchmark_bank("timm/test_vit", **TINY, threads=1)


def test_benchmark__tiny_model__says_what_was_measured__and_that_it_is_right(result):
    assert (result.image_size, result.tasks, result.resident) == ((32, 32), 2, 5)
    for name in ("mixed", "single", "model", "passes", "few", "many"):
        assert getattr(result, f"{name}_seconds") > 0
    for ratio in (result.mixed_to_single, result.mixed_to_model, result.many_to_few):
        assert 0 < ratio.lowest <= ratio.median <= ratio.highest
    assert result.difference < 1e-6
    keys_and_values = 6 * 2 * 2 * 64 * 2
    assert keys_and_values < result.bytes_per_task < 2 * keys_and_values + 10 * 65 * 4


def test_result__as_json_and_as_table__has_every_field_and_ratio(result):
    values = json.loads(json.dumps(result.to_dict()))
    assert values.keys() == {field.name for field in dataclasses.fields(result)}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bank_table(result))
    text = console.export_text()
    for words in ("mixed batch of 2 tasks", "5 tasks in bfloat16", str(result.mixed_to_single)):
        assert words in text


def test_benchmark__any_run__leaves_threads_and_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    benchmark_bank("timm/test_vit", **TINY | {"turns": 1}, threads=2)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"turns": 0}, "turns 0 .*use 1"),
        ({"resident": 1}, "at least the 2"),
        ({"batch_size": 1}, "batch_size 1 cannot mix 2 tasks"),
    ],
)
def test_benchmark__numbers_that_measure_nothing__are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        benchmark_bank("timm/test_vit", **TINY | options)
