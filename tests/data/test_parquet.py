import importlib.util
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import vpt.data.readers.parquet
from tests.data.parquet_files import (
    IMAGE,
    class_label,
    encoded,
    images,
    make_parquet,
    write_table,
)
from tests.fixtures import make_image
from tests.test_cli import run
from tests.training import make_config, prompt_tensors, result_without_time, same_bits
from vpt.data.descriptor import Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.loading.loader import load_sample
from vpt.data.loading.scans import drop_bad, scan_images
from vpt.data.reading import read_splits
from vpt.data.splits import PackedImage, Split
from vpt.errors import ConfigError, DataError
from vpt.reports.data_check import check_data
from vpt.reports.data_page import data_page
from vpt.runs import train


def described(root: Path, **fields) -> Descriptor:
    values = {"name": "pets", "format": "parquet", "root": root, **fields}
    return Descriptor.model_validate(values)


def refusal(descriptor: Descriptor) -> str:
    with pytest.raises(DataError) as caught:
        read_splits(descriptor)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def is_image(split: Split, position: int, seed: int) -> bool:
    found = np.asarray(load_sample(split, split.samples[position]))
    return np.array_equal(found, np.asarray(make_image(seed)))


def one_file(root: Path, labels: pa.Array, features=None, **fields) -> Descriptor:
    columns = {"image": images(range(len(labels))), "label": labels}
    write_table(root / "train.parquet", columns, features)
    return described(root, **fields)


# Reading


def test_the_hubs_layout__is_found__with_class_names_from_the_metadata(tmp_path):
    splits = read_splits(described(make_parquet(tmp_path)))
    assert splits.class_names == ("cat", "dog")
    assert [len(splits.require(name)) for name in ("train", "val", "test")] == [10, 4, 4]
    train_split = splits.require("train")
    assert train_split.labels == (0, 1) * 5
    assert train_split.samples[0].key == "data/train-00000-of-00002.parquet:0"
    assert train_split.samples[7].key == "data/train-00001-of-00002.parquet:1"


def test_rows__are_read_in_any_order__whatever_the_row_groups(tmp_path):
    split = read_splits(described(make_parquet(tmp_path))).require("train")
    order = [9, 0, 5, 3, 8, 1, 7, 2, 6, 4]
    assert all(is_image(split, position, seed=position) for position in order)


def test_no_more_is_kept_than_said__but_the_group_in_use(tmp_path, monkeypatch):
    split = read_splits(described(make_parquet(tmp_path))).require("train")
    monkeypatch.setattr(vpt.data.readers.parquet, "CACHED_BYTES", 0)
    assert all(is_image(split, position, seed=position) for position in (0, 9, 1, 8))
    assert len(vpt.data.readers.parquet._groups_of_this_process()._groups) == 1
    monkeypatch.setattr(vpt.data.readers.parquet, "CACHED_BYTES", 2**30)
    assert all(is_image(split, position, seed=position) for position in range(10))
    assert len(vpt.data.readers.parquet._groups_of_this_process()._groups) == 5


def test_a_forked_process__opens_files_of_its_own(tmp_path, monkeypatch):
    split = read_splits(described(make_parquet(tmp_path))).require("train")
    assert is_image(split, 0, seed=0)
    before = vpt.data.readers.parquet._groups_of_this_process()
    monkeypatch.setattr(os, "getpid", lambda: before.process + 1)
    assert vpt.data.readers.parquet._groups_of_this_process() is not before


@pytest.mark.parametrize(
    ("splits", "count"),
    [
        ({"train": "data/train-*.parquet"}, 10),
        ({"train": "data/train-00001-of-00002.parquet"}, 4),
        ({"train": "data"}, 18),
    ],
)
def test_splits__may_be_a_pattern_a_file_or_a_folder(tmp_path, splits, count):
    make_parquet(tmp_path)
    for name in ("validation", "test"):
        (tmp_path / "data" / f"{name}-00000-of-00001.parquet").rename(
            tmp_path / "data" / f"z_{name}.parquet"
        )
    assert len(read_splits(described(tmp_path, splits=splits)).require("train")) == count


@pytest.mark.parametrize(
    "place", ["train.parquet", "train/0000.parquet", "default/train/0.parquet"]
)
def test_other_usual_places__are_found(tmp_path, place):
    columns = {"image": images(range(2)), "label": pa.array(["a", "b"])}
    write_table(tmp_path / place, columns)
    splits = read_splits(described(tmp_path))
    assert splits.class_names == ("a", "b")
    assert splits.val is None


def test_files_elsewhere__may_be_named_by_their_whole_path(tmp_path):
    make_parquet(tmp_path / "there")
    (tmp_path / "here").mkdir()
    for source in (f"{tmp_path}/there/data/train-*.parquet", "../there/data/train-*.parquet"):
        splits = read_splits(described(tmp_path / "here", splits={"train": source}))
        first = splits.require("train").samples[0]
        assert first.key == "../there/data/train-00000-of-00002.parquet:0"
        assert is_image(splits.require("train"), 9, seed=9)


def test_a_folder_of_parquet_files__needs_no_descriptor(tmp_path):
    descriptor = load_descriptor(make_parquet(tmp_path))
    assert (descriptor.format, len(read_splits(descriptor).require("test"))) == ("parquet", 4)


def test_a_validation_cut__works(tmp_path):
    make_parquet(tmp_path)
    (tmp_path / "data/validation-00000-of-00001.parquet").unlink()
    splits = read_splits(described(tmp_path, splits={"val": {"fraction": 0.2}}))
    assert splits.require("val").class_counts() == [1, 1]
    assert splits.require("train").class_counts() == [4, 4]


def test_numbers__stand_for_themselves__whatever_the_classes_are_called(tmp_path):
    features = {"image": IMAGE, "label": class_label("1", "0")}
    splits = read_splits(one_file(tmp_path, pa.array([0, 1, 1]), features))
    assert splits.class_names == ("1", "0")
    assert splits.require("train").labels == (0, 1, 1)


@pytest.mark.parametrize(
    ("labels", "fields", "names", "expected"),
    [
        (pa.array([1, 0, 1]), {}, ("0", "1"), (1, 0, 1)),
        (pa.array([1, 0, 1]), {"classes": ["x", "y"]}, ("x", "y"), (1, 0, 1)),
        (pa.array(["b", "a", "b"]), {}, ("a", "b"), (1, 0, 1)),
        (pa.array(["b", "a", "b"]), {"classes": ["b", "a"]}, ("b", "a"), (0, 1, 0)),
    ],
)
def test_labels_without_metadata__are_numbers_or_names(tmp_path, labels, fields, names, expected):
    splits = read_splits(one_file(tmp_path, labels, **fields))
    assert splits.class_names == names
    assert splits.require("train").labels == expected


@pytest.mark.parametrize("kind", ["List", "Sequence", "old"])
def test_a_list_of_class_labels__is_multi_label(tmp_path, kind):
    names = class_label("a", "b", "c")
    feature = [names] if kind == "old" else {"feature": names, "_type": kind}
    columns = {"image": images(range(3)), "objects": pa.array([[2, 0], [], [1]])}
    write_table(tmp_path / "train.parquet", columns, {"image": IMAGE, "objects": feature})
    descriptor = described(tmp_path, columns={"labels": "objects"})
    splits = read_splits(descriptor)
    assert splits.class_names == ("a", "b", "c")
    assert [sample.label for sample in splits.require("train").samples] == [(0, 2), (), (1,)]
    assert descriptor.metric == "mAP"


def test_plain_bytes_and_other_columns__are_read(tmp_path):
    data = pa.array([encoded(4), encoded(5)], pa.large_binary())
    columns = {"caption": pa.array(["x", "y"]), "img": data, "fine": pa.array([0, 1])}
    write_table(tmp_path / "train.parquet", columns)
    split = read_splits(described(tmp_path, columns={"image": "img", "label": "fine"})).require(
        "train"
    )
    assert is_image(split, 1, seed=5)


# Mistakes


def test_without_pyarrow__one_line_says_what_to_install(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        vpt.data.readers.parquet,
        "find_spec",
        lambda name: None if name == "pyarrow" else real(name),
    )
    message = refusal(described(make_parquet(tmp_path)))
    assert "needs the package pyarrow: pip install 'vpt[parquet]'" in message


@pytest.mark.parametrize(
    ("labels", "features", "fields", "message"),
    [
        (
            pa.array([0, -1]),
            class_label("a", "b"),
            {},
            "row 1: label -1 is out of range: 2 classes",
        ),
        (pa.array([0, 2]), class_label("a", "b"), {}, "row 1: label 2 is out of range"),
        (pa.array([0, 2]), None, {}, "row 1: label 2 is out of range"),
        (pa.array(["a", "x"]), None, {"classes": ["a", "xy"]}, "unknown class 'x', did you mean"),
        (pa.array([0, None]), None, {}, "row 1 has no value for 'label'"),
        (pa.array([0.5, 1.5]), None, {}, "column 'label' is of type double"),
        (pa.array([[0], [1]]), None, {}, "holds lists of labels; name it under columns.labels"),
        (pa.array([0, 1]), None, {"columns": {"labels": "label"}}, "under columns.label, not"),
        (pa.array([0, 1]), None, {"columns": {"label": "fine"}}, "no column 'fine' (image, label)"),
        (pa.array([0, 1]), None, {"columns": {"image": "label"}}, "images are expected as bytes"),
        (pa.array([0, 0]), class_label("a", "b"), {}, "class 'b' has no image in 'train'"),
        (pa.array([0, 1]), None, {"splits": {"val": "dev-*"}}, "no parquet file at"),
    ],
)
def test_a_mistake__is_one_line_naming_it(tmp_path, labels, features, fields, message):
    metadata = None if features is None else {"image": IMAGE, "label": features}
    assert message in refusal(one_file(tmp_path, labels, metadata, **fields))


def test_a_file_that_is_none_and_an_empty_folder__are_named(tmp_path):
    assert "no images in 'pets'" in refusal(described(tmp_path))
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    assert "train.parquet: cannot be read as parquet" in refusal(described(tmp_path))


def test_files_of_other_classes__are_refused(tmp_path):
    make_parquet(tmp_path)
    columns = {"image": images(range(2)), "label": pa.array([0, 1])}
    features = {"image": IMAGE, "label": class_label("dog", "cat")}
    write_table(tmp_path / "data/test-00000-of-00001.parquet", columns, features)
    assert "other class names than" in refusal(described(tmp_path))


@pytest.mark.parametrize("name", ["path", "separator", "split"])
def test_columns_of_csv_files__are_refused(tmp_path, name):
    (tmp_path / "x.yaml").write_text(f"name: x\nformat: parquet\ncolumns: {{{name}: a}}\n")
    with pytest.raises(ConfigError, match=f"columns.{name} has no meaning for format parquet"):
        load_descriptor(tmp_path / "x.yaml")


def test_a_row_that_is_no_image__is_found_by_the_scan_and_can_be_left_out(tmp_path):
    rows = [{"bytes": encoded(n), "path": None} for n in range(6)]
    rows[2] = {"bytes": b"<html>", "path": None}
    rows[3] = {"bytes": None, "path": "elsewhere.png"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(rows, kind), "label": pa.array([0, 1] * 3)}
    write_table(tmp_path / "train.parquet", columns)
    split = read_splits(described(tmp_path)).require("train")
    bad = scan_images(split)
    assert [image.path for image in bad] == [
        PackedImage(tmp_path / "train.parquet", row, "image") for row in (2, 3)
    ]
    assert bad[0].reason.startswith("not an image")
    assert bad[1].reason == "holds no bytes of an image (a path alone is not followed)"
    assert str(bad[0].path) == f"{tmp_path / 'train.parquet'}: row 2"
    assert [sample.key for sample in drop_bad(split, bad).samples] == [
        f"train.parquet:{row}" for row in (0, 1, 4, 5)
    ]


def test_lists_without_any_label__are_refused(tmp_path):
    kind = pa.list_(pa.int64())
    descriptor = one_file(tmp_path, pa.array([[], []], kind), columns={"labels": "label"})
    assert "no image of 'pets' has a label" in refusal(descriptor)


def test_a_file_that_shrank_meanwhile__is_named(tmp_path):
    descriptor = one_file(tmp_path, pa.array([0, 1, 0, 1]))
    split = read_splits(descriptor).require("train")
    columns = {"image": images(range(2)), "label": pa.array([0, 1])}
    write_table(tmp_path / "train.parquet", columns)
    with pytest.raises(DataError, match=r"row 3: the file has 2 rows; it changed"):
        load_sample(split, split.samples[3])


# Runs


def test_train__gives_the_same_bits_for_any_number_of_workers(tmp_path):
    make_parquet(tmp_path / "pets")
    (tmp_path / "pets.yaml").write_text(f"name: pets\nformat: parquet\nroot: {tmp_path}/pets\n")
    for workers in (0, 2):
        changes = {"data__num_workers": workers, "train__epochs": 1}
        train(make_config(tmp_path / f"run{workers}", tmp_path / "pets.yaml", **changes))
    one, other = tmp_path / "run0", tmp_path / "run2"
    assert same_bits(prompt_tensors(one), prompt_tensors(other))
    assert result_without_time(one) == result_without_time(other)
    assert result_without_time(one)["test_per_class"].keys() == {"cat", "dog"}


def test_data_check__shows_sizes_and_pictures(tmp_path, capsys):
    make_parquet(tmp_path / "pets")
    path = tmp_path / "pets.yaml"
    path.write_text(f"name: pets\nformat: parquet\nroot: {tmp_path}/pets\n")
    check = check_data(path)
    assert check.splits["train"].image_sizes == (("12 x 10", 10),)
    assert "data/validation-00000-of-00001.parquet:0: cat" in data_page(check)
    assert run("data", "check", path, "--num-workers", 0)[0] == 0
    assert "ready to train" in capsys.readouterr().out


def test_boxes_in_parquet__are_refused_with_what_to_do(tmp_path):
    write_table(tmp_path / "train.parquet", {"image": images([0]), "objects": pa.array(["x"])})
    with pytest.raises(DataError, match=r"'objects' holds boxes, .* metadata\.jsonl"):
        read_splits(load_descriptor(tmp_path))
