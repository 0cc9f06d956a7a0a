import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from vpt.evaluation.comparison import Comparison, MethodResult, Trial
from vpt.evaluation.energy import Energy, absent
from vpt.reports.tables import (
    comparison_markdown,
    comparison_plot,
    comparison_table,
    gigaflops,
    write_comparison,
)


def make_method(test_top1: tuple[float, ...], trained: int) -> MethodResult:
    trials = (Trial(0.001, (0.8,)), Trial(0.01, (0.9,)))
    energy = (Energy(100.0, "gpu", "measured"), absent("machine", "no codecarbon"))
    trials = tuple(replace(trial, seconds=1.5, energy=energy) for trial in trials)
    tops = (test_top1, test_top1)
    flops = (160_000_000, 321_400_000)
    return MethodResult(trials, 0.01, *tops, trained, 4 * trained, 2.5, *flops, energy)


def make_comparison(seeds: int = 3) -> Comparison:
    tops = {"linear": (0.90, 0.91, 0.92), "vpt_deep": (0.93, 0.94, 0.95), "my_own": (0.5, 0.6, 0.7)}
    sizes = {"linear": 1930, "vpt_deep": 11146, "my_own": 2_700_000}
    setting = {
        "dataset": "Digits",
        "backbone": "bundled/glyph_vit",
        "shots": 8,
        "trials_per_method": 2,
    }
    methods = {name: make_method(top[:seeds], sizes[name]) for name, top in tops.items()}
    return Comparison(setting, tuple(range(seeds)), (100,), methods, {"torch": "2"}, 60.0)


def shown(result: Comparison) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(comparison_table(result))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("form", [shown, comparison_markdown])
def test_the_table__has_a_row_for_each_method(form):
    lines = form(make_comparison()).splitlines()
    for name, top1, trained, size in [
        ("Linear probe", "91.0 ± 1.0", "1,930", "8 kB"),
        ("VPT-deep", "94.0 ± 1.0", "11,146", "45 kB"),
        ("my_own", "60.0 ± 10.0", "2,700,000", "10.8 MB"),
    ]:
        row = next(line for line in lines if name in line)
        assert all(text in row for text in (top1, trained, size, "2.5", "0.321"))


@pytest.mark.parametrize("form", [shown, comparison_markdown])
def test_the_caption__tells_the_energy_that_is_known__and_no_other(form):
    text = " ".join(form(make_comparison()).split())
    assert "Energy: 0.900 kJ (gpu, measured), trials counted in." in text
    assert "machine" not in text


def test_the_table__fits_a_terminal_of_80_characters():
    console = Console(file=io.StringIO(), width=80)
    result = make_comparison()
    methods = {"full": result.methods["my_own"], "kv": result.methods["vpt_deep"]}
    console.print(comparison_table(replace(result, methods=methods)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "Key-value prompts" in text


@pytest.mark.parametrize(
    ("flops", "text"),
    [(None, "-"), (0, "0.00"), (81_966_336, "0.0820"), (35_161_234_000, "35.2"), (3.1e11, "310")],
)
def test_gigaflops__have_three_digits(flops, text):
    assert gigaflops(flops) == text


def test_the_table__of_one_seed__claims_no_spread():
    text = comparison_markdown(make_comparison(seeds=1))
    assert "±" not in text
    assert "one seed" in text


def test_the_plot__is_a_png_of_a_readable_size():
    image = Image.open(io.BytesIO(comparison_plot(make_comparison())))
    assert image.format == "PNG"
    assert image.width == 1200
    assert len(image.convert("RGB").getcolors(2**20)) > 10


def test_write_comparison__leaves_the_result_as_json_a_table_and_a_plot(tmp_path):
    write_comparison(make_comparison(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        "table.md",
        "comparison.png",
    }
    result = json.loads((tmp_path / "result.json").read_text())
    energy = [
        {"joules": 100.0, "scope": "gpu", "state": "measured", "reason": None},
        {"joules": None, "scope": "machine", "state": "absent", "reason": "no codecarbon"},
    ]
    assert result["seeds"] == [0, 1, 2]
    assert result["methods"]["linear"] == {
        "test_top1_mean": pytest.approx(0.91),
        "test_top1_std": pytest.approx(0.01),
        "test_top1": [0.90, 0.91, 0.92],
        "val_top1": [0.90, 0.91, 0.92],
        "lr": 0.01,
        "trials": [
            {"lr": 0.001, "val": [0.8], "seconds": 1.5, "energy": energy},
            {"lr": 0.01, "val": [0.9], "seconds": 1.5, "energy": energy},
        ],
        "trained_parameters": 1930,
        "file_bytes": 7720,
        "seconds": 2.5,
        "forward_flops": 160_000_000,
        "step_flops": 321_400_000,
        "energy": energy,
    }
    assert result["cost"]["tested_runs"]["seconds"] == pytest.approx(3 * 3 * 2.5)
    assert result["cost"]["trials"]["seconds"] == pytest.approx(3 * 2 * 1.5)
    assert [part["energy"][0]["joules"] for part in result["cost"].values()] == [300.0, 600.0]


def test_the_plot__of_one_method_and_seed__is_drawn_too():
    result = make_comparison(seeds=1)
    alone = Comparison(
        {**result.setting, "shots": None},
        (0,),
        (100,),
        {"linear": result.methods["linear"]},
        {},
        1.0,
    )
    assert comparison_plot(alone).startswith(b"\x89PNG")
