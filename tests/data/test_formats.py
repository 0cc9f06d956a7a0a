import hashlib
import shutil
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


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("training", "valid", "testing"), ("Train", "VALIDATION", "eval"), ("train", "dev", "test")],
)
def test_folder__usual_names_of_splits__are_found(tmp_path, train, val, test):
    make_folder(tmp_path, splits=(train, val, test))
    splits = read_splits(load_descriptor(tmp_path))
    assert keys(splits.val)[0] == f"{val}/class_0/0.png"
    assert (len(splits.train), len(splits.test)) == (6, 6)


def test_folder__two_names_of_one_split__ask_with_a_descriptor_for_each(tmp_path):
    make_folder(tmp_path, splits=("train", "val", "validation"))
    with pytest.raises(DataError, match=r"'val' and 'validation', and either may") as caught:
        load_descriptor(tmp_path)
    assert "# validation for val" in str(caught.value)
    with pytest.raises(DataError, match=r"name one under 'splits'"):
        read_splits(described(tmp_path))


def test_folder__split_that_is_mistyped__is_said(tmp_path):
    make_folder(tmp_path, splits=("train", "vaild"))
    descriptor = load_descriptor(tmp_path)
    assert "by class: train (not vaild, did you mean 'valid'" in descriptor.seen


def test_folder__classes_of_which_one_is_called_train__are_classes(tmp_path):
    make_folder(tmp_path, splits=("x",), classes=3)
    for label, name in enumerate(("train", "bus", "car")):
        (tmp_path / "x" / f"class_{label}").rename(tmp_path / "x" / name)
    assert read_splits(load_descriptor(tmp_path / "x")).class_names == ("bus", "car", "train")


def test_folder__that_holds_the_data_set_in_another__names_that(tmp_path):
    make_folder(tmp_path / "photos" / "photos")
    (tmp_path / "photos" / "__MACOSX").mkdir()
    with pytest.raises(DataError, match=r"'.*photos/photos' is one: name that"):
        load_descriptor(tmp_path / "photos")


def test_folder__val_without_anything__is_cut_out_of_train(tmp_path):
    make_folder(tmp_path, splits=("train",), images=5)
    (tmp_path / "val").mkdir()
    assert len(read_splits(load_descriptor(tmp_path)).val) == 2


def test_folder__images_without_a_class__are_counted_or_refused(tmp_path):
    make_folder(tmp_path)
    make_image().save(tmp_path / "train" / "loose.png")
    (note,) = read_splits(described(tmp_path)).notes
    assert note == f"1 image directly in '{tmp_path / 'train'}' left out: it has no class"
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    make_image().save(tmp_path / "val" / "loose.png")
    assert "holds 1 images but no folder for each class" in refusal(described(tmp_path))


def test_folder__files_of_other_formats__are_counted(tmp_path):
    make_folder(tmp_path)
    for name in ("a.cr2", "b.CR2", "c.txt"):
        (tmp_path / "train" / "class_0" / name).touch()
    assert read_splits(described(tmp_path)).notes == (
        "3 files of other formats left out: .cr2 (2), .txt (1)",
    )


def test_folder__linked_class_and_images__are_followed(tmp_path):
    make_folder(tmp_path / "far", splits=("more",), classes=1, images=4)
    make_folder(tmp_path / "near", splits=("train",), classes=2)
    (tmp_path / "near" / "train" / "class_2").symlink_to(tmp_path / "far" / "more" / "class_0")
    splits = read_splits(described(tmp_path / "near"))
    assert splits.train.class_counts() == [3, 3, 4]
    assert keys(splits.train)[-1] == "train/class_2/3.png"


def test_folder__boxes_of_yolo__are_called_that(tmp_path):
    make_folder(tmp_path, splits=("train",), classes=1)
    (tmp_path / "train" / "class_0").rename(tmp_path / "train" / "images")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "0.txt").touch()
    message = refusal(described(tmp_path))
    assert "labels' is taken for a class but has no images (1 file of other formats" in message
    assert "looks like images with boxes in the layout of YOLO or VOC" in message
    assert "remove" not in message


def test_folder__classes_absent_from_val_and_test__are_said(tmp_path):
    make_folder(tmp_path, classes=3)
    shutil.rmtree(tmp_path / "val" / "class_0")
    for path in (tmp_path / "test" / "class_2").iterdir():
        path.unlink()
    splits = read_splits(described(tmp_path))
    assert (splits.val.class_counts(), splits.test.class_counts()) == ([0, 3, 3], [3, 3, 0])
    assert splits.notes == (
        "'val' has no image of 1 of 3 classes (class_0); its metrics leave them out",
        "'test' has no image of 1 of 3 classes (class_2); its metrics leave them out",
    )
    shutil.rmtree(tmp_path / "train" / "class_1")
    assert "has a folder 'class_1' that is no class" in refusal(described(tmp_path))


def test_one_class__is_refused__unless_there_is_nothing_to_learn(images):
    message = refusal(listed(images, "path,label\na/1.png,x\n"))
    assert "'birds' has one class, 'x': a classifier needs two" in message
    (images / "test.csv").write_text("path,label\na/1.png,x\n")
    (images / "train.csv").unlink()
    assert read_splits(described(images, "csv")).test.labels == (0,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", '"file": "a.csv"'),
        ("a.png", "is an image; name the folder"),
        ("a.zip", "is an archive; unpack it"),
    ],
)
def test_file_that_is_no_descriptor__says_what_to_give(tmp_path, name, message):
    (tmp_path / name).write_text("path,label\n")
    with pytest.raises(DataError) as caught:
        load_descriptor(tmp_path / name)
    assert message in str(caught.value)


def test_config_of_a_training__in_place_of_a_descriptor__is_recognised(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run_dir: r\nbackbone: bundled/glyph_vit\ndata: {dataset: photos}\n")
    with pytest.raises(DataError, match=r"is the config of a training, .* under data\.dataset"):
        load_descriptor(path)


def test_descriptor_in_a_message__is_one_that_reads(tmp_path):
    write_images(tmp_path / "data", "a.png", "b.png")
    (tmp_path / "data" / "my.csv").write_text("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(DataError, match="a YAML file of: ") as caught:
        load_descriptor(tmp_path / "data")
    assert "\n" not in str(caught.value)
    path = tmp_path / "d.yaml"
    path.write_text(str(caught.value).partition("a YAML file of: ")[2])
    assert load_descriptor(path).file == "my.csv"


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


def test_csv__columns_of_other_names__are_guessed_in_the_message(images):
    message = refusal(listed(images, "filename,site,class\na/1.png,s,x\n"))
    assert "columns: {path: filename, label: class}" in message
    assert "its first line (a/1.png, x) names no columns" in refusal(listed(images, "a/1.png,x\n"))


def test_csv__paths_of_windows__name_the_same_images(images):
    splits = read_splits(listed(images, "path,label\na\\1.png,x\n.\\b\\1.png,y\n"))
    assert keys(splits.train) == ["a/1.png", "b/1.png"]


def test_csv__names_that_differ_a_little__are_taken_where_the_descriptor_says_so(images):
    text = "path,label\na/1.PNG,x\na/2%20b.png,x\nb/1.png,y\n"
    message = refusal(listed(images, text))
    assert "(2 of 3 listed images are missing); 'a/1.png' does" in message
    variants = ["suffix_case", "url_encoded"]
    splits = read_splits(listed(images, text, name_variants=variants))
    assert keys(splits.train) == ["a/1.png", "a/2 b.png", "b/1.png"]


def test_csv__labels_with_leading_zeros__keep_their_spelling(images):
    text = "path,label\na/1.png,01\nb/1.png,00\nb/2.png,10\n"
    splits = read_splits(listed(images, text))
    assert splits.class_names == ("00", "01", "10")
    assert splits.train.labels == (1, 0, 2)
    twice = refusal(listed(images, "path,label\na/1.png,01\nb/1.png,1\n"))
    assert "write one number in one way" in twice
    wrong = refusal(listed(images, "path,label\na/1.png,1\n", classes=["10", "20"]))
    assert "train.csv:2: unknown class '1'" in wrong


def test_csv__classes_that_differ_in_case__are_said(images):
    splits = read_splits(listed(images, "path,label\na/1.png,ant\nb/1.png,Ant\n"))
    (note,) = splits.notes
    assert note.startswith("warning: classes 'Ant' and 'ant' differ in upper and lower case alone")


def test_csv__line_break_in_a_label__is_an_unclosed_quote(images):
    text = 'path,label\na/1.png,"x\nb/1.png,y"\n'
    assert "train.csv:2: \"x\\nb/1.png,y\" in column 'label' holds a line break" in refusal(
        listed(images, text)
    )


def test_csv__usual_names_of_files__are_found(images):
    (images / "Validation.csv").write_text("path,label\nb/1.png,x\n")
    splits = read_splits(listed(images, "path,label\na/1.png,x\nb/2.png,y\n"))
    assert keys(splits.val) == ["b/1.png"]
    (images / "dev.csv").write_text("path,label\n")
    assert "has 'Validation.csv' and 'dev.csv', and either may be meant by val" in refusal(
        described(images, "csv")
    )


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
