"""The benchmark: what it reports, never how fast this machine is."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from tests.contracts.kinds import make
from vpt.backbones import wrap_backbone
from vpt.cli import main
from vpt.errors import BackboneError, ConfigError
from vpt.models import count_flops
from vpt.reports import benchmark_models
from vpt.reports.benchmark import Benchmark, Pass, Setting, benchmark, grid, parse_axis
from vpt.reports.benchmark_models import VARIANTS, ModelShelf, start_of
from vpt.reports.benchmark_tables import benchmark_plot, ratios_table, times_table
from vpt.reports.timing import Spread

TINY = Setting("timm/test_vit", image_size=64, batch_size=2, num_classes=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result() -> Benchmark:
    return benchmark(grid(TINY, "num_tokens", [4]), tuple(VARIANTS), turns=2, threads=1)


def test_every_variant_is_measured_at_every_setting__each_turn(result):
    assert len(result.measured) == len(VARIANTS)
    assert len({(each.variant, each.setting) for each in result.measured}) == len(VARIANTS)
    for each in result.measured:
        for done in filter(None, (each.training, each.inference)):
            assert len(done.seconds) == result.turns == 2
            assert min(done.seconds + done.ceilings) > 0
        assert (each.training is not None) == VARIANTS[each.variant].trains
        assert (each.inference is not None) == VARIANTS[each.variant].infers
        assert each.peak_bytes is None
        assert sum(each.saved_blocks) <= each.saved_bytes


def test_same_prompts__context_and_insertion_agree_and_prompts_matter(result):
    assert result.agreement.logits < 1e-5
    assert result.agreement.gradients < 1e-4
    assert result.agreement.prompt_effect > 100 * result.agreement.logits


def test_ratios__are_taken_turn_by_turn__at_one_setting(result):
    of = {(ratio.variant, ratio.to): ratio for ratio in result.ratios if ratio.setting == TINY4}
    measured = {each.variant: each for each in result.measured if each.setting == TINY4}
    context, insertion = measured["context"], measured["insertion"]
    pairs = zip(context.training.seconds, insertion.training.seconds, strict=True)
    ratio = of["context", "insertion"]
    assert ratio.training == Spread.of([one / other for one, other in pairs])
    assert ratio.saved == context.saved_bytes / insertion.saved_bytes < 1
    assert of["context_checkpointed", "context"].saved < 0.5
    assert of["probe", "backbone"].inference is None


TINY4 = Setting(**{**vars(TINY), "num_tokens": 4})


def test_the_backbone_alone__goes_forward_and_backward_through_every_block():
    shelf = ModelShelf(CPU)
    backbone = shelf.backbone(TINY.model, TINY.image_size)
    alone, probe = (
        shelf.model(variant, backbone, num_tokens=4, num_classes=3)
        for variant in ("backbone", "probe")
    )
    flops = count_flops(alone, 2, start=start_of("backbone", alone))
    embedding = count_flops(probe, 2).step - count_flops(probe, 2).forward  # of the head alone
    assert embedding < 0.01 * flops.forward
    assert 1.85 * flops.forward < flops.step < 2 * flops.forward
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 64)
        given = start_of("backbone", alone)(images)
        torch.testing.assert_close(alone(given), alone(images))


def test_the_share_of_the_ceiling__is_flops_over_seconds_over_its_rate():
    done = Pass(seconds=(2.0, 4.0), ceilings=(100.0, 50.0), flops=100)
    assert done.achieved == Spread(0.5, 0.5, 0.5)


def test_any_run__leaves_threads_and_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    benchmark([TINY], ["context"], turns=1, threads=2)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(3), expected)


def test_tables_and_plot__name_what_differs_and_what_does_not(result):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(times_table(result))
    console.print(ratios_table(result))
    text = console.export_text()
    for words in (
        "timm/test_vit, 64 px, batch 2, 4 tokens, 3 classes, fp32",
        "context_checkpointed / context",
        str(result.ratios[1].training),
    ):
        assert words in text
    assert benchmark_plot(result).startswith(b"\x89PNG")


def test_as_json__every_field_and_the_share_of_the_ceiling(result):
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    first = values["measured"][0]
    assert first["setting"]["batch_size"] == 2
    assert first["training"]["achieved"].keys() == {"median", "lowest", "highest"}
    assert len(values["ratios"]) == len(result.ratios)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens=1", "unknown axis 'tokens'"),
        ("num_tokens", "has no values"),
        ("batch_size=8,x", "give whole numbers"),
    ],
)
def test_an_axis_that_is_none__is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_axis(text)


@pytest.mark.parametrize(
    ("changes", "variants", "message"),
    [
        ({"batch_size": 0}, ["context"], "batch_size 0 measures nothing; use 1"),
        ({"precision": "fp8"}, ["context"], "unknown precision 'fp8'"),
        ({"compile_mode": "fast"}, ["context"], "unknown compile_mode 'fast'"),
        ({}, ["contexts"], "unknown variant 'contexts'"),
    ],
)
def test_what_cannot_be_measured__is_refused(changes, variants, message):
    with pytest.raises(ConfigError, match=message):
        benchmark([Setting(**{**vars(TINY), **changes})], variants)


def test_blocks_without_context__are_refused(monkeypatch):
    post_norm = wrap_backbone(make("res_post"))
    monkeypatch.setattr(benchmark_models, "create_backbone", lambda *_, **__: post_norm)
    with pytest.raises(BackboneError, match="block 0 of 'timm/test_vit' takes no context"):
        benchmark([TINY], ["context"])


def test_the_command__prints_tables_and_writes_numbers_and_plot(tmp_path, capsys):
    words = "benchmark --model timm/test_vit --image-size 64 --batch-size 2 --turns 1 --threads 1"
    files = [f"--json={tmp_path / 'new' / 'b.json'}", f"--plot={tmp_path / 'b.png'}"]
    with pytest.raises(SystemExit) as done:
        main(
            [
                *words.split(),
                "--along=num_tokens=4",
                "--variants=insertion,context",
                "--precision=fp32,bf16",
                *files,
            ]
        )
    assert done.value.code == 0
    assert "context" in capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "b.json").read_text())
    assert [each["setting"]["precision"] for each in written["measured"]] == [
        "fp32",
        "fp32",
        "bf16",
        "bf16",
    ]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
