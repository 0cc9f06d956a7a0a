import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.data import Descriptor, Split, Splits, TextNames
from vpt.data.text_names import text_names
from vpt.errors import DataError


def described(class_names=None) -> Descriptor:
    return Descriptor(name="birds", format="cub", text=TextNames(class_names=class_names))


CLASSES = ("house_wren", "Crow", "sea-gull")


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (None, ("house wren", "Crow", "sea-gull")),
        (["wren", "crow", "gull_x"], ("wren", "crow", "gull_x")),
        ({"Crow": "carrion_crow"}, ("house wren", "carrion_crow", "sea-gull")),
        ({"WREN": "Crow"}, ("house wren", "Crow", "sea-gull")),
    ],
)
def test_text_names__list_or_mapping__replaces_the_rule_of_underscores(given_names, expected):
    assert text_names(described(given_names), CLASSES) == expected


@pytest.mark.parametrize(
    ("given_names", "message"),
    [
        (["wren", "crow"], "text.class_names of 'birds' has 2 names, the data have 3 classes"),
        ({"Crowe": "crow"}, "'Crowe' is no class, did you mean 'Crow'?"),
        ({"Crow": " "}, "class 'Crow' has no name"),
        (["wren", "", "gull"], "class 'Crow' has no name"),
        (["wren", "crow", "wren "], "classes 'house_wren' and 'sea-gull' are both called 'wren'"),
        ({"Crow": "house wren"}, "classes 'house_wren' and 'Crow' are both called 'house wren'"),
    ],
)
def test_text_names__mistake__is_one_line_naming_it(given_names, message):
    with pytest.raises(DataError) as caught:
        text_names(described(given_names), CLASSES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(names=st.lists(st.text(), min_size=1, max_size=5, unique=True))
def test_text_names__nothing_given__differ_in_underscores_alone(names):
    texts = text_names(described(), names)
    assert [text.replace(" ", "_") for text in texts] == [name.replace(" ", "_") for name in names]
    assert not any("_" in text for text in texts)


def test_text_names__equal_words__can_be_renamed_by_class():
    classes, words = ("crane (1)", "crane (2)"), ("crane", "crane")
    assert text_names(described(), classes, words) == words
    renamed = described({"crane (2)": "building crane"})
    assert text_names(renamed, classes, words) == ("crane", "building crane")


def test_splits__no_text_names__are_the_class_names():
    split = Split("train", (), ("a_b", "c"))
    assert Splits(split, None, None, ("a_b", "c")).text_names == ("a_b", "c")
    with pytest.raises(ValueError, match="1 texts for 2 classes"):
        Splits(split, None, None, ("a_b", "c"), ("a b",))
