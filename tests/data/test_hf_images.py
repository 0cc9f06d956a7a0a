"""Hugging Face's image folders: labels in metadata.csv or metadata.jsonl."""

import json
from pathlib import Path

import pytest

from tests.fixtures import make_image
from vpt.config import load_yaml, validate
from vpt.data.descriptor import Descriptor
from vpt.data.layouts import load_descriptor
from vpt.data.reading import read_splits
from vpt.errors import DataError

ROWS = [{"file_name": f"{number}.png", "label": "ab"[number % 2]} for number in range(6)]


def write(folder: Path, rows: list[dict], name: str = "metadata.jsonl", images: int = 6) -> Path:
    """A metadata file of these rows and as many images beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        make_image(hash(str(folder)) % 1000 + number).save(folder / f"{number}.png")
    if name.endswith("jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
    (folder / name).write_text(text)
    return folder


def splits_of(folder: Path):
    return read_splits(load_descriptor(folder))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        splits_of(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("val", ["validation", "valid", "dev", "Val"])
def test_metadata_in_each_split__is_read(tmp_path, name, val):
    for split in ("train", val, "test"):
        write(tmp_path / split, ROWS, name)
    splits = splits_of(tmp_path)
    assert splits.class_names == ("a", "b")
    assert [sample.key for sample in splits.val.samples] == [f"{val}/{i}.png" for i in range(6)]
    assert splits.train.labels == (0, 1, 0, 1, 0, 1)
    assert splits.cut is None


def test_without_val__it_is_cut_out_of_train(tmp_path):
    write(tmp_path / "train", ROWS)
    splits = splits_of(tmp_path)
    assert splits.test is None
    assert len(splits.train) + len(splits.val) == 6


def test_metadata_in_the_root__parts_by_the_folders_in_the_names(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split, ROWS, images=3)
        (tmp_path / split / "metadata.jsonl").unlink()
    rows = [
        {"file_name": f"{split}/{i}.png", "label": i % 2}
        for split in ("train", "val")
        for i in range(3)
    ]
    write(tmp_path, rows, images=0)
    splits = splits_of(tmp_path)
    assert splits.class_names == ("0", "1")
    assert [sample.key for sample in splits.val.samples] == ["val/0.png", "val/1.png", "val/2.png"]


def test_metadata_in_the_root_alone__is_cut_into_all_three(tmp_path):
    splits = splits_of(write(tmp_path, ROWS))
    assert sum(len(splits.get(name)) for name in ("train", "val", "test")) == 6


def test_metadata_in_the_root_with_a_column_of_splits__parts_by_it(tmp_path):
    rows = [{**row, "split": "train" if i < 4 else "valid"} for i, row in enumerate(ROWS)]
    splits = splits_of(write(tmp_path, rows))
    assert (len(splits.train), len(splits.val)) == (4, 2)


def test_lists_of_labels__are_several_labels(tmp_path):
    tags = [["x"], ["x", "y"], [], ["y"], ["x"], ["y"]]
    rows = [{"file_name": f"{i}.png", "tags": each} for i, each in enumerate(tags)]
    descriptor = load_descriptor(write(tmp_path / "train", rows).parent)
    assert descriptor.metric == "mAP"
    splits = read_splits(descriptor)
    labels = {s.key: s.label for part in (splits.train, splits.val) for s in part.samples}
    assert labels["train/1.png"] == (0, 1)
    assert labels["train/2.png"] == ()


def test_one_other_column__is_the_label_whatever_its_name(tmp_path):
    rows = [{"file_name": row["file_name"], "kind of bird": row["label"]} for row in ROWS]
    assert splits_of(write(tmp_path / "train", rows, "metadata.csv").parent).class_names == (
        "a",
        "b",
    )


def test_one_other_column__of_captions__is_no_label_without_a_word(tmp_path):
    rows = [{"file_name": row["file_name"], "text": f"photo {i}"} for i, row in enumerate(ROWS)]
    text = refusal(write(tmp_path / "data" / "train", rows).parent)
    assert "only column, 'text', differs from image to image, as captions do" in text
    path = tmp_path / "printed.yaml"
    path.write_text(text.split("\n\n")[1])
    assert validate(Descriptor, load_yaml(path), source="p").columns.label == "text"


def test_of_several_columns__the_usual_name_is_the_label(tmp_path):
    rows = [
        {"file_name": row["file_name"], "site": i, "label": row["label"], "mask_file_name": "m"}
        for i, row in enumerate(ROWS)
    ]
    assert splits_of(write(tmp_path / "train", rows).parent).class_names == ("a", "b")


def test_several_columns_without_a_usual_name__ask_with_a_descriptor_for_each(tmp_path):
    rows = [{"file_name": row["file_name"], "site": "s", "bird": row["label"]} for row in ROWS]
    text = refusal(write(tmp_path / "data" / "train", rows).parent)
    assert (
        "not certain what the label is ('site', 'bird'); save the descriptor that you mean" in text
    )
    path = tmp_path / "printed.yaml"
    path.write_text(text.split("\n\n")[2])
    assert read_splits(validate(Descriptor, load_yaml(path), source="p")).class_names == ("a", "b")


def test_padded_numbers__keep_their_spelling(tmp_path):
    rows = [{"file_name": row["file_name"], "label": f"0{i % 2}"} for i, row in enumerate(ROWS)]
    assert splits_of(write(tmp_path / "train", rows, "metadata.csv").parent).class_names == (
        "00",
        "01",
    )


def test_images_without_a_row__are_counted(tmp_path):
    write(tmp_path / "train", ROWS[:4])
    notes = splits_of(tmp_path).notes
    assert any(f"2 images in '{tmp_path / 'train'}' left out" in note for note in notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:5], {"file_name": "9.png", "label": "a"}], "9.png' is listed but does not exist"),
        ([*ROWS, ROWS[0]], "'train/0.png' is listed twice"),
        (
            [*ROWS[:5], {"file_name": "5.png"}],
            "metadata.jsonl:6: no 'label' (there are: file_name)",
        ),
        ([*ROWS[:5], {"file_name": "5.png", "label": 0.5}], "metadata.jsonl:6: 'label' is 0.5"),
        ([*ROWS[:5], {"file_name": "5.png", "label": None}], "metadata.jsonl:6: 'label' is null"),
        (
            [*ROWS[:5], {"file_name": "5.png", "label": ""}],
            "metadata.jsonl:6: no value for 'label'",
        ),
        ([*ROWS[:5], {"file_name": "5.PNG", "label": "a"}], "name_variants: [suffix_case]"),
    ],
)
def test_mistake__is_named_with_its_place(tmp_path, rows, message):
    assert message in refusal(write(tmp_path / "train", rows).parent)


def test_line_that_is_no_json__is_named(tmp_path):
    write(tmp_path / "train", ROWS)
    with (tmp_path / "train" / "metadata.jsonl").open("a") as file:
        file.write("{'file_name': 1}\n")
    assert "metadata.jsonl:7: is not a JSON object" in refusal(tmp_path)


def test_both_kinds_of_metadata__are_refused(tmp_path):
    write(tmp_path / "train", ROWS)
    write(tmp_path / "train", ROWS, "metadata.csv")
    assert "keep one of them" in refusal(tmp_path)


def test_descriptor_without_columns__finds_the_label(tmp_path):
    write(tmp_path / "train", ROWS)
    descriptor = Descriptor(name="d", format="hf_images", root=tmp_path)
    assert read_splits(descriptor).class_names == ("a", "b")
    (tmp_path / "train" / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no metadata.csv or metadata.jsonl"):
        read_splits(descriptor)


def test_mistake_in_a_recognised_folder__comes_with_its_descriptor(tmp_path):
    rows = [{**row, "file_name": row["file_name"].upper()} for row in ROWS]
    text = refusal(write(tmp_path / "data" / "train", rows).parent)
    line, _, printed = text.partition("\n\n")
    assert line.endswith("this descriptor reads the folder as it is, to be changed:")
    path = tmp_path / "printed.yaml"
    path.write_text(printed + "\nname_variants: [suffix_case]\n")
    assert len(read_splits(load_descriptor(path)).train) > 0
