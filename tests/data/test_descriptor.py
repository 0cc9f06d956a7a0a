from pathlib import Path

import pytest

from vpt.data.descriptor import Cut
from vpt.data.layouts import load_descriptor
from vpt.errors import ConfigError, DataError

DATASETS = Path(__file__).parents[2] / "datasets"


WITHOUT_SENTENCES = {
    *("cub_200_2011", "coco2017", "custom_coco", "nabirds", "stanford_dogs", "svhn")
}


def written(folder: Path, text: str) -> Path:
    path = folder / "birds.yaml"
    path.write_text(text)
    return path


def test_datasets__every_file__is_a_descriptor():
    paths = sorted(DATASETS.rglob("*.yaml"))
    assert {path.stem for path in paths if path.parent == DATASETS} == {
        *("caltech101", "cifar100", "coco2017", "cub_200_2011", "custom_coco", "digits", "dtd"),
        *("dtd_split1", "eurosat", "fgvc_aircraft", "flowers102", "food101", "imagenet", "nabirds"),
        *("oxford_pets", "oxford_pets_official", "stanford_cars", "stanford_dogs", "svhn"),
    }
    for path in paths:
        descriptor = load_descriptor(path)
        assert descriptor.licence
        assert descriptor.source
        assert (descriptor.text.templates is None) == (
            path.stem in WITHOUT_SENTENCES or path.parent.name == "vtab"
        )


def test_load_descriptor__folder__needs_no_file(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
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
        (
            "name: b\nformat: folder\nfile: a.csv",
            "'file' is for format csv, hf_images, split_zhou, voc or yolo",
        ),
        ("name: b\nformat: csv\ncolumns: {split: part}", "needs 'file'"),
        ("name: b\nformat: folder\nsplits: {val: {fraction: 1.5}}", "fraction"),
        ("name: b\nformat: folder\ncounts: {train: 0}", "counts.train"),
        ("name: b\nformat: folder\nchecksum: abc", "checksum"),
        ("name: b", "format"),
        (
            "name: b\nformat: csv\nimages: a",
            "'images' is for format split_zhou, imagenet, path_list, coco, voc or yolo",
        ),
        ("name: b\nformat: split_zhou\nfile: a\ncolumns: {path: p}", "'columns' is for format csv"),
        ("name: b\nformat: split_zhou", "split_zhou needs 'file'"),
        ("name: b\nformat: imagenet\nsplits: {test: val}", "splits.test: imagenet has its own"),
        (
            "name: b\nformat: imagenet\nimages: {train: a}",
            "'images' of imagenet is one folder, not one for each split",
        ),
        ("name: b\nformat: coco\nimages: {trian: a}", "images"),
        (
            "name: b\nformat: coco\nfile: a.json",
            "'file' is for format csv, hf_images, split_zhou, voc or yolo",
        ),
        ("name: b\nformat: coco\nmetric: top1", "metric 'top1' is not what format coco is"),
        ("name: b\nformat: cub\nmetric: ap", "metric 'ap' is not what format cub is judged by"),
        ("name: b\nformat: folder\nfiles: [{url: 'http://a.org/a.zip'}]", "there is no checksum"),
        ("name: b\nformat: folder\nfiles: [{url: 'ftp://a.org/a.zip'}]", "no https address"),
        ("name: b\nformat: folder\nfiles: [{url: 'https://a.org/'}]", "file name ''"),
        ("name: b\nformat: folder\nfiles: [{page: a}]", "file name ''"),
        ("name: b\nformat: folder\nfiles: [{name: ../a.zip}]", "file name '../a.zip'"),
        ("name: b\nformat: folder\nfiles: [{name: a.mat, take: b}]", "'take' is for archives"),
        ("name: b\nformat: folder\nfiles: [{name: a.zip, into: ../b}]", "files.0.into"),
        ("name: b\nformat: folder\nfiles: [{name: a.zip, checksum: 'md5:12'}]", "files.0.checksum"),
        (
            "name: b\nformat: folder\nfiles: [{name: a.zip}, {name: a.zip}]",
            "'a.zip' is listed twice",
        ),
        ("name: b\nformat: csv\nsuffix: .jpg", "'suffix' is for format path_list"),
        ("name: b\nformat: cub\nsplits: {train: x}", "splits.train: cub has its own places"),
        ("name: b\nformat: cub\ntext: {templates: [a cat]}", "template 'a cat' needs {} or {c}"),
        ("name: b\nformat: cub\ntext: {templates: ['{} {x}']}", "template '{} {x}' needs"),
        ("name: b\nformat: cub\ntext: {templates: []}", "text.templates"),
        ("name: b\nformat: cub\ntext: {class_names: [1]}", "text.class_names"),
        ("name: b\nformat: cub\ntext: {class_names: {a: 1}}", "text.class_names"),
    ],
)
def test_load_descriptor__mistake__is_one_line_naming_it(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_descriptor(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
