"""The benchmark of prompts as context: what it reports, never how fast this machine is."""

from __future__ import annotations

import dataclasses
import io
import json
import runpy
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from tests.contracts.kinds import make
from vpt.backbones import wrap_backbone
from vpt.errors import BackboneError, ConfigError
from vpt.reports import benchmark
from vpt.reports.benchmark import ContextBenchmark, Spread, benchmark_context, context_table

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_context.py"
TINY = {"image_size": 64, "num_tokens": 4, "batch_size": 2, "pairs": 3, "threads": 1}


@pytest.fixture(scope="module")
def result() -> ContextBenchmark:
    return benchmark_context("timm/test_vit", **TINY)


def test_benchmark__tiny_model__says_what_was_measured(result):
    assert result.model == "timm/test_vit"
    assert result.image_size == (64, 64)
    assert (result.num_tokens, result.batch_size, result.pairs, result.threads) == (4, 2, 3, 1)
    assert result.torch_version == torch.__version__


@pytest.mark.parametrize("stage", ["training", "inference"])
def test_benchmark__each_stage__has_positive_times_and_ordered_ratios(result, stage):
    times = getattr(result, stage)
    assert min(times.insertion_seconds, times.context_seconds, times.plain_seconds) > 0
    for ratio in (times.to_insertion, times.to_plain):
        assert 0 < ratio.lowest <= ratio.median <= ratio.highest


def test_benchmark__same_prompts__both_ways_agree_and_prompts_matter(result):
    assert result.agreement.logits < 1e-5
    assert result.agreement.gradients < 1e-4
    assert result.agreement.prompt_effect > 100 * result.agreement.logits


def test_benchmark__any_run__leaves_threads_and_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    benchmark_context("timm/test_vit", **TINY | {"pairs": 1, "threads": 2})
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(3), expected)


def test_result__as_json__comes_back_with_every_field(result):
    values = json.loads(json.dumps(result.to_dict()))
    assert values.keys() == {field.name for field in dataclasses.fields(result)}
    assert values["image_size"] == [64, 64]
    assert values["training"]["to_insertion"].keys() == {"median", "lowest", "highest"}


def test_spread__several_values__is_median_and_range():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert str(Spread(0.5, 0.25, 0.75)) == "0.50 (0.25-0.75)"


def test_table__rendered__names_the_setting_the_ways_and_the_ratios(result):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(context_table(result))
    text = console.export_text()
    for words in (
        "timm/test_vit, 64x64",
        "4 prompts per layer",
        "training step",
        "inference",
        "tokens inserted",
        "prompts as context",
        "context / inserted",
        "context / no prompts",
        str(result.training.to_insertion),
        str(result.inference.to_plain),
        "batch 2, float32",
    ):
        assert words in text


@pytest.mark.parametrize("name", ["num_tokens", "batch_size", "pairs", "threads"])
def test_benchmark__number_below_one__is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"^{name} 0 .*use 1 or more$"):
        benchmark_context("timm/test_vit", **TINY | {name: 0})


def test_benchmark__blocks_without_context__are_refused(monkeypatch):
    post_norm = wrap_backbone(make("res_post"))
    monkeypatch.setattr(benchmark, "create_backbone", lambda *_, **__: post_norm)
    with pytest.raises(BackboneError, match="block 0 of 'timm/post_norm' takes no context"):
        benchmark_context("timm/post_norm", num_tokens=1)


def test_tool__json_option__prints_the_table_and_writes_the_numbers(tool, tmp_path):
    path = tmp_path / "result.json"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    done = CliRunner().invoke(tool, ["--model=timm/test_vit", *options, f"--json={path}"])
    assert done.exit_code == 0, done.output
    assert "context / inserted" in done.stdout
    assert json.loads(path.read_text())["num_tokens"] == 4


def test_tool__unknown_model__is_one_line_and_code_two(tool):
    done = CliRunner().invoke(tool, ["--model=timm/test_vitt"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean 'timm/test_vit" in done.stderr


@pytest.fixture(scope="module")
def tool() -> typer.Typer:
    app = typer.Typer()
    app.command()(runpy.run_path(str(TOOL))["main"])
    return app
