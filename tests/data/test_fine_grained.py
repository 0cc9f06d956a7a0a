"""The descriptors of the fine-grained and common sets, read end to end from small copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.data.fine_grained_layouts import (
    AIRCRAFT,
    CARS,
    DOGS,
    MAKERS,
    PETS,
    cell,
    make_cifar100,
    make_stanford_cars,
    make_stanford_dogs,
    make_svhn,
)
from vpt.data import Descriptor, Split, load_descriptor, read_splits
from vpt.data.descriptor import Counts, Cut
from vpt.data.loading.loader import load_sample
from vpt.errors import DataError

FOLDER = Path(__file__).parents[2] / "datasets"
TO_FETCH = set(MAKERS) - {"nabirds", "stanford_cars"}


def shipped(name: str) -> Descriptor:
    """A descriptor of the project, without the number of images of the real data."""
    descriptor = load_descriptor(FOLDER / f"{name}.yaml")
    assert descriptor.counts.test is not None
    return descriptor.model_copy(update={"counts": Counts()})


def refusal(name: str, root: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        read_splits(shipped(name).model_copy(update=changes), root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def keys(split: Split | None) -> list[str]:
    assert split is not None
    return [sample.key for sample in split.samples]


# What the descriptors say


COUNTS = {  # (train, val, test) as published, or with val in train where it is cut out by us
    "cub_200_2011": (5994, None, 5794),
    "nabirds": (23929, None, 24633),
    "flowers102": (1020, 1020, 6149),
    "stanford_dogs": (12000, None, 8580),
    "stanford_cars": (8144, None, 8041),
    "fgvc_aircraft": (3334, 3333, 3333),
    "oxford_pets_official": (3680, None, 3669),
    "cifar100": (50000, None, 10000),
    "svhn": (73257, None, 26032),
    "food101": (75750, None, 25250),
    "dtd_split1": (1880, 1880, 1880),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_descriptor__says_how_many_images_there_are_and_where_they_are(name):
    descriptor = load_descriptor(FOLDER / f"{name}.yaml")
    train, val, test = COUNTS[name]
    counts = descriptor.counts
    assert counts.test == test
    if val is None:
        assert descriptor.splits.val == Cut(fraction=0.1, seed=0)
        assert train in (counts.train_and_val, (counts.train or 0) + (counts.val or 0))
    else:
        assert (counts.train, counts.val) == (train, val)
    assert descriptor.metric == "top1"
    assert descriptor.how_to_get
    assert any(file.urls for file in descriptor.files) == (name in TO_FETCH)
    assert ("vpt data get" in descriptor.how_to_get) == (name in TO_FETCH)


# Each, read end to end


@pytest.mark.parametrize("name", MAKERS)
def test_a_data_set__is_read_from_its_layout__and_counted(name, tmp_path):
    train, val, test = MAKERS[name](tmp_path)
    with pytest.raises(DataError, match=r"are expected; are the data complete\?"):
        read_splits(load_descriptor(FOLDER / f"{name}.yaml"), tmp_path)
    splits = read_splits(shipped(name), tmp_path)
    found = [len(splits.require(split)) for split in ("train", "val", "test")]
    if val == 0:
        assert found == [train - train // 10, train // 10, test]
    else:
        assert found == [train, val, test]
    again = read_splits(shipped(name), tmp_path)
    assert keys(again.val) == keys(splits.val)
    for split in (splits.train, splits.val, splits.test):
        image = load_sample(split, split.samples[-1])
        assert image.mode == "RGB"
        assert min(image.size) >= 10
        assert set(split.labels) <= set(range(len(splits.class_names)))
    assert min(splits.require("test").class_counts()) > 0


@pytest.mark.parametrize("name", MAKERS)
def test_a_data_set_that_is_not_there__tells_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"are not in 'data/.*; to get them: "):
        read_splits(load_descriptor(FOLDER / f"{name}.yaml"))
    assert "; to get them: " in refusal(name, tmp_path)


def test_nabirds__classes_with_images_are_numbered_by_their_ids(tmp_path):
    MAKERS["nabirds"](tmp_path)
    splits = read_splits(shipped("nabirds"), tmp_path)
    assert splits.class_names == ("Wren (Adult)", "Oak Titmouse (817)", "Oak Titmouse (1010)")
    assert [keys(splits.test)[index][:5] for index in (0, 3, 6)] == ["0295/", "0817/", "1010/"]
    assert splits.require("test").labels == (0,) * 3 + (1,) * 3 + (2,) * 3


def test_flowers__official_labels_and_splits__are_kept_in_order(tmp_path):
    MAKERS["flowers102"](tmp_path)
    splits = read_splits(shipped("flowers102"), tmp_path)
    assert splits.class_names[:2] == ("pink primrose", "hard-leaved pocket orchid")
    assert splits.class_names[-1] == "blackberry lily"
    assert keys(splits.train)[:2] == ["jpg/image_00408.jpg", "jpg/image_00407.jpg"]
    assert splits.train.labels[:2] == (101, 100)
    assert keys(splits.test)[0] == "jpg/image_00001.jpg"


def test_dogs__are_called_without_their_ids_in_sentences(tmp_path):
    MAKERS["stanford_dogs"](tmp_path)
    splits = read_splits(shipped("stanford_dogs"), tmp_path)
    assert splits.class_names == DOGS
    assert splits.text_names == ("Chihuahua", "Japanese spaniel", "African hunting dog")
    assert keys(splits.test)[0] == "n02085620-Chihuahua/n02085620_10.jpg"


def test_cars__images_of_one_number_are_told_apart(tmp_path):
    MAKERS["stanford_cars"](tmp_path)
    splits = read_splits(shipped("stanford_cars"), tmp_path)
    assert splits.class_names == CARS
    assert keys(splits.test)[:2] == ["cars_test/00001.jpg", "cars_test/00002.jpg"]
    assert splits.require("test").labels[:4] == (0, 1, 2, 0)


def test_aircraft_and_pets__have_their_own_names(tmp_path):
    MAKERS["fgvc_aircraft"](tmp_path / "a")
    MAKERS["oxford_pets_official"](tmp_path / "p")
    assert read_splits(shipped("fgvc_aircraft"), tmp_path / "a").class_names == AIRCRAFT
    pets = read_splits(shipped("oxford_pets_official"), tmp_path / "p")
    assert pets.class_names == PETS
    assert keys(pets.test)[4] == "american_bulldog_100.jpg"


def test_food__files_get_the_suffix_that_the_lists_leave_out(tmp_path):
    MAKERS["food101"](tmp_path)
    splits = read_splits(shipped("food101"), tmp_path)
    assert splits.class_names == ("apple_pie", "pho", "waffles")
    assert keys(splits.test)[0] == "images/apple_pie/31.jpg"


def test_cifar__pixels_and_fine_labels__are_where_they_belong(tmp_path):
    make_cifar100(tmp_path)
    splits = read_splits(shipped("cifar100"), tmp_path)
    assert splits.class_names == ("apple", "aquarium_fish", "baby")
    test = splits.require("test")
    assert test.labels == (0, 1, 2, 0, 1, 2)
    image = np.asarray(load_sample(test, test.samples[4]))
    assert image.shape == (32, 32, 3)
    assert image[5, 5].tolist() == [4, 104, 200]
    assert image[0, 1].tolist() == [255, 104, 200]
    assert image[1, 0].tolist() == [4, 104, 200]
    assert keys(test)[4] == "test/00004"


def test_svhn__label_ten_is_the_digit_zero(tmp_path):
    make_svhn(tmp_path)
    test = read_splits(shipped("svhn"), tmp_path).require("test")
    assert test.labels[:10] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
    image = np.asarray(load_sample(test, test.samples[7]))
    assert image[3, 3].tolist() == [7, 7, 7]
    assert image[0, 1].tolist() == [7, 7, 255]
    assert image[1, 0].tolist() == [7, 7, 7]


# Damage


AIRCRAFT_VAL = "data/images_variant_val.txt"
PETS_TEST = ("oxford_pets_official", "annotations/test.txt")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("nabirds", "image_class_labels.txt", " 295\n", " 7\n", "has class 7, which is not in"),
        ("nabirds", "train_test_split.txt", " 1\n", " 2\n", "is marked 2; use 1 or 0"),
        ("nabirds", "images.txt", "0295/", "0296/", "is listed but does not exist"),
        ("nabirds", "classes.txt", "2 Ducks", "x Ducks", "classes.txt:2: 'x' is no id"),
        ("nabirds", "images.txt", "-", "_", "is no id"),
        ("fgvc_aircraft", AIRCRAFT_VAL, "707-320", "707-32", "did you mean '707-320'"),
        ("fgvc_aircraft", "data/variants.txt", "707-320", "F/A-18", "'F/A-18' is listed twice"),
        ("fgvc_aircraft", AIRCRAFT_VAL, " 707-320", "", "is not 'image variant'"),
        (*PETS_TEST, "Bengal_100 3", "Bengal_100 2", "class 2 is 'Bengal' here"),
        (*PETS_TEST, "Bengal_100 3 1 1", "Bengal_100 3", "is not 'image class species breed'"),
        (*PETS_TEST, "Bengal_100 3", "Bengal100 3", "is not 'name_1 class'"),
        (*PETS_TEST, "Bengal_100 3", "Bengal_100 x", "is not 'name_1 class'"),
        (*PETS_TEST, "Bengal_100", "Bengal_1", "is listed in 'train' and 'test'"),
        ("food101", "meta/test.txt", "pho/", "pho", "is not 'class/image'"),
        ("food101", "meta/test.txt", "pho/", "../", "is not 'class/image'"),
        ("food101", "meta/test.txt", "pho/", "/pho/", "is not 'class/image'"),
        ("food101", "meta/test.txt", "pho/", "soup/", "is listed but does not exist"),
        ("cifar100", "fine_label_names.txt", "baby\n", "", "label 2 is out of range: 2 classes"),
    ],
)  # fmt: skip
def test_a_damaged_list__is_one_line_naming_it(name, file, old, new, message, tmp_path):
    MAKERS[name](tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert message in refusal(name, tmp_path)


def test_an_image_that_is_missing__is_named(tmp_path):
    make_stanford_cars(tmp_path)
    (tmp_path / "cars_test/00003.jpg").unlink()
    assert "cars_test/00003.jpg' is listed but does not exist (1 of 42" in refusal(
        "stanford_cars", tmp_path
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": [[1, 2, 104]]}, "'labels' has 104, which is out of range: 1..3"),
        ({"labels": [[1.5, 2, 3]]}, "'labels' holds \"1.5\", a whole number is expected"),
        ({"labels": [[float("nan"), 2, 3]]}, "a whole number is expected"),
        ({"labels": "text"}, "'labels' is no array of numbers"),
        ({"other": [[1]]}, "imagelabels.mat: has no variable 'labels'"),
    ],
)
def test_labels_that_are_none__are_named(values, message, tmp_path):
    MAKERS["flowers102"](tmp_path)
    savemat(tmp_path / "imagelabels.mat", {key: np.array(each) for key, each in values.items()})
    assert message in refusal("flowers102", tmp_path, classes=None)


def test_splits_of_images_that_are_none__are_named(tmp_path):
    MAKERS["flowers102"](tmp_path)
    sets = {"trnid": [[1, 409]], "valid": [[2]], "tstid": [[3]]}
    savemat(tmp_path / "setid.mat", {key: np.array(each) for key, each in sets.items()})
    assert "setid.mat: 'trnid' has 409, which is out of range: 1..408" in refusal(
        "flowers102", tmp_path
    )


@pytest.mark.parametrize(
    ("files", "labels", "message"),
    [
        (["a/1.jpg"], [1.0, 2.0], "2 labels for 1 files"),
        (["1.jpg"], [1.0], "'1.jpg' is not 'class/image'"),
        (["a/../../1.jpg"], [1.0], "is not 'class/image'"),
        (["a/1.jpg"], [1.0], "label 1 is of 'a' and of 'n02085620-Chihuahua'"),
        (["a\n/1.jpg"], [1.0], "a text is expected"),
    ],
)
def test_a_list_of_dogs_that_is_none__is_named(files, labels, message, tmp_path):
    make_stanford_dogs(tmp_path)
    table = {"file_list": cell(files), "labels": np.array(labels)[:, None]}
    savemat(tmp_path / "test_list.mat", table)
    assert message in refusal("stanford_dogs", tmp_path)


def test_cars_without_the_labels_of_the_test_images__are_refused(tmp_path):
    """The kit's own cars_test_annos.mat has no classes."""
    make_stanford_cars(tmp_path)
    table = np.empty((1, 1), dtype=[("fname", object)])
    table[0, 0] = ("00001.jpg",)
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": table})
    assert "'annotations' has no field 'class'" in refusal("stanford_cars", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    assert "has no cars_test_annos_withlabels.mat; to get them: " in refusal(
        "stanford_cars", tmp_path
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"X": np.zeros((32, 32, 3)), "y": [[1]]}, "'X' is float64 of shape (32, 32, 3)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, "1 labels for 2 images"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]}, "label 11 is out of range"),
    ],
)
def test_svhn_of_another_shape__is_named(values, message, tmp_path):
    make_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", values)
    assert message in refusal("svhn", tmp_path)


def test_cifar__a_cut_file__is_named(tmp_path):
    make_cifar100(tmp_path)
    path = tmp_path / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "92,219 bytes are no whole number of images" in refusal("cifar100", tmp_path)
    path.write_bytes(b"")
    assert "0 bytes are no whole number" in refusal("cifar100", tmp_path)
    path.unlink()
    assert "has no train.bin; to get them: vpt data get cifar100" in refusal("cifar100", tmp_path)
