"""CSV files as people have them, and what is refused in them."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.data.readers.csv_table import SEPARATORS, open_csv_table
from vpt.errors import DataError

NEEDED = ("path", "label")


def table(folder: Path, content: str | bytes, encoding: str = "utf-8"):
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    found = open_csv_table(path, NEEDED)
    return replace(found, rows=list(found.rows))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separator__is_found_by_the_header(tmp_path, separator):
    found = table(tmp_path, f"path{separator}label\na.png{separator}x\n")
    assert (found.header, found.rows) == (("path", "label"), [(2, ["a.png", "x"])])


def test_separator__is_that_which_finds_the_columns(tmp_path):
    found = table(tmp_path, "path;label;a,b,c,d\nx.png;cat;1,2\n")
    assert found.rows == [(2, ["x.png", "cat", "1,2"])]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_line_that_names_the_separator__is_obeyed(tmp_path, line):
    found = table(tmp_path, f"{line}\r\npath;label\r\na,1.png;x\r\n")
    assert found.rows == [(3, ["a,1.png", "x"])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encoding_with_a_mark_and_any_line_end__are_read(tmp_path, encoding, end):
    found = table(tmp_path, end.join(["path\tlabel", "é.png\tgrün", ""]), encoding)
    assert found.rows == [(2, ["é.png", "grün"])]


def test_blanks_around_names_and_blank_lines__are_no_matter(tmp_path):
    found = table(tmp_path, 'path , label\n\n   \n,\na.png, "red, round"\n\n')
    assert found.header == ("path", "label")
    assert found.rows == [(5, ["a.png", "red, round"])]


def test_several_columns_without_a_name__are_no_matter(tmp_path):
    assert table(tmp_path, ",path,label,\n0,a.png,x,\n").rows == [(2, ["0", "a.png", "x", ""])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.png,red, round\n", "t.csv:2: 3 fields, the header has 2; quote a field"),
        ("path,label\n\na.png\n", "t.csv:3: 1 field, the header has 2; add what is missing"),
        ('path,label\n"a\nb",x\nc.png\n', "t.csv:4: 1 field, the header has 2"),
        ("path,label,label\n", "t.csv:1: the header names column 'label' twice"),
        ("path, path ,label\n", "t.csv:1: the header names column 'path' twice"),
        ('path,label\na.png,"x\nb.png,y\n', "t.csv:2: a quote that begins here is not closed"),
        ('path,label\na.png,"x"y\n', "t.csv:2: text follows a closing quote"),
        ("path,label\na\0.png,x\n", "t.csv:2: holds a NUL character"),
        ("path,label\n".encode("utf-16-le"), "t.csv:1: holds a NUL character"),
        ("path,label\na,b\nc,\xe9\n".encode("latin-1"), "t.csv:3: cannot be read as UTF-8"),
        (b"\xff\xfep\0a\0t", "t.csv:1: cannot be read as UTF-16-LE"),
        ("", "t.csv: is empty"),
        ("\n\n", "t.csv: is empty"),
    ],
)
def test_damage__is_one_line_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        table(tmp_path, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_column__is_named_with_the_near_one(tmp_path):
    with pytest.raises(DataError, match=r"no column 'path' .*\(Path, label\), did you mean 'Path'"):
        table(tmp_path, "Path,label\n").column("path")


def test_missing_file_and_folder__are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        open_csv_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="not a file"):
        open_csv_table(tmp_path)


FIELD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\n"), max_size=8)


@given(st.lists(st.tuples(FIELD, FIELD), max_size=5), st.sampled_from(sorted(SEPARATORS)))
def test_any_quoted_rows__come_back(tmp_path_factory, rows, separator):
    def quoted(values: tuple[str, ...]) -> str:
        return separator.join('"' + value.replace('"', '""') + '"' for value in values)

    lines = ["path" + separator + "label", *map(quoted, rows)]
    found = table(tmp_path_factory.mktemp("csv"), "\n".join(lines))
    wanted = [list(row) for row in rows if any(value.strip() for value in row)]
    assert [fields for _, fields in found.rows] == wanted
