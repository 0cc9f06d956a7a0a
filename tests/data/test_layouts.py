"""What a folder is recognised as, and what is said where that is not certain."""

from pathlib import Path

import pytest

from tests.data.parquet_files import make_parquet
from vpt.config import load_yaml, validate
from vpt.data.descriptor import Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.recognising import layout_lines
from vpt.errors import DataError


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_descriptor(path)
    return str(caught.value)


def descriptors_in(text: str, folder: Path) -> list[Descriptor]:
    """The descriptors that a refusal prints, as a user would save them."""
    found = []
    for number, part in enumerate(text.split("\n\n")[1:]):
        path = folder / f"printed_{number}.yaml"
        path.write_text(part)
        found.append(validate(Descriptor, load_yaml(path), source=str(path)))
    return found


def test_recognised_folder__says_what_was_seen(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    descriptor = load_descriptor(tmp_path)
    assert descriptor.format == "folder"
    assert layout_lines(descriptor) == [
        f"'{tmp_path}' is read as folders of images by class: train, val"
    ]


def test_written_descriptor__says_nothing(tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text("name: mine\nformat: folder\n")
    assert layout_lines(load_descriptor(path)) == []


def test_folder_of_two_layouts__asks_with_a_descriptor_for_each(tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    make_parquet(folder)
    (folder / "train" / "cat").mkdir(parents=True)
    text = refusal(folder)
    assert text.startswith(f"'{folder}' can be read in 2 ways; save the descriptor that you mean")
    printed = descriptors_in(text, tmp_path)
    assert [(each.format, each.root) for each in printed] == [
        ("parquet", folder),
        ("folder", folder),
    ]
    assert "# folders of images by class: train\nname: both\nformat: folder\n" in text


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("annotations.xml", '<annotations><image id="0"></image></annotations>', "CVAT's own XML"),
        ("train/a.json", '{"shapes": [], "imagePath": "a.jpg"}', "labelme's JSON"),
        ("project.json", '[{"value": {"rectanglelabels": ["cat"]}}]', "Label Studio's own JSON"),
        ("train/_annotations.csv", "filename,class,xmin,ymin,xmax,ymax\n", "a table of boxes"),
    ],
)
def test_annotations_that_are_not_read__are_named_with_the_way_out(tmp_path, name, text, what):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    way_out = "export the annotations as COCO, PASCAL VOC or YOLO, or convert them"
    sentence = f"'{path}' is {what}, which is not read: {way_out}"
    assert sentence in refusal(tmp_path)
    if path.suffix != ".csv":
        assert refusal(path) == sentence
