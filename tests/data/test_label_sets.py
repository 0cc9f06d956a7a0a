from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import make_image
from vpt.data.descriptor import Columns, Cut, Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.loading.loader import ImageDataset, make_loader
from vpt.data.loading.scans import drop_bad, scan_images
from vpt.data.readers.label_sets import classes_of
from vpt.data.reading import read_splits
from vpt.data.sampling import EpochBatches, few_shot, holdout, restrict_classes
from vpt.data.splits import Sample, Split
from vpt.data.transforms.images import EvaluationTransform
from vpt.errors import ConfigError, DataError
from vpt.structures import Preprocess

CELL = {"path": "image", "labels": "tags", "separator": "|"}
FLAT = EvaluationTransform(Preprocess((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


@pytest.fixture
def images(tmp_path) -> Path:
    for number in range(4):
        make_image(number).save(tmp_path / f"{number}.png")
    return tmp_path


def described(root: Path, columns: dict, **fields) -> Descriptor:
    values = {"name": "scenes", "format": "csv", "root": root, "columns": columns, **fields}
    return Descriptor.model_validate(values)


def listed(root: Path, text: str, columns: dict, name: str = "train.csv", **fields) -> Descriptor:
    (root / name).write_text(text, encoding="utf-8")
    return described(root, columns, **fields)


def refusal(descriptor: Descriptor) -> str:
    with pytest.raises(DataError) as caught:
        read_splits(descriptor)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(split: Split | None) -> list:
    assert split is not None
    return [sample.label for sample in split.samples]


def test_one_cell__holds_all_classes_of_an_image__or_none(images):
    text = "image,tags\n0.png,sky | cat\n1.png,\n2.png,cat|\n3.png,sea\n"
    descriptor = listed(images, text, CELL)
    splits = read_splits(descriptor)
    assert splits.class_names == ("cat", "sea", "sky")
    assert labels(splits.train) == [(0, 2), (), (0,), (1,)]
    assert splits.train.class_counts() == [2, 1, 1]
    assert splits.multi_label
    assert splits.train.multi_label
    assert descriptor.metric == "mAP"
    with pytest.raises(DataError, match="several labels"):
        _ = splits.train.labels


def test_one_cell__space_as_separator_and_numbers__are_read(images):
    columns = CELL | {"separator": " "}
    text = "image,tags\n0.png,1  0\n1.png,2\n2.png,\n3.png,0\n"
    splits = read_splits(listed(images, text, columns))
    assert splits.class_names == ("0", "1", "2")
    assert labels(splits.train) == [(0, 1), (2,), (), (0,)]
    named = read_splits(listed(images, text, columns, classes=["x", "y", "z"]))
    assert (named.class_names, labels(named.train)[0]) == (("x", "y", "z"), (0, 1))


@pytest.mark.parametrize("classes", ["remaining", ["sea", "cat"]])
def test_columns_of_zeros_and_ones__are_classes(images, classes):
    text = "path,sea,part,cat\n0.png,1,train,0\n1.png,0.0,train,True\n2.png,0,dev,false\n"
    columns = {"classes": classes, "split": "part"}
    descriptor = listed(images, text, columns, file="train.csv", splits={"val": "dev"})
    splits = read_splits(descriptor)
    assert splits.class_names == ("sea", "cat")
    assert (labels(splits.train), labels(splits.val)) == ([(0,), (1,)], [()])


def test_a_file_per_split__has_to_have_the_same_classes(images):
    (images / "val.csv").write_text("path,sea,dog\n2.png,0,1\n")
    descriptor = listed(images, "path,sea,cat\n0.png,1,0\n1.png,0,1\n", {"classes": "remaining"})
    assert "val.csv has other columns of classes than" in refusal(descriptor)
    assert "cat, dog" in refusal(descriptor)
    (images / "val.csv").write_text("path,sea,cat\n2.png,1,1\n")
    assert labels(read_splits(descriptor).val) == [(0, 1)]


def test_one_label_per_image__stays_a_number(images):
    splits = read_splits(listed(images, "path,label\n0.png,a\n1.png,b\n", {}))
    assert labels(splits.train) == [0, 1]
    assert not splits.multi_label


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("path,a\n0.png,2\n", {"classes": "remaining"}, "'2' in column 'a' is neither 0 nor 1"),
        ("path,a\n0.png,\n", {"classes": ["a"]}, "train.csv:2: '' in column 'a' is neither"),
        ("path,a\n0.png,1\n", {"classes": ["a", "b"]}, "no column 'b' in the header (path, a)"),
        ("path\n0.png\n", {"classes": "remaining"}, "no column but 'path' is left"),
        ("path,a,a\n0.png,1,0\n", {"classes": "remaining"}, "the header names column 'a' twice"),
        ("path,a,b\n0.png,1,0\n", {"classes": "remaining"}, "class 'b' has no image in 'train'"),
        ("image,tags\n0.png,a|b|a\n", CELL, "train.csv:2: class 'a' is listed twice in 'tags'"),
        ("image,tags\n0.png,\n", CELL, "no image of 'scenes' has a label"),
        ("image,label\n0.png,a\n", CELL, "no column 'tags'"),
        ("image,tags\n,a\n", CELL, "train.csv:2: no value for 'image'"),
    ],
)
def test_a_mistake_in_the_file__is_one_line_naming_it(images, text, columns, message):
    assert message in refusal(listed(images, text, columns))


def test_an_unknown_class__is_named_with_the_near_one(images):
    descriptor = listed(images, "image,tags\n0.png,cat|saa\n", CELL, classes=["cat", "sea"])
    assert "unknown class 'saa', did you mean 'sea'" in refusal(descriptor)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: {labels: tags}", "columns.labels and columns.separator belong together"),
        ("columns: {separator: '|'}", "columns.labels and columns.separator belong together"),
        ("columns: {image: a}", "columns.image has no meaning for format csv"),
        ("columns: {labels: a, separator: '|', classes: [b]}", "labels and classes each say"),
        ("columns: {label: a, classes: remaining}", "label and classes each say"),
        ("columns: {classes: [a, a]}", "column 'a' is listed twice"),
        ("columns: {classes: []}", "columns.classes"),
        ("columns: {classes: all}", "columns.classes"),
        ("columns: {classes: [a]}\nclasses: [a]", "columns.classes names the classes already"),
        ("columns: {classes: [a]}\nmetric: top1", "metric 'top1' is not what multi-label data"),
        ("metric: mAP", "metric 'mAP' is not what data of one class per image"),
    ],
)
def test_a_mistake_in_the_descriptor__is_one_line(tmp_path, text, message):
    path = tmp_path / "scenes.yaml"
    path.write_text(f"name: scenes\nformat: csv\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_descriptor(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Targets


def test_targets__are_one_for_each_class_of_an_image(images):
    text = "image,tags\n0.png,a|c\n1.png,\n2.png,b\n"
    split = read_splits(listed(images, text, CELL)).require("train")
    batches = EpochBatches(3, 3, seed=0, epoch=0, shuffle=False)
    loader = make_loader(ImageDataset(split, FLAT, 0), batches, num_workers=0, pin_memory=False)
    (batch,) = loader
    assert batch.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch.labels.is_floating_point()


def test_a_bad_image__takes_its_labels_along__but_not_a_whole_class(images):
    text = "image,tags\n0.png,a\n1.png,a|b\n2.png,a\n"
    split = read_splits(listed(images, text, CELL)).require("train")
    (images / "0.png").write_bytes(b"no image")
    assert drop_bad(split, scan_images(split)).class_counts() == [2, 1]
    (images / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="class 'b' has no readable image left"):
        drop_bad(split, scan_images(split))


# Cuts


def split_of(label_sets: list[tuple[int, ...]], classes: int) -> Split:
    samples = (Sample(Path(f"{i}.png"), each, f"{i}.png") for i, each in enumerate(label_sets))
    return Split("train", tuple(samples), tuple(map(str, range(classes))))


def test_holdout__takes_a_share_of_each_class__whatever_the_order():
    sets = [(0,)] * 40 + [(0, 1)] * 20 + [(1, 2)] * 10 + [()] * 20
    split = split_of(sets, 3)
    rest, held = holdout(split, 0.2, seed=0)
    assert held.class_counts() == [12, 6, 2]
    assert sum(not sample.classes for sample in held.samples) == 4
    assert len(rest) + len(held) == len(split)
    turned = split.with_samples(reversed(split.samples))
    assert set(holdout(turned, 0.2, seed=0)[1].samples) == set(held.samples)
    assert set(holdout(split, 0.2, seed=1)[1].samples) != set(held.samples)


@given(
    st.lists(st.frozensets(st.integers(0, 3)), min_size=8, max_size=40),
    st.floats(0.05, 0.6),
)
def test_holdout__any_label_sets__parts_the_images_and_keeps_the_rarest_class(sets, fraction):
    split = split_of([tuple(sorted(each)) for each in sets], 4)
    try:
        rest, held = holdout(split, fraction, seed=3)
    except DataError:
        return
    assert {s.key for s in rest.samples} ^ {s.key for s in held.samples} == {
        s.key for s in split.samples
    }
    counts = split.class_counts()
    present = [label for label in range(4) if counts[label]]
    for rarest in sorted(present, key=lambda label: (counts[label], label))[:1]:
        assert rest.class_counts()[rarest] > 0


def test_cut_of_a_descriptor__works(images):
    text = "image,tags\n0.png,a\n1.png,a|b\n2.png,a\n3.png,a|b\n"
    descriptor = listed(images, text, CELL, splits={"val": Cut(fraction=0.5).model_dump()})
    splits = read_splits(descriptor)
    assert splits.val.class_counts() == splits.train.class_counts() == [2, 1]


def test_what_needs_one_class_per_image__is_refused(images):
    text = "image,tags\n0.png,a\n1.png,a|b\n"
    splits = read_splits(listed(images, text, CELL))
    with pytest.raises(DataError, match="several labels"):
        few_shot(splits.require("train"), 1, seed=0)
    with pytest.raises(DataError, match=r"data.classes base needs one class per image"):
        restrict_classes(splits, "base")


@given(st.lists(st.sampled_from(["a", "b", "c", " ", ""]), max_size=6))
def test_any_cell__is_its_pieces_or_a_refusal_of_one_twice(pieces):
    columns = Columns(labels="tags", separator=";")
    wanted = [piece for piece in pieces if piece.strip()]
    cell = {"tags": ";".join(pieces)}
    if len(set(wanted)) < len(wanted):
        with pytest.raises(DataError, match="listed twice"):
            classes_of(cell, columns, (), "x.csv:1")
    else:
        assert list(classes_of(cell, columns, (), "x.csv:1")) == wanted
