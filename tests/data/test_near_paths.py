import tracemalloc
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpt.data.near_paths import (
    NearPath,
    common_variants,
    differences,
    find_near_name,
    find_near_paths,
)


def folder_with(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, name: str) -> NearPath:
    return find_near_paths([name], root)[name]


NFD = unicodedata.normalize("NFD", "café.jpg")


@pytest.mark.parametrize(
    ("listed", "existing", "variants", "words"),
    [
        ("a%20b.jpg", "a b.jpg", ("url_encoded",), "the list is URL-encoded"),
        ("a b.jpg", "a%20b.jpg", ("url_encoded",), "the file's name is URL-encoded"),
        ("images/a.jpg", "a.jpg", ("more_folders",), "the list has 'images/' in front"),
        ("/home/x/a.jpg", "a.jpg", ("more_folders",), "the list has 'home/x/' in front"),
        ("a.jpg", "train/a.jpg", ("fewer_folders",), "the list leaves out 'train/'"),
        ("2/a.jpg", "new/2/a.jpg", ("fewer_folders",), "the list leaves out 'new/'"),
        ("s\\a.jpg", "s/a.jpg", ("backslashes",), "the list has backslashes"),
        (
            "C:\\s\\a.jpg",
            "a.jpg",
            ("backslashes", "more_folders"),
            "the list has backslashes and the list has 'C:/s/' in front",
        ),
        ("a.PNG", "a.png", ("suffix_case",), "their suffixes differ in upper and lower case"),
        ("a.png", "A.png", ("letter_case",), "they differ in upper and lower case"),
        ("Train/a.png", "train/a.png", ("letter_case",), "they differ in upper and lower case"),
        ("a.jpeg", "a.jpg", ("other_suffix",), "they differ in the suffix"),
        ("a", "a.jpg", ("other_suffix",), "they differ in the suffix"),
        ("a.jpg ", "a.jpg", ("blanks",), "they differ in blanks"),
        ("a.jpg\r", "a.jpg", ("blanks",), "they differ in blanks"),
        ("a.jpg", "a.jpg ", ("blanks",), "they differ in blanks"),
        (
            "café.jpg",
            NFD,
            ("unicode_form",),
            "they differ in how accents are encoded (NFC, NFD)",
        ),
        (
            "images/caf%C3%A9 .JPG",
            NFD,
            ("url_encoded", "blanks", "unicode_form", "suffix_case", "more_folders"),
            "the list is URL-encoded and",
        ),
    ],
)
def test_near_path__says_in_what_the_names_differ(tmp_path, listed, existing, variants, words):
    near = found(folder_with(tmp_path, existing, "other.jpg"), listed)
    assert (near.existing, near.variants) == (existing, variants)
    assert near.reason.startswith(words)
    assert str(near).startswith(f"'{listed}' does not exist; '{existing}' does: ")


@pytest.mark.parametrize("listed", ["b.jpg", "a1.jpg", "", "s/b.jpg", "..", "/", "x" * 5000])
def test_near_path__of_another_name__is_none(tmp_path, listed):
    assert find_near_paths([listed], folder_with(tmp_path, "a.jpg", "s/c.jpg")) == {}


def test_near_path__of_two_that_do_as_well__is_none(tmp_path):
    root = folder_with(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg", "b.png", "B.JPG")
    assert find_near_paths(["a.jpg", "b.JPG", "b.webp"], root).keys() == {"b.JPG"}
    assert found(root, "b.JPG").existing == "b.jpg"


def test_near_path__is_never_an_annotation_or_a_hidden_file(tmp_path):
    root = folder_with(tmp_path, "a.xml", "a.txt", ".b.jpg", ".cache/c.jpg", "@eaDir/c.jpg")
    assert find_near_paths(["a.jpg", "b.jpg", "c.jpg", "@eaDir/C.jpg"], root) == {}


def test_near_path__through_links_in_a_circle__is_found(tmp_path):
    root = folder_with(tmp_path / "images", "sub/A.jpg")
    (root / "sub" / "again").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    assert found(root, "sub/a.jpg").existing == "sub/A.jpg"


def test_near_paths__in_too_large_a_folder__are_none(tmp_path):
    root = folder_with(tmp_path, *(f"{number}.jpg" for number in range(20)))
    assert find_near_paths(["7.JPG"], root, most=19) == {}
    assert len(find_near_paths(["7.JPG"], root, most=20)) == 1


def test_near_paths__of_nothing_missing__do_not_look_into_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("os.scandir", lambda place: pytest.fail(f"looked into {place}"))
    assert find_near_paths([], tmp_path) == {}


def test_near_paths__hold_no_more_than_was_asked_for(tmp_path):
    root = folder_with(tmp_path, *(f"{number:050d}.jpg" for number in range(3000)))
    tracemalloc.start()
    try:
        assert len(find_near_paths([f"{7:050d}.JPG"], root)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 50


def test_common_variants__explain_all_or_nothing(tmp_path):
    root = folder_with(tmp_path, "a b.jpg", "c d.jpg", "e.png")
    names = ["a%20b.jpg", "c%20d.jpg", "e.PNG"]
    near = find_near_paths([*names, "gone.jpg"], root)
    assert common_variants(near, names[:2]) == ("url_encoded",)
    assert common_variants(near, names) == ("url_encoded", "suffix_case")
    assert common_variants(near, [*names, "gone.jpg"]) is None
    assert common_variants(near, []) is None
    twins = find_near_paths(["e.PNG", "E.png"], root)
    assert common_variants(twins, ["e.PNG", "E.png"]) is None


def test_near_name__of_a_class__knows_case_accents_and_blanks_alone():
    assert str(find_near_name("Ant", ["ant", "bee"])) == (
        "'Ant' does not exist; 'ant' does: they differ in upper and lower case"
    )
    assert find_near_name(" tree  frog", ["tree frog"]).variants == ("blanks",)
    assert find_near_name("v1.2", ["v1.3", "a/v1.2"]) is None
    assert find_near_name("ANT", ["Ant", "ant"]) is None


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda name: name.strip(" ./%\\") == name
)


@given(NAMES)
@example("\xa0")
def test_differences__find_every_variant_of_any_name(name):
    for suffix in (".jpg", ".PNG"):
        file = name + suffix
        assert differences(file, file) == ()
        assert differences(f"images/{file}", file) == ("more_folders",)
        assert differences(f"{name}{suffix.swapcase()}", file) == ("suffix_case",)
        assert differences(f"{file} ", file) == ("blanks",)
        assert set(differences(quote(file), file) or ()) <= {"url_encoded", "more_folders"}
        other = unicodedata.normalize("NFD", file)
        assert set(differences(other, file) or ()) <= {"unicode_form"}
