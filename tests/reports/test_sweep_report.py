import csv
import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from vpt.config import validate
from vpt.config.yaml_text import load_yaml
from vpt.evaluation.energy import Energy
from vpt.evaluation.sweep import SweepTrial, TestedRun, UnitResult, suite_means
from vpt.protocols.sweep_config import SweepConfig
from vpt.reports.sweep_report import sweep_tables, write_report

JOULE = (Energy(500.0, "gpu", "measured"),)
ROOT = Path(__file__).parents[2]


def unit(method="vpt_deep", tests=(0.9, 0.8), **changes):
    trials = [
        SweepTrial({"optim.lr": lr, "optim.weight_decay": 0.0}, value, False, None, 2.0, JOULE)
        for lr, value in ((0.001, 0.5), (0.01, 0.7), (0.1, 0.6))
    ]
    details = {
        "parameters": {"head": 10, "trained": 1234},
        "prompt_bytes": 5000,
        "seconds": 3.0,
        "peak_memory_bytes": 10**9,
        "images_per_second": 50.0,
        "step_flops": 3 * 10**9,
        "energy": [{"joules": 2000.0, "scope": "gpu", "state": "measured"}],
    }
    found = UnitResult(
        sweep="pets",
        suite=None,
        group="",
        task="Pets",
        method=method,
        backbone="timm/a.b",
        metric="top1",
        train_on="train",
        planned_trials=3,
        trials=tuple(trials),
        space={"optim.lr": [0.001, 0.01, 0.1], "optim.weight_decay": [0.0]},
        chosen={"optim.lr": 0.01, "optim.weight_decay": 0.0},
        seeds=(0, 1),
        runs=tuple(TestedRun(seed, {"top1": top1}, details) for seed, top1 in enumerate(tests)),
    )
    return replace(found, **changes)


def suite_units(method, means):
    """One unit of each task; means: {group: one mean of each task, or None}."""
    return [
        unit(
            method,
            tests=() if mean is None else (mean, mean),
            suite="Suite",
            group=group,
            task=f"{group}{number}",
            planned_tasks={name: len(each) for name, each in means.items()},
        )
        for group, values in means.items()
        for number, mean in enumerate(values)
    ]


def test_the_table__has_one_row_a_method__in_order():
    (table,) = sweep_tables([unit("linear", (0.5, 0.6)), unit()])
    assert table.title == "Pets, timm/a.b"
    assert table.rows == (
        (
            "Linear probe",
            "55.0 ± 7.1",
            "70.0",
            "1,234",
            "5 kB",
            "3.00",
            "3.0",
            "3 in 6s",
            "lr 0.01, weight_decay 0",
        ),
        (
            "VPT-deep",
            "85.0 ± 7.1",
            "70.0",
            "1,234",
            "5 kB",
            "3.00",
            "3.0",
            "3 in 6s",
            "lr 0.01, weight_decay 0",
        ),
    )
    assert "mean ± standard deviation of 2 seeds" in table.caption
    assert "3 settings of each method" in table.caption
    assert "Energy: 11.0 kJ (gpu, measured), trials counted in." in table.caption
    assert "not over" not in table.caption


def test_a_value_at_the_end_of_its_range__is_marked():
    at_end = unit(chosen={"optim.lr": 0.1, "optim.weight_decay": 0.0})
    assert at_end.at_edge() == ("optim.lr",)
    (table,) = sweep_tables([at_end])
    assert table.rows[0][-1] == "lr 0.1*, weight_decay 0"
    assert "a better value may lie beyond" in table.caption
    drawn = unit(space={"optim.lr": {"low": 0.01, "high": 1, "log": True}})
    assert drawn.at_edge() == ("optim.lr",)
    assert unit(space={"optim.lr": [True, False]}, chosen={"optim.lr": True}).at_edge() == ()
    decays = {"optim.weight_decay": [0.0, 0.01]}
    assert unit(space=decays, chosen={"optim.weight_decay": 0.0}).at_edge() == ()
    assert unit(space=decays, chosen={"optim.weight_decay": 0.01}).at_edge() != ()


def test_what_is_not_over__is_said__and_shown_as_far_as_it_is():
    begun = unit(trials=unit().trials[:1], chosen=None, seeds=(), runs=())
    (table,) = sweep_tables([begun, unit(tests=(0.9,))])
    assert table.rows[0] == ("VPT-deep", *"------", "1 of 3", "-")
    assert table.rows[1][1] == "90.0"
    assert table.caption.endswith("The sweep is not over.")


def test_what_diverged__counts_as_nothing__and_is_said():
    trials = (*unit().trials[:2], SweepTrial({"optim.lr": 0.1}, 0.0, False, "not finite", 1.0))
    runs = (unit().runs[0], TestedRun(1, {}, {"diverged": "not finite"}))
    bad = unit(trials=trials, runs=runs)
    assert bad.tests == (0.9, 0.0)
    (table,) = sweep_tables([bad])
    assert "1 trials diverged" in table.caption
    assert "1 tested runs diverged" in table.caption


def test_a_suites_means__are_those_of_groups_tasks_and_of_both_kinds():
    tasks = {"A": 3, "B": 1}
    means = suite_means(suite_units("full", {"A": [0.5, 0.7, 0.6], "B": [1.0]}), tasks)
    assert means == pytest.approx({"A": 0.6, "B": 1.0, "Mean of tasks": 0.7, "Mean of groups": 0.8})
    missing = {"A": None, "B": 1.0, "Mean of tasks": None, "Mean of groups": None}
    for begun in ({"A": [0.5, 0.7, None], "B": [1.0]}, {"A": [0.5, 0.7], "B": [1.0]}, {"B": [1.0]}):
        assert suite_means(suite_units("full", begun), tasks) == missing


def test_a_suite__has_a_table_of_means_and_one_of_tasks():
    units = [
        each
        for pair in zip(
            suite_units("linear", {"A": [0.5, 0.7], "B": [0.9]}),
            suite_units("full", {"A": [0.6, None], "B": [1.0]}),
            strict=True,
        )
        for each in pair
    ]
    means, tasks = sweep_tables(units)
    assert means.columns[:5] == ("Method", "A (2)", "B (1)", "Mean of tasks", "Mean of groups")
    assert means.rows[0][:5] == ("Linear probe", "60.0", "90.0", "70.0", "75.0")
    assert means.rows[1][:5] == ("Full fine-tuning", "-", "100.0", "-", "-")
    assert [row[-1] for row in means.rows] == ["3 of 3", "2 of 3"]
    assert tasks.rows[1] == ("A1", "70.0 ± 0.0", "-")


def test_a_suite_half_done__has_no_mean_of_what_has_not_begun():
    units = [
        *suite_units("linear", {"A": [0.5], "B": [0.9]}),
        *suite_units("full", {"A": [0.6]}),
    ]
    planned = {"A": 1, "B": 1, "C": 2}
    means, _ = sweep_tables([replace(each, planned_tasks=planned) for each in units])
    assert {len(row) for row in means.rows} == {len(means.columns)}
    assert means.rows[0][1:-2] == ("50.0", "90.0", "-", "-", "-")
    assert means.rows[1][1:-2] == ("60.0", "-", "-", "-", "-")
    assert [row[-1] for row in means.rows] == ["2 of 4", "1 of 4"]
    assert means.caption.endswith("The sweep is not over.")


def test_another_checkpoint__is_a_table_of_its_own():
    names = ("timm/vit.orig_in21k", "timm/vit.augreg_in21k")
    tables = sweep_tables([unit(backbone=name, sweep=name[-4:]) for name in names])
    assert [table.title for table in tables] == [f"Pets, {name}" for name in names]


def test_a_report__is_markdown_csv_json_and_plots__that_agree(tmp_path):
    units = [unit("linear"), unit(), unit(chosen=None, seeds=(), runs=(), method="kv")]
    files = write_report(units, tmp_path / "report")
    assert {file.name for file in files} == {path.name for path in (tmp_path / "report").iterdir()}
    text = (tmp_path / "report/report.md").read_text()
    assert "| VPT-deep | 85.0 ± 7.1 | 70.0 |" in text
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert Image.open(BytesIO((tmp_path / "report" / name).read_bytes())).width == 1200
    rows = {
        name: list(csv.DictReader((tmp_path / f"report/{name}.csv").read_text().splitlines()))
        for name in ("methods", "trials", "runs")
    }
    assert {name: len(found) for name, found in rows.items()} == {
        "methods": 3,
        "trials": 9,
        "runs": 4,
    }
    assert float(rows["methods"][1]["test_mean"]) == pytest.approx(0.85)
    assert rows["methods"][2]["test_mean"] == ""
    assert json.loads(rows["trials"][1]["params"])["optim.lr"] == 0.01
    saved = json.loads((tmp_path / "report/report.json").read_text())
    assert saved[1]["mean"] == pytest.approx(0.85)
    assert saved[1]["runs"][0]["details"]["prompt_bytes"] == 5000


def test_a_report_of_nothing_tested__has_no_empty_plot(tmp_path):
    begun = unit(trials=(), chosen=None, seeds=(), runs=())
    names = {file.name for file in write_report([begun], tmp_path)}
    assert not any(name.endswith(".png") for name in names)
    assert (tmp_path / "runs.csv").read_text() == ""


def test_the_documented_config__is_valid(tmp_path):
    text = (ROOT / "docs/sweeps.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "sweep.yaml").write_text(example)
    config = validate(SweepConfig, load_yaml(tmp_path / "sweep.yaml"), "docs")
    assert config.search.trials_per_method == 3
    for path in re.findall(r"configs/\w+/\w+\.yaml", text):
        assert (ROOT / path).exists(), path
