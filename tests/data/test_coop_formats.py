import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.coop_layouts import make_imagenet, make_split_zhou, write_image
from vpt.data import Descriptor, Split, Splits, load_descriptor, read_splits
from vpt.data.descriptor import Counts
from vpt.errors import DataError

DATASETS = Path(__file__).parents[2] / "datasets"


def refusal(descriptor: Descriptor, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_splits(descriptor, root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def keys(split: Split | None) -> list[str]:
    assert split is not None
    return [sample.key for sample in split.samples]


def shipped(name: str) -> Descriptor:
    """A descriptor of the project, without the number of images of the real data."""
    descriptor = load_descriptor(DATASETS / f"{name}.yaml")
    assert descriptor.counts != Counts()
    return descriptor.model_copy(update={"counts": Counts()})


# The descriptors of the project, each on a small data set in its layout


SPLIT_ZHOU = {
    "oxford_pets": (
        "split_zhou_OxfordPets.json",
        "images",
        ["abyssinian", "american_bulldog", "yorkshire_terrier"],
        ("abyssinian", "american bulldog", "yorkshire terrier"),
        "a photo of a {}, a type of pet.",
    ),
    "dtd": (
        "split_zhou_DescribableTextures.json",
        "images",
        ["banded", "polka-dotted"],
        ("banded", "polka-dotted"),
        "{} texture.",
    ),
    "caltech101": (
        "split_zhou_Caltech101.json",
        "101_ObjectCategories",
        ["face", "inline_skate", "yin_yang"],
        ("face", "inline skate", "yin yang"),
        "a photo of a {}.",
    ),
}


@pytest.mark.parametrize("name", SPLIT_ZHOU)
def test_shipped_descriptor__its_layout__is_read_in_the_order_of_the_file(tmp_path, name):
    file, images, names, words, template = SPLIT_ZHOU[name]
    content = make_split_zhou(tmp_path, file=file, images=images, names=names)
    descriptor = shipped(name)
    splits = read_splits(descriptor, tmp_path)
    assert splits.class_names == tuple(names)
    assert splits.text_names == words
    assert descriptor.text.templates == [template]
    for split in ("train", "val", "test"):
        found = splits.require(split)
        assert [[s.key, s.label] for s in found.samples] == [row[:2] for row in content[split]]
        assert [s.source for s in found.samples] == [
            tmp_path / images / row[0] for row in content[split]
        ]


EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@pytest.mark.parametrize("names", [list(EUROSAT), list(EUROSAT.values())])
def test_eurosat__names_of_folders_or_of_texts__give_the_same_texts(tmp_path, names):
    make_split_zhou(tmp_path, file="split_zhou_EuroSAT.json", images="2750", names=names)
    splits = read_splits(shipped("eurosat"), tmp_path)
    assert splits.class_names == tuple(names)
    assert splits.text_names == tuple(EUROSAT.values())
    assert shipped("eurosat").text.templates == ["a centered satellite photo of {}."]


def test_imagenet__its_layout__has_val_for_testing_and_sorted_ids(tmp_path):
    names = {
        "n03773504": "missile",
        "n01440764": "tench",
        "n04008634": "missile",
        "n04355933": "sunglasses",
        "n04356056": "sunglasses",
        "n01443537": "goldfish",
    }
    make_imagenet(tmp_path, names)
    descriptor = shipped("imagenet")
    uncut = descriptor.model_copy(update={"splits": Descriptor.model_fields["splits"].default})
    splits = read_splits(uncut, tmp_path)
    assert splits.class_names == (
        "tench",
        "goldfish",
        "missile (n03773504)",
        "missile (n04008634)",
        "sunglasses (n04355933)",
        "sunglasses (n04356056)",
    )
    assert splits.text_names == (
        "tench",
        "goldfish",
        "missile",
        "projectile",
        "sunglass",
        "sunglasses",
    )
    assert splits.val is None
    assert splits.test.class_counts() == [2] * 6
    assert keys(splits.train)[:2] == [
        f"train/n01440764/n01440764_train_{index}.JPEG" for index in range(2)
    ]
    assert keys(splits.test)[0] == "val/n01440764/n01440764_val_0.JPEG"
    assert descriptor.text.templates == ["a photo of a {}."]


def test_imagenet__cut__takes_val_out_of_train(tmp_path):
    make_imagenet(tmp_path, {"n02": "great white shark", "n01": "tench", "n03": "cock"}, images="")
    descriptor = Descriptor.model_validate(
        {"name": "i", "format": "imagenet", "splits": {"val": {"fraction": 0.34}}}
    )
    splits = read_splits(descriptor, tmp_path)
    assert splits.class_names == ("tench", "great white shark", "cock")
    assert [splits.get(name).class_counts() for name in ("train", "val", "test")] == [
        [2, 2, 2],
        [1, 1, 1],
        [2, 2, 2],
    ]


def test_digits__descriptor_of_the_project__calls_them_by_words():
    descriptor = load_descriptor(DATASETS / "digits.yaml")
    splits = read_splits(descriptor)
    assert splits.text_names[:3] == ("zero", "one", "two")
    assert splits.class_names[:3] == ("0", "1", "2")
    assert descriptor.text.templates[1] == "a photo of the digit {}."
    assert len(descriptor.text.templates) == 5


def test_shipped_descriptor__no_data__tells_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*SPLIT_ZHOU, "eurosat", "imagenet"):
        descriptor = load_descriptor(DATASETS / f"{name}.yaml")
        with pytest.raises(DataError, match=r"are not in 'data/.*; to get them: (unpack|sign up)"):
            read_splits(descriptor)
        assert "; to get them: " in refusal(descriptor, tmp_path)


# Damaged lists


ZHOU = Descriptor(name="pets", format="split_zhou", file="split.json", images="images")


@pytest.fixture
def pets(tmp_path):
    make_split_zhou(tmp_path, file="split.json", images="images", names=["cat", "dog"])
    return tmp_path


def write(root: Path, content: object) -> None:
    (root / "split.json").write_text(json.dumps(content), encoding="utf-8")


CAT, DOG = ["folder_0/0.jpg", 0, "cat"], ["folder_1/0.jpg", 1, "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "split.json: no object with the lists train, val and test"),
        ({"train": [CAT, DOG], "vall": []}, 'split "vall" is none of train, val, test'),
        ({"train": {}}, "split.json: train is no list"),
        ({"train": [CAT, ["a", 1]]}, 'train[1] is ["a", 1]; [path, label, class name] is expected'),
        ({"train": [CAT, ["a", "1", "dog"]]}, "train[1] is"),
        ({"train": [["folder_0/0.jpg", False, "cat"]]}, "train[0] is"),
        ({"train": [["", 0, "cat"]]}, 'train[0]: "" is empty'),
        ({"train": [["a\nb", 0, "cat"]]}, r'train[0]: "a\nb" is empty or not printable'),
        ({"train": [["/a.jpg", 0, "cat"]]}, '"/a.jpg" is not relative to the folder of the images'),
        ({"train": [CAT], "val": [["b", 0, "tom"]]}, "val[0]: label 0 is called 'tom' here and"),
        ({"train": [CAT], "val": [["b", 1, "cat"]]}, "val[0]: class 'cat' has label 1 here and 0"),
        ({"train": [CAT, ["b", 2, "dog"]]}, "train[1]: label 2 is out of range: 2 classes"),
        ({"train": [CAT, ["b", -1, "dog"]]}, "train[1]: label -1 is out of range"),
        ({"train": [CAT, CAT, DOG]}, "'folder_0/0.jpg' is listed twice in 'train'"),
        ({"train": [CAT, DOG], "test": [CAT]}, "'folder_0/0.jpg' is listed in 'train' and 'test'"),
        ({"train": [CAT], "test": [DOG]}, "class 'dog' has no image in 'train'"),
        ({"train": [CAT, ["x.jpg", 1, "dog"]]}, "x.jpg' is listed but does not exist (1 of 2"),
        ({"train": [CAT, ["x" * 300, 1, "dog"]]}, "is listed but does not exist (1 of 2"),
        ({"train": [CAT, DOG], "val": []}, "no images in split 'val' of 'pets'"),
        ({}, "no images in 'pets'"),
    ],
)
def test_split_zhou__mistake__is_one_line_naming_it(pets, content, message):
    write(pets, content)
    assert message in refusal(ZHOU, pets)


@pytest.mark.parametrize("text", ['{"train": [', "[" * 100_000, "\ufeff", '{"a": "\xff"'])
def test_split_zhou__no_json__is_one_line_naming_the_file(pets, text):
    (pets / "split.json").write_bytes(text.encode("latin-1", errors="ignore"))
    assert "split.json: cannot be read as JSON in UTF-8" in refusal(ZHOU, pets)


def test_split_zhou__missing_parts__are_named(pets):
    assert "no folder of images" in refusal(ZHOU.model_copy(update={"images": "img"}), pets)
    other = ZHOU.model_copy(update={"file": "other.json", "how_to_get": "fetch it"})
    assert "no other.json; to get them: fetch it" in refusal(other, pets)
    assert "has 2 classes, the descriptor 1" in refusal(
        ZHOU.model_copy(update={"classes": ["cat"]}), pets
    )
    counted = ZHOU.model_copy(update={"counts": Counts(train=5)})
    assert "4 images in train, 5 are expected" in refusal(counted, pets)


def test_split_zhou__classes_given__rename_the_labels(pets):
    splits = read_splits(ZHOU.model_copy(update={"classes": ["tom_cat", "hound"]}), pets)
    assert splits.class_names == ("tom_cat", "hound")
    assert splits.text_names == ("tom cat", "hound")


def test_split_zhou__no_folder_named__paths_are_relative_to_the_root(tmp_path):
    make_split_zhou(tmp_path, file="split.json", images="", names=["cat", "dog"])
    splits = read_splits(Descriptor(name="p", format="split_zhou", file="split.json"), tmp_path)
    assert splits.test.samples[0].source == tmp_path / "folder_0" / "3.jpg"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
ROWS = st.lists(
    st.sampled_from([CAT, DOG])
    | st.tuples(st.text(), st.integers(-1, 3), st.sampled_from(["cat", "dog"]))
    | st.tuples(st.sampled_from([CAT[0], DOG[0]]), JSON, JSON)
    | JSON,
    max_size=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.sampled_from(["train", "val", "test"]), ROWS | JSON) | JSON)
def test_split_zhou__any_json__is_read_or_refused_in_one_line(pets, content):
    write(pets, content)
    try:
        outcome: Splits | str = read_splits(ZHOU, pets)
    except DataError as error:
        outcome = str(error)
    assert isinstance(outcome, Splits) or len(outcome.encode().splitlines()) == 1


def test_imagenet__mistakes__are_named(tmp_path):
    descriptor = Descriptor(name="i", format="imagenet")
    make_imagenet(tmp_path, {"n01": "tench", "n02": "goldfish"}, images="")
    text = (tmp_path / "classnames.txt").read_text()
    (tmp_path / "classnames.txt").write_text(text.replace("n01 tench\n", ""))
    assert "classnames.txt: no name for class folder 'n01'" in refusal(descriptor, tmp_path)
    (tmp_path / "classnames.txt").write_text("n01\n")
    assert "classnames.txt:1: 'n01' is not 'wnid name'" in refusal(descriptor, tmp_path)
    (tmp_path / "classnames.txt").write_text(text + text)
    assert "classnames.txt:3: id n02 is listed twice" in refusal(descriptor, tmp_path)
    (tmp_path / "classnames.txt").write_text(text)
    write_image(tmp_path / "val" / "n03" / "0.JPEG")
    assert "'n03' that is no class of this data set" in refusal(descriptor, tmp_path)
    (tmp_path / "classnames.txt").unlink()
    assert "has no classnames.txt" in refusal(descriptor, tmp_path)


def test_imagenet__no_train_folder__is_named(tmp_path):
    make_imagenet(tmp_path, {"n01": "tench", "n02": "goldfish"}, images="")
    (tmp_path / "train").rename(tmp_path / "training")
    assert "has no folder train" in refusal(Descriptor(name="i", format="imagenet"), tmp_path)
