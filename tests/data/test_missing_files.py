from pathlib import Path

import pytest

from vpt.data.readers.missing_files import missing_files
from vpt.data.sources import PackedImage, Sources, SourcesBuilder
from vpt.data.texts import Texts


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "many").mkdir()
    for number in range(100):
        (tmp_path / "many" / f"{number}.jpg").touch()
    (tmp_path / "many" / "folder.jpg").mkdir()
    (tmp_path / "many" / "link.jpg").symlink_to("1.jpg")
    (tmp_path / "many" / "lost.jpg").symlink_to("none.jpg")
    (tmp_path / "few.jpg").touch()
    return tmp_path


ODD = ["many/folder.jpg", "many/lost.jpg", "many/none.jpg", "none/1.jpg", "x" * 300, "few/1.jpg"]
THERE = ["many/link.jpg", "few.jpg", "many/../few.jpg", "many/./1.jpg"]


def test_missing_files__are_found_in_large_folders_and_in_small_ones(folder):
    keys = [*(f"many/{number}.jpg" for number in range(100)), *THERE, *ODD]
    missing = missing_files(Sources.below(folder, Texts.of(keys)))
    assert [keys[place] for place in missing] == ODD


def test_files_of_a_large_folder__are_not_asked_for_one_by_one(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(Path, "is_file", lambda path: asked.append(path) or True)
    keys = [f"many/{number}.jpg" for number in range(100)]
    assert missing_files(Sources.below(folder, Texts.of([*keys, "few.jpg"]))) == []
    assert asked == [folder / "few.jpg"]


def test_paths_relative_to_the_working_folder__are_found(folder, monkeypatch):
    monkeypatch.chdir(folder / "many")
    keys = [*(f"{number}.jpg" for number in range(100)), "none.jpg"]
    assert missing_files(Sources.below(Path(), Texts.of(keys))) == [100]


def test_rows_of_other_files__are_not_looked_for():
    builder = SourcesBuilder()
    builder.append("a", PackedImage(Path("none.parquet"), 0, "image"))
    builder.append("b", 7)
    assert missing_files(builder.build()) == []
