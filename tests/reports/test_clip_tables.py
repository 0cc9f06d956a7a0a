import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from tests.evaluation.clip_examples import (
    TOPS,
    make_evaluation,
    make_few_shot,
    make_halves,
    make_measured,
    make_setting,
)
from vpt.errors import RunError
from vpt.evaluation import FREE_BASELINES, ClipEvaluation, to_clip_benchmark
from vpt.reports.clip_tables import (
    average_table,
    clip_markdown,
    clip_plot,
    clip_tables,
    write_clip_evaluation,
)
from vpt.reports.tables import PAPER_NAMES

FIVE = (1, 2, 4, 8, 16)


def shown(*tables: Table, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def five_shots() -> ClipEvaluation:
    few_shot = tuple(make_few_shot(shots, 1 if shots < 8 else 16) for shots in FIVE)
    return make_evaluation(few_shot=few_shot)


def markdown_rows(text: str, heading: str) -> dict[str, list[str]]:
    """First cells to the others, of the table under a heading."""
    section = text[text.index(f"**{heading}") :].split("\n\n")[1]
    lines = [line.strip("|").split("|") for line in section.splitlines()]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_zero_shot_table__shows_all_metrics_and_the_gain_of_prompt_files():
    rows = markdown_rows(clip_markdown(make_evaluation()), "EuroSAT: zero-shot and prompt files")
    assert rows["Model"] == [
        "Top-1 (%)",
        "Gain",
        "Top-5 (%)",
        "Balanced (%)",
        "NLL",
        "ECE (%)",
    ]
    assert rows["Zero-shot"] == ["56.0", "–", "78.0", "55.0", "1.440", "3.4"]  # noqa: RUF001
    assert rows["seed_1/prompt"][:2] == ["70.0", "+14.0"]
    assert rows["seed_2/prompt *"][:2] == ["50.0", "-6.0"]


def test_the_zero_shot_table__of_few_classes_and_no_files__has_no_top5_and_no_gain():
    few_classes = make_measured(0.5, ("a", "b"))
    result = make_evaluation(zero_shot=few_classes, prompt_files=(), few_shot=(), base_to_new=None)
    rows = markdown_rows(clip_markdown(result), "EuroSAT: zero-shot")
    assert rows["Model"] == ["Top-1 (%)", "Balanced (%)", "NLL", "ECE (%)"]
    assert len(clip_tables(result)) == 1


def test_the_few_shot_table__begins_with_the_free_baselines__and_shows_every_gain():
    rows = markdown_rows(clip_markdown(make_evaluation()), "EuroSAT: few-shot")
    assert list(rows)[2:4] == ["Zero-shot", "Linear from text"]
    assert rows["Method"] == ["1 shot", "16 shots", "Trained", "File"]
    assert rows["Zero-shot"] == ["56.0", "56.0", "0", "–"]  # noqa: RUF001
    assert rows["Linear from text"] == ["50.0 ± 2.0", "79.0 ± 1.0", "4,104", "16 kB"]
    assert rows["VPT-deep"] == ["61.0 ± 1.0 (+5.0)", "83.0 ± 1.0 (+4.0)", "11,146", "45 kB"]
    assert rows["VPT-shallow"][:2] == ["57.0 ± 2.0 (+1.0)", "76.0 ± 2.0 (-3.0)"]
    assert rows["my_own"] == ["50.0 ± 0.0 (-6.0)", "82.5 ± 0.0 (+3.5)", "2,700,000", "10.8 MB"]


def test_the_gain__stands_in_every_cell_of_every_trained_method():
    result = five_shots()
    rows = markdown_rows(clip_markdown(result), "EuroSAT: few-shot")
    trained = [method for method in TOPS if method not in FREE_BASELINES]
    assert len(trained) == 3
    for method in trained:
        cells = rows[PAPER_NAMES.get(method, method)][: len(FIVE)]
        gains = [f"({100 * result.gain(method, shots):+.1f})" for shots in FIVE]
        assert all(cell.endswith(gain) for cell, gain in zip(cells, gains, strict=True))
    printed = shown(clip_tables(result)[1])
    assert sum(printed.count(f"({sign}") for sign in "+-") == len(trained) * len(FIVE)


def test_the_few_shot_table__leaves_open_what_was_not_measured():
    few = make_few_shot(16)
    without = replace(few, methods={k: v for k, v in few.methods.items() if k != "vpt_deep"})
    result = make_evaluation(few_shot=(make_few_shot(1), without))
    rows = markdown_rows(clip_markdown(result), "EuroSAT: few-shot")
    assert rows["VPT-deep"][:2] == ["61.0 ± 1.0 (+5.0)", "–"]  # noqa: RUF001


def test_the_few_shot_table__of_one_seed__claims_no_spread():
    few_shot = (make_few_shot(16, seeds=1),)
    text = clip_markdown(make_evaluation(few_shot=few_shot, base_to_new=None))
    assert "±" not in text
    assert "One seed (1)" in text


def test_the_base_to_new_table__labels_both_harmonic_means():
    rows = markdown_rows(clip_markdown(make_evaluation()), "EuroSAT: base to new, 16 shots")
    assert rows["Method"] == [
        "Base",
        "New",
        "HM of means (published)",
        "Mean of HMs",
        "Forgetting",
    ]
    assert list(rows)[2] == "Zero-shot"
    assert rows["Zero-shot"] == ["60.0", "65.0", "62.4", "62.4", "–"]  # noqa: RUF001
    means_of_seeds = 100 * (2 * 0.8 * 0.7 / 1.5 + 2 * 0.9 * 0.5 / 1.4 + 2 * 0.85 * 0.6 / 1.45) / 3
    assert rows["VPT-deep"] == [
        "85.0 ± 5.0 (+25.0)",
        "60.0 ± 10.0 (-5.0)",
        f"{100 * 2 * 0.85 * 0.6 / 1.45:.1f}",
        f"{means_of_seeds:.1f}",
        "+5.0",
    ]
    assert rows["CoOp"][-1] == "-1.0"


@pytest.mark.parametrize("number", [1, 2])
def test_the_captions__say_what_the_numbers_depend_on(number):
    caption = str(clip_tables(make_evaluation())[number].caption)
    for words in (
        "EuroSAT",
        "8 classes",
        "open_clip/ViT-B-16:openai",
        "'a centered satellite photo of {}.'",
        "Mean ± standard deviation of 3 seeds (1, 2, 3)",
        "points gained over",
        "the last step's model; test read once per run",
    ):
        assert words in caption


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"templates": ["a {}.", "the {}."]}, "2 templates, 'a {}.', …"),
        ({"templates": "openai_imagenet"}, "templates 'openai_imagenet'"),
        ({"templates": None}, "no template"),
        ({"class_prompts": {"a": ["one a"]}}, "sentences of each class's own"),
    ],
)
def test_the_captions__name_the_templates_in_few_words(changes, words):
    result = make_evaluation(setting=make_setting(**changes))
    assert words in str(clip_tables(result)[0].caption)


def test_the_base_to_new_table__without_a_method_that_fits__says_so():
    halves = replace(make_halves(), methods={})
    text = clip_markdown(make_evaluation(few_shot=(), base_to_new=halves))
    assert list(markdown_rows(text, "EuroSAT: base to new"))[2:] == ["Zero-shot"]
    assert "Nothing was trained" in text


def test_the_tables__need_no_more_of_the_setting_than_the_result_promises():
    needed = ("dataset", "model", "pretrained", "classes", "templates", "backbone")
    setting = {key: value for key, value in make_setting().items() if key in needed}
    result = make_evaluation(setting=setting)
    assert "Selection" not in clip_markdown(result)
    assert "of 3 seeds (1, 2, 3)" in clip_markdown(result)
    assert clip_plot(result).startswith(b"\x89PNG")


def test_the_tables__fit_a_hundred_columns():
    text = shown(*clip_tables(five_shots()), average_table([five_shots()] * 2), width=100)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    for whole in ("VPT-shallow", "83.0 ± 1.0", "2,700,000", "Forgetting", "16 shots"):
        assert whole in text


def test_more_shots_than_fit__go_into_a_second_table():
    result = make_evaluation(
        few_shot=tuple(make_few_shot(shots, 16) for shots in (*FIVE, 32)), base_to_new=None
    )
    assert [len(table.columns) for table in clip_tables(result)[1:]] == [8, 4]


def test_names_with_brackets_and_bars__are_shown_as_they_are():
    result = make_evaluation(setting=make_setting(dataset="Odd [red] | set"))
    assert "Odd [red] | set" in shown(*clip_tables(result))


def test_the_average_table__means_what_all_data_sets_have():
    pets = make_evaluation(
        setting=make_setting(dataset="Pets"),
        zero_shot=make_measured(0.88),
        few_shot=(make_few_shot(16),),
    )
    text = shown(average_table([make_evaluation(), pets]), width=120)
    assert "Mean of 2 data sets" in text
    assert "EuroSAT, Pets" in text
    assert [column.header for column in average_table([make_evaluation(), pets]).columns][1:3] == [
        "16\nshots",
        "Base",
    ]
    zero_shot = next(line for line in text.splitlines() if "Zero-shot" in line)
    assert all(value in zero_shot for value in ("72.0", "60.0", "65.0", "62.4"))
    # Over linear from text on one data set (+4.0), over zero-shot on the other (-5.0).
    assert "(-0.5)" in text


def test_the_average_table__of_zero_shot_alone__is_a_table_too():
    alone = make_evaluation(few_shot=(), base_to_new=None, prompt_files=())
    text = shown(average_table([alone, alone]))
    assert "56.0" in text
    assert "HM" not in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_plot__is_a_png_of_a_readable_size(seeds):
    few_shot = (make_few_shot(1, seeds=seeds), make_few_shot(16, seeds=seeds))
    image = Image.open(io.BytesIO(clip_plot(make_evaluation(few_shot=few_shot))))
    assert image.format == "PNG"
    assert image.size == (1200, 750)
    assert len(image.convert("RGB").getcolors(2**20)) > 10


def test_the_plot__of_one_number_of_shots__is_drawn_too():
    assert clip_plot(make_evaluation(few_shot=(make_few_shot(16),))).startswith(b"\x89PNG")


def test_writing__leaves_json_tables_a_plot_and_records_that_read_back(tmp_path):
    result = make_evaluation()
    folder = tmp_path / "runs" / "new"
    write_clip_evaluation(result, folder)
    assert {path.name for path in folder.iterdir()} == {
        "result.json",
        "table.md",
        "few_shot.png",
        "clip_benchmark",
    }
    assert ClipEvaluation.from_dict(json.loads((folder / "result.json").read_text())) == result
    assert (folder / "table.md").read_text() == clip_markdown(result)
    files = sorted((folder / "clip_benchmark").iterdir())
    written = [json.loads(file.read_text()) for file in files]
    records = to_clip_benchmark(result)
    assert len(written) == len(records) > 1
    assert written == records
    assert files[0].name == "01_EuroSAT_ViT-B-16_openai.json"
    assert files[1].name == "02_EuroSAT_ViT-B-16+seed_1-prompt_openai.json"


def test_writing_again__removes_what_the_new_result_does_not_have(tmp_path):
    write_clip_evaluation(make_evaluation(), tmp_path)
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / "clip_benchmark" / "other.json").write_text("{}")
    alone = make_evaluation(few_shot=(), base_to_new=None, prompt_files=())
    write_clip_evaluation(alone, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        "table.md",
        "clip_benchmark",
        "other.txt",
    }
    assert sorted(path.name for path in (tmp_path / "clip_benchmark").iterdir()) == [
        "1_EuroSAT_ViT-B-16_openai.json",
        "other.json",
    ]


def test_writing_where_a_file_is_in_the_way__is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_clip_evaluation(make_evaluation(), tmp_path / "file")
