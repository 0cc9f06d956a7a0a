import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures import make_cub, make_folder, make_image
from vpt.data.descriptor import Columns, Counts, Cut, Descriptor, SplitSources
from vpt.data.layouts import load_descriptor
from vpt.data.reading import read_splits
from vpt.data.splits import Split
from vpt.errors import DataError

DATASETS = Path(__file__).parents[2] / "datasets"


def described(root: Path, format: str = "folder", **fields) -> Descriptor:
    return Descriptor.model_validate({"name": "birds", "format": format, "root": root, **fields})


def refusal(descriptor: Descriptor) -> str:
    with pytest.raises(DataError) as caught:
        read_splits(descriptor)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def keys(split: Split | None) -> list[str]:
    assert split is not None
    return [sample.key for sample in split.samples]


# Image folders


def test_folder__three_splits__are_read_sorted_with_labels(tmp_path):
    splits = read_splits(described(make_folder(tmp_path)))
    assert splits.class_names == ("class_0", "class_1")
    assert keys(splits.val) == [f"val/class_{c}/{i}.png" for c in range(2) for i in range(3)]
    assert splits.val.labels == (0, 0, 0, 1, 1, 1)
    assert splits.test.class_counts() == [3, 3]
    assert splits.val.samples[0].source == tmp_path / "val" / "class_0" / "0.png"


def test_folder__split_that_is_missing__is_named_with_the_key_that_makes_one(tmp_path):
    make_folder(tmp_path, splits=("train", "test"))
    splits = read_splits(described(tmp_path))
    assert splits.val is None
    with pytest.raises(DataError, match=r"it has: train, test\); data.val_fraction=0.2 cuts one"):
        splits.require("val")
    assert read_splits(load_descriptor(tmp_path)).test == splits.test


def test_folder__validation_cut__parts_the_training_images(tmp_path):
    make_folder(tmp_path, splits=("train",), images=10)
    cut = SplitSources(val=Cut(fraction=0.2), test=Cut(fraction=0.3))
    splits = read_splits(described(tmp_path, splits=cut))
    assert splits.test.class_counts() == [3, 3]
    assert splits.val.class_counts() == [1, 1]
    parts = [set(keys(split)) for split in (splits.train, splits.val, splits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 20
    assert read_splits(described(tmp_path, splits=cut)) == splits


def test_folder__nested_hidden_and_other_files__only_images_count(tmp_path):
    make_folder(tmp_path, splits=("train",), images=1)
    inner = tmp_path / "train" / "class_0"
    (inner / "more").mkdir()
    make_image().save(inner / "more" / "9.JPG", "JPEG")
    (inner / "._0.png").touch()
    (inner / "notes.txt").touch()
    (tmp_path / "train" / ".cache").mkdir()
    splits = read_splits(described(tmp_path))
    assert keys(splits.train)[:2] == ["train/class_0/0.png", "train/class_0/more/9.JPG"]
    assert len(splits.train) == 3


def test_folder__cut_that_cannot_be__is_named(tmp_path):
    make_folder(tmp_path, splits=("test",))
    cut = SplitSources(val=Cut(fraction=0.1))
    assert "val is to be cut out of train" in refusal(described(tmp_path, splits=cut))
    make_folder(tmp_path, splits=("train",), images=2)
    assert "holds no image" in refusal(described(tmp_path, splits=cut))


def test_folder__classes_given__set_the_label_order(tmp_path):
    make_folder(tmp_path)
    splits = read_splits(described(tmp_path, classes=["class_1", "class_0"]))
    assert keys(splits.train)[0] == "train/class_1/0.png"
    assert splits.train.labels[0] == 0


def test_folder__mistakes__are_named(tmp_path):
    assert "unpack birds" in refusal(described(tmp_path / "no", how_to_get="unpack birds"))
    assert "set data.root" in refusal(described(tmp_path / "no"))
    assert "no folder given" in refusal(described(None))
    assert "holds no folders; give train/, val/ and test/" in refusal(described(tmp_path))
    make_folder(tmp_path)
    assert "no such path" in refusal(described(tmp_path, splits={"val": "validation"}))
    assert "in 'train' and 'val'" in refusal(described(tmp_path, splits={"val": "train"}))
    assert "'class_2'" in refusal(described(tmp_path, classes=["class_0", "class_1", "class_2"]))
    assert "6 images in val, 7 are" in refusal(described(tmp_path, counts=Counts(val=7)))
    (tmp_path / "test" / "klass_1").mkdir()
    message = refusal(described(tmp_path))
    assert "'klass_1' that is no class" in message
    assert "did you mean 'class_1'" in message
    (tmp_path / "test" / "klass_1").rmdir()
    (tmp_path / "train" / "class_2").mkdir()
    assert "class_2' is taken for a class but has no images" in refusal(
        described(tmp_path, splits={"val": "train"})
    )


# Lists


def write_images(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(seed).save(root / name)


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path, "a/1.png", "a/2 b.png", "b/1.png", "b/2.png")
    return tmp_path


def listed(root: Path, text: str, name: str = "train.csv", **fields) -> Descriptor:
    (root / name).write_text(text, encoding="utf-8")
    return described(root, "csv" if name.endswith("csv") else "image_list", **fields)


def test_csv__names_as_labels__are_classes(images):
    text = "\ufeffpath,label\r\n./b/1.png,wren\r\na/1.png,crow\r\n"
    splits = read_splits(listed(images, text))
    assert splits.class_names == ("crow", "wren")
    assert [(s.key, s.label) for s in splits.train.samples] == [("b/1.png", 1), ("a/1.png", 0)]


def test_csv__numbers_as_labels__are_kept(images):
    splits = read_splits(listed(images, "path,label\nb/1.png,1\na/1.png,0\n"))
    assert splits.class_names == ("0", "1")
    assert splits.train.labels == (1, 0)
    named = read_splits(listed(images, "path,label\nb/1.png,1\na/1.png,0\n", classes=["x", "y"]))
    assert named.train.labels == (1, 0)


def test_csv__split_column__parts_one_file(images):
    text = (
        "image,species,part\na/1.png,x,train\na/2 b.png,y,train\nb/1.png,x,kept\nb/2.png,x,test\n"
    )
    descriptor = listed(
        images,
        text,
        file="train.csv",
        columns=Columns(path="image", label="species", split="part"),
        splits=SplitSources(val="kept"),
    )
    splits = read_splits(descriptor)
    assert [keys(part) for part in (splits.train, splits.val, splits.test)] == [
        ["a/1.png", "a/2 b.png"],
        ["b/1.png"],
        ["b/2.png"],
    ]
    usual = descriptor.model_copy(update={"splits": SplitSources()})
    assert "train.csv:4: split 'kept' is none of train, training, val" in refusal(usual)
    (images / "train.csv").write_text(text.replace("kept", "Validation"))
    assert keys(read_splits(usual).val) == ["b/1.png"]


def test_image_list__path_with_space__is_read(images):
    splits = read_splits(listed(images, "a/2 b.png 0\n\nb/1.png 1\n", "train.txt"))
    assert keys(splits.train) == ["a/2 b.png", "b/1.png"]


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("path,label\na/1.png,x\na/9.png,x\n", {}, "a/9.png' is listed but does not exist (1 of 2"),
        ("path,label\na/1.png,0\nb/1.png,2\n", {}, "train.csv:3: label 2 is out of range"),
        ("path,label\na/1.png,-1\nb/1.png,0\n", {}, "train.csv:2: label -1 is out of range"),
        ("path,label\na/1.png,7\n", {"classes": ["x", "y"]}, "train.csv:2: label 7 is out of"),
        ("path,label\na/1.png,-1\n", {"classes": ["x", "y"]}, "train.csv:2: label -1 is out of"),
        ("path,label\na/1.png,cow\n", {"classes": ["crow"]}, "class 'cow', did you mean 'crow'"),
        ("path,label\na/1.png,x\n", {"classes": ["x", "y"]}, "class 'y' has no image in 'train'"),
        ("path,label\na/1.png,x\n./a/1.png,x\n", {}, "'a/1.png' is listed twice in 'train'"),
        ("path,class\na/1.png,x\n", {}, "no column 'label' in the header (path, class)"),
        ("path,label\na/1.png\n", {}, "train.csv:2: 1 field, the header has 2"),
        ("path,label\na/1.png,\n", {}, "train.csv:2: no value for 'label'"),
        ("path,label\n", {}, "no images"),
        ("", {}, "is empty"),
        ('path,label\n"a/1.png,x\n', {}, "train.csv:2: a quote that begins here is not closed"),
        ("path,label\na/1.png,x\n", {"file": "other.csv"}, "other.csv: cannot be read"),
    ],
)
def test_csv__mistake__is_one_line_naming_it(images, text, fields, message):
    assert message in refusal(listed(images, text, **fields))


def test_csv__other_encoding__is_refused(images):
    (images / "train.csv").write_bytes(b"path,label\na/1.png,\xe9\n")
    assert "UTF-8" in refusal(described(images, "csv"))


def test_csv__image_in_two_splits__is_refused(images):
    (images / "val.csv").write_text("path,label\na/1.png,x\n")
    descriptor = listed(images, "path,label\nb/1.png,x\na/1.png,x\n")
    assert "'a/1.png' is listed in 'train' and 'val'" in refusal(descriptor)


def test_image_list__line_without_label__is_named(images):
    assert "train.txt:2: 'b/1.png'" in refusal(listed(images, "a/1.png 0\nb/1.png\n", "train.txt"))


# CUB-200-2011


def test_cub__official_layout__keeps_the_official_test_split(tmp_path):
    cut = SplitSources(val=Cut(fraction=0.1))
    splits = read_splits(described(make_cub(tmp_path), "cub", splits=cut))
    assert splits.class_names == ("001.Bird_1", "002.Bird_2", "003.Bird_3")
    assert splits.test.class_counts() == [4, 4, 4]
    assert splits.val.class_counts() == [1, 1, 1]
    assert splits.train.class_counts() == [9, 9, 9]
    assert keys(splits.test)[0] == "001.Bird_1/Bird_1_0010.jpg"
    assert all(sample.source.is_file() for sample in splits.train.samples)


def test_cub__descriptor_of_the_project__asks_for_all_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    descriptor = load_descriptor(DATASETS / "cub_200_2011.yaml")
    with pytest.raises(DataError, match=r"not in 'data/CUB_200_2011'; to get them: vpt data get"):
        read_splits(descriptor)
    with pytest.raises(DataError, match=r"12 images in test, 5794 are expected"):
        read_splits(descriptor, make_cub(tmp_path))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("image_class_labels.txt", "1 1\n", "1 9\n", "image 1 has class 9"),
        ("image_class_labels.txt", "1 1\n", "", "image 1 has class None"),
        ("train_test_split.txt", "1 1\n", "1 2\n", "image 1 is marked 2"),
        ("images.txt", "Bird_1_0000", "Bird_1_7777", "Bird_1_7777.jpg' is listed but does not"),
        ("images.txt", "1 001", "2 001", "images.txt:2: id 2 is listed twice"),
        ("images.txt", "1 001", "one 001", "images.txt:1: 'one' is no id"),
        ("classes.txt", "1 001.Bird_1", "1", "classes.txt:1: '1' is not 'class_id class_name'"),
        ("classes.txt", "3 ", "3 003.B\n4 ", "class '003.Bird_3' has no image in 'train'"),
    ],
)
def test_cub__damaged_list__is_one_line_naming_it(tmp_path, name, old, new, message):
    path = make_cub(tmp_path) / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert message in refusal(described(tmp_path, "cub"))


def test_cub__list_missing__says_how_to_get_it(tmp_path):
    (make_cub(tmp_path) / "train_test_split.txt").unlink()
    message = refusal(described(tmp_path, "cub", how_to_get="unpack it"))
    assert "no train_test_split.txt; to get them: unpack it" in message


# The digits of scikit-learn


def fingerprint(split: Split) -> str:
    return hashlib.sha256(" ".join(keys(split)).encode()).hexdigest()[:16]


def test_digits__descriptor_of_the_project__gives_the_written_split():
    splits = read_splits(load_descriptor(DATASETS / "digits.yaml"))
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [645, 433, 719]
    assert [fingerprint(part) for part in parts] == [
        "6f1e3a80e6971cd5",
        "dbf6bf62b6c1057f",
        "416bc10a4da3d477",
    ]
    assert len({key for part in parts for key in keys(part)}) == 1797
    assert splits.class_names == tuple("0123456789")
    assert min(splits.train.class_counts()) == 62
    assert splits.train.array.dtype == np.uint8
    assert (splits.train.array.min(), splits.train.array.max()) == (0, 255)


def test_digits__other_checksum__is_refused():
    descriptor = load_descriptor(DATASETS / "digits.yaml")
    message = refusal(descriptor.model_copy(update={"checksum": "sha256:00"}))
    assert "expects sha256:00" in message
