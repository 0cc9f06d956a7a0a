from pathlib import Path

import pytest

from vpt.data.descriptor import Cut, load_descriptor
from vpt.errors import ConfigError, DataError

DATASETS = Path(__file__).parents[2] / "datasets"


def written(folder: Path, text: str) -> Path:
    path = folder / "birds.yaml"
    path.write_text(text)
    return path


def test_datasets__every_file__is_a_descriptor():
    paths = sorted(DATASETS.iterdir())
    assert {path.name for path in paths} >= {"cub_200_2011.yaml", "digits.yaml"}
    for path in paths:
        descriptor = load_descriptor(path)
        assert descriptor.licence
        assert descriptor.source


def test_load_descriptor__folder__needs_no_file(tmp_path):
    descriptor = load_descriptor(tmp_path)
    assert (descriptor.format, descriptor.root) == ("folder", tmp_path)


def test_load_descriptor__cut__is_read(tmp_path):
    path = written(tmp_path, "name: b\nformat: folder\nsplits: {val: {fraction: 0.2}}\n")
    assert load_descriptor(path).splits.val == Cut(fraction=0.2, seed=0)


def test_load_descriptor__no_such_path__says_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"no data set at .*birds.*descriptor"):
        load_descriptor(tmp_path / "birds")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: b\nformat: folder\nclases: [a]", "classes"),
        ("name: b\nformat: zip", "format"),
        ("name: b\nformat: folder\nclasses: [a, b, a]", "'a' is listed twice"),
        ("name: b\nformat: folder\nfile: a.csv", "belong to format csv"),
        ("name: b\nformat: csv\ncolumns: {split: part}", "needs 'file'"),
        ("name: b\nformat: folder\nsplits: {val: {fraction: 1.5}}", "fraction"),
        ("name: b\nformat: folder\ncounts: {train: 0}", "counts.train"),
        ("name: b\nformat: folder\nchecksum: abc", "checksum"),
        ("name: b", "format"),
    ],
)
def test_load_descriptor__mistake__is_one_line_naming_it(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_descriptor(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
