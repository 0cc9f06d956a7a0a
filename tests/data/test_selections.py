import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.coop_layouts import make_split_zhou
from vpt.config import RunConfig, validate
from vpt.data import (
    Sample,
    Split,
    Splits,
    apply_selection,
    coop_few_shot,
)
from vpt.errors import ConfigError, DataError, VptError
from vpt.experiment import load_splits


def splits_of(*, val: bool = True) -> Splits:
    """Two classes; train has 5 images of each, val 2, test 1."""

    def split(name: str, count: int) -> Split:
        samples = [Sample(i, c, f"{name}/{c}/{i}") for i in range(count) for c in range(2)]
        return Split(name, tuple(samples), ("a", "b"))

    return Splits(
        split("train", 5),
        split("val", 2) if val else None,
        split("test", 1),
        ("a", "b"),
        ("A", "B"),
    )


def keys(split: Split | None) -> list[str]:
    assert split is not None
    return [sample.key for sample in split.samples]


def written(folder: Path, content: object) -> Path:
    path = folder / "selection.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("val", [True, False])
def test_selection__written_and_applied__gives_the_same_splits(tmp_path, val):
    splits = splits_of(val=val)
    train, held = coop_few_shot(splits.train, splits.val, 2, seed=1)
    chosen = replace(splits, train=train, val=held)
    content = {"class_names": ["a", "b"], "train": keys(train), "test": keys(splits.test)}
    content |= {"val": keys(held)} if val else {}
    assert apply_selection(splits, written(tmp_path, content)) == chosen


def test_apply_selection__train_alone__leaves_the_others_as_they_are(tmp_path):
    splits = splits_of()
    found = apply_selection(splits, written(tmp_path, {"train": ["train/1/3", "train/0/2"]}))
    assert keys(found.train) == ["train/1/3", "train/0/2"]
    assert found.train.labels == (1, 0)
    assert (found.val, found.test, found.text_names) == (splits.val, splits.test, ("A", "B"))


def test_apply_selection__image_that_a_cut_put_into_val__is_taken_from_there(tmp_path):
    found = apply_selection(splits_of(), written(tmp_path, {"train": ["val/0/0", "train/1/0"]}))
    assert keys(found.train) == ["val/0/0", "train/1/0"]
    assert keys(found.val) == ["val/1/0", "val/0/1", "val/1/1"]


def test_apply_selection__no_val_before__has_the_listed_one(tmp_path):
    found = apply_selection(splits_of(val=False), written(tmp_path, {"val": ["train/0/0"]}))
    assert (found.val.name, keys(found.val)) == ("val", ["train/0/0"])
    assert len(found.train) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no object with lists of images under 'train' or 'val'"),
        ({"seed": 1}, "no object with lists"),
        ({"train": []}, "train"),
        ({"train": ["train/0/0", 3]}, "train"),
        ({"train": ["train/0/0"], "tests": []}, "tests"),
        ({"train": ["train/0/0", "train/0/0"]}, "'train/0/0' is listed twice in 'train'"),
        ({"train": ["train/0/0"], "val": ["train/0/0"]}, "'train/0/0' is listed in 'train' and"),
        ({"train": ["train/0/0", "x\n", "y"]}, r"2 of the 3 images for 'train' are not among"),
        ({"train": ["x\n"]}, r"the first is 'x\n'"),
        ({"train": ["test/0/0"]}, "1 of the 1 images for 'train' are not among"),
        ({"train": [f"val/{c}/{i}" for c in range(2) for i in range(2)]}, "no image for 'val'"),
    ],
)
def test_apply_selection__mistake__is_one_line_naming_it(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(VptError) as caught:
        apply_selection(splits_of(), path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(content=st.text() | st.binary())
def test_apply_selection__any_file__is_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("s") / "selection.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        apply_selection(splits_of(), path)
    assert len(str(caught.value).splitlines()) == 1


# In a run


@pytest.fixture
def pets(tmp_path):
    make_split_zhou(tmp_path, file="s.json", images="", names=["cat", "dog_x", "eel"])
    (tmp_path / "pets.yaml").write_text("name: pets\nformat: split_zhou\nfile: s.json\n")
    return tmp_path


def configured(root: Path, **data: object) -> RunConfig:
    return validate(
        RunConfig,
        {
            "run_dir": str(root / "run"),
            "backbone": {"name": "tiny"},
            "data": {
                "dataset": str(root / "pets.yaml"),
                "root": str(root),
                "batch_size": 2,
                **data,
            },
            "optim": {"lr": 0.1},
            "train": {"epochs": 1},
        },
        source="test",
    )


def test_load_splits__coop_shots_then_half_of_the_classes__cuts_val_as_well(pets):
    everything = load_splits(configured(pets))[1]
    shots = {"sampling": "coop", "shots": 1, "classes": "base"}
    splits = load_splits(configured(pets, **shots))[1]
    assert splits.class_names == ("cat", "dog_x")
    assert splits.text_names == ("cat", "dog x")
    train, val = coop_few_shot(everything.train, everything.val, 1, seed=0)
    for split, chosen in ((splits.train, train), (splits.val, val)):
        assert keys(split) == [sample.key for sample in chosen.samples if sample.label < 2]
    new = load_splits(configured(pets, **{**shots, "classes": "new"}))[1]
    assert (new.class_names, new.train.labels, new.test.labels) == (("eel",), (0,), (0,))


def test_load_splits__selection__takes_the_place_of_shots(pets):
    path = written(pets, {"train": [f"folder_{label}/1.jpg" for label in range(3)]})
    splits = load_splits(configured(pets, selection=str(path)))[1]
    assert keys(splits.train) == [f"folder_{label}/1.jpg" for label in range(3)]
    with pytest.raises(ConfigError, match="selection and shots both choose"):
        configured(pets, selection=str(path), shots=1)


def test_load_splits__selection_without_a_class__is_refused(pets):
    path = written(pets, {"train": [f"folder_{label}/1.jpg" for label in range(2)]})
    with pytest.raises(DataError, match="class 'eel' has no image in 'train'"):
        load_splits(configured(pets, selection=str(path)))
    base = load_splits(configured(pets, selection=str(path), classes="base"))[1]
    assert base.train.class_counts() == [1, 1]
