import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.data.readers.json_lists import Entries, read_json_lists
from vpt.errors import DataError

NAMES = ("images", "annotations")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
contents = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), values, max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "file.json"


def plain(value):
    return list(value) if isinstance(value, Entries) else value


@given(content=contents | values, indent=st.sampled_from([None, 0, 3]), ascii=st.booleans())
def test_any_content__is_what_json_reads(path, content, indent, ascii):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if ascii else encoded(text))
    found = read_json_lists(path, NAMES)
    if isinstance(content, dict):
        for name in NAMES:
            assert isinstance(found.get(name), Entries) == isinstance(content.get(name), list)
        found = {name: plain(value) for name, value in found.items()}
    assert found == json.loads(path.read_text())


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # lone surrogates cannot be written


@given(
    content=contents, place=st.floats(0, 1), put=st.sampled_from(["", ",", "]", "}", '"', "1", ":"])
)
def test_a_damaged_text__is_refused_as_json_refuses_it(path, content, place, put):
    text = json.dumps(content)
    cut = int(place * len(text))
    text = text[:cut] + put + text[cut + 1 :]
    path.write_text(text)
    try:
        expected = json.loads(text)
    except ValueError as error:
        with pytest.raises(DataError, match="cannot be read as JSON") as caught:
            read_json_lists(path, NAMES)
        assert f"(char {error.pos})" in str(caught.value)  # noqa: PT017 - the same place
    else:
        found = read_json_lists(path, NAMES)
        if isinstance(found, dict):
            found = {name: plain(value) for name, value in found.items()}
        assert found == expected


def test_entries__are_a_sequence__parsed_anew_each_time(path):
    path.write_text('\ufeff{"images": [{"a": 1}, 2, [3]], "annotations": []}', encoding="utf-8")
    found = read_json_lists(path, NAMES)
    images = found["images"]
    assert (len(images), images[-1], list(images[1:])) == (3, [3], [2, [3]])
    assert images[0] is not images[0]
    assert len(found["annotations"]) == 0
    with pytest.raises(IndexError):
        images[3]


def test_a_name_given_twice__is_the_last__as_with_json(path):
    path.write_text('{"images": [1], "images": [2, 3]}')
    assert list(read_json_lists(path, NAMES)["images"]) == [2, 3]


@pytest.mark.parametrize("text", ["", "{", '{"images": [', '{"images" 1}', "{1: 2}", "[" * 100_000])
def test_no_json__is_one_line(path, text):
    path.write_text(text)
    with pytest.raises(DataError, match=r"file\.json: cannot be read as JSON in UTF-8"):
        read_json_lists(path, NAMES)
