import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpt.data.loading.loader
from tests.fixtures import make_folder
from tests.protocols.comparisons import RATES, comparison_values, write_yaml
from vpt.api import list_prompts
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import ConfigError, RunError
from vpt.evaluation.comparison import Trial, best_trial
from vpt.protocols.comparison import compare, load_comparison
from vpt.runs import try_with_cost

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos") / "photos", images=3)


@pytest.fixture
def values(tmp_path, data):
    return comparison_values(tmp_path / "comparison", data)


@pytest.fixture
def config(tmp_path, values):
    return load_comparison(write_yaml(tmp_path / "comparison.yaml", values))


@pytest.fixture
def reads(monkeypatch):
    """How often each image of each split was decoded."""
    counts: Counter[tuple[str, str]] = Counter()
    load_sample = vpt.data.loading.loader.load_sample

    def counting(split, sample, value_range=None):
        counts[split.name, sample.key] += 1
        return load_sample(split, sample, value_range)

    monkeypatch.setattr(vpt.data.loading.loader, "load_sample", counting)
    return counts


def test_a_comparison__reads_each_test_image_once_per_method_and_seed(config, reads):
    compare(config)
    tested = {key: count for (split, key), count in reads.items() if split == "test"}
    assert len(tested) == 6
    assert set(tested.values()) == {len(config.methods) * len(config.seeds)}


def test_a_trial__reads_no_test_image_and_writes_no_file(config, reads):
    run = config.run_config("vpt_deep", lr=0.01, seed=100)
    metrics = try_with_cost(run).val
    assert 0 <= metrics["top1"] <= 1
    assert {split for split, _ in reads} == {"train", "val"}
    assert not config.run_dir.exists()


def test_a_comparison__trains_the_rate_that_validation_chose(config):
    result = compare(config)
    for name, method in result.methods.items():
        assert [trial.lr for trial in method.trials] == RATES
        assert method.lr == best_trial(method.trials).lr
        for seed, top1 in zip(config.seeds, method.test_top1, strict=True):
            run = config.run_dir / name / f"seed_{seed}"
            saved = json.loads((run / "result.json").read_text())
            assert (saved["seed"], saved["test"]["top1"]) == (seed, top1)
            header = read_prompt_header(run / "prompt.safetensors")
            assert header.config is not None
            assert header.config["optim"]["lr"] == method.lr
        first = config.run_dir / name / f"seed_{config.seeds[0]}" / "prompt.safetensors"
        assert method.file_bytes == first.stat().st_size


def test_a_comparison__done_twice__measures_the_same(config):
    def measured(result):
        return [
            replace(
                method,
                seconds=0.0,
                trials=tuple(replace(trial, seconds=0.0) for trial in method.trials),
            )
            for method in result.methods.values()
        ]

    first = compare(config)
    assert measured(compare(config, overwrite=True)) == measured(first)


def test_a_comparison__into_a_directory_in_use__is_refused_before_any_trial(config, reads):
    config.run_dir.mkdir()
    (config.run_dir / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        compare(config)
    assert not reads


def test_full_fine_tuning__leaves_the_shared_backbone_alone(tmp_path, values):
    values["methods"] = {"full": {"tuning": "full"}, "linear": {}}
    values["learning_rates"] = {"full": [0.01], "linear": [0.01]}
    both = compare(load_comparison(write_yaml(tmp_path / "both.yaml", values)))
    del values["methods"]["full"], values["learning_rates"]["full"]
    values["run_dir"] = str(tmp_path / "alone")
    alone = compare(load_comparison(write_yaml(tmp_path / "alone.yaml", values)))
    assert both.methods["linear"].val_top1 == alone.methods["linear"].val_top1
    hashes = {
        read_prompt_header(tmp_path / folder / "linear/seed_0/prompt.safetensors").backbone.sha256
        for folder in ("comparison", "alone")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("learning_rates.linear=[0.1]", "equally many"),
        ("learning_rates.linear=[0.1, 0.1]", "equally many"),
        ("learning_rates={linear: [0.1]}", "a list for each method"),
        ("trial_seeds=[1]", "also in seeds"),
        ("seeds=[0, 0]", "repeat a seed"),
        ("methods.linear.data={shots: 16}", "same for all methods"),
        ("methods.linear.seed=3", "set by the comparison"),
        ("base.run_dir=elsewhere", "set by the comparison"),
        ("base.train.epochz=2", "epochs"),
        ("methods.linear.tuning=fulll", "frozen, full"),
    ],
)
def test_an_unfair_or_mistyped_comparison__is_refused(tmp_path, values, override, says):
    path = write_yaml(tmp_path / "comparison.yaml", values)
    with pytest.raises(ConfigError, match=says):
        load_comparison(path, [override])


def test_the_quickstart__is_a_valid_comparison_of_the_four_usual_methods(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_comparison(Path("configs/quickstart.yaml"))
    assert list(config.methods) == ["linear", "vpt_shallow", "vpt_deep", "full"]
    assert len(config.seeds) == 3
    runs = [config.run_config(name, lr=0.1, seed=0) for name in config.methods]
    assert {run.backbone.name for run in runs} == {"bundled/glyph_vit"}
    assert [run.tuning for run in runs] == ["frozen", "frozen", "frozen", "full"]


def test_the_comparison_of_methods__gives_each_the_same_budget__and_has_every_prompt(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_comparison(Path("configs/methods_digits.yaml"))
    runs = [config.run_config(name, lr=0.1, seed=0) for name in config.methods]
    assert {run.prompt["name"] for run in runs} == set(list_prompts())
    assert len({(run.train.epochs, run.data.batch_size, run.data.shots) for run in runs}) == 1
    assert len(config.methods) == 14


TRIALS = st.lists(
    st.builds(
        Trial,
        st.floats(1e-6, 1.0),
        st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=2, max_size=2).map(tuple),
    ),
    min_size=1,
)


@given(TRIALS)
def test_the_best_trial__has_the_highest_mean_and_of_equals_the_lowest_rate(trials):
    best = best_trial(trials)
    assert best.mean == max(trial.mean for trial in trials)
    assert best.lr == min(trial.lr for trial in trials if trial.mean == best.mean)
