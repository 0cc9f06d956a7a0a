"""Which files of a folder are images, for training, prediction and patterns alike."""

import os
from pathlib import Path

import pytest

from tests.fixtures import make_image
from vpt.data.image_files import check_names, find_files, has_images, images_named, left_out_line
from vpt.errors import DataError


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names(folder: Path, paths) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_images_of_every_format_count__others_are_counted(tmp_path):
    write(tmp_path, "a.jpg", "b.JPG", "c.jfif", "d/e.webp", "f.ppm", "g.txt", "h.TXT", "i.raw", "j")
    found = find_files(tmp_path)
    assert names(tmp_path, found.images) == ["a.jpg", "b.JPG", "c.jfif", "d/e.webp", "f.ppm"]
    assert left_out_line(found.left_out) == (
        "4 files of other formats left out: .txt (2), no suffix (1), .raw (1)"
    )
    assert left_out_line(find_files(tmp_path / "d").left_out) is None


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg",
        ".hidden/a.jpg",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "@eaDir/a.jpg",
        "__MACOSX/a.jpg",
        "in/$RECYCLE.BIN/a.jpg",
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
    ],
)
def test_what_systems_leave_behind__is_neither_image_nor_left_out(tmp_path, name):
    write(tmp_path, "a.jpg", name)
    found = find_files(tmp_path)
    assert names(tmp_path, found.images) == ["a.jpg"]
    assert not found.left_out


def test_a_hidden_place_above__does_not_hide_the_folder(tmp_path):
    write(tmp_path, ".cache/photos/a.jpg")
    assert len(find_files(tmp_path / ".cache" / "photos").images) == 1


def test_linked_folders__are_followed__once_each(tmp_path):
    write(tmp_path, "more/a.jpg", "here/z/b.jpg")
    folder = tmp_path / "here"
    (folder / "more").symlink_to(tmp_path / "more")
    (folder / "a_link_to_z").symlink_to(folder / "z")
    (folder / "loop").symlink_to(folder)
    (folder / "z" / "up").symlink_to("..")
    assert names(folder, find_files(folder).images) == ["more/a.jpg", "z/b.jpg"]


def test_only_files_are_images__and_links_that_lead_nowhere(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert names(tmp_path, find_files(tmp_path).images) == ["circle.png", "lost.png"]


def test_name_that_is_no_utf8__is_found__but_no_part_of_a_data_set(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    odd.touch()
    assert find_files(tmp_path).images == images_named(f"{tmp_path}/*.png").images == (odd,)
    with pytest.raises(DataError, match=r"1 image names in .* are not UTF-8, e.g. 'caf\\xe9.png'"):
        check_names([odd], tmp_path)
    check_names([tmp_path / "café.png"], tmp_path)


def test_folder_that_cannot_be_read__is_named(tmp_path):
    with pytest.raises(DataError, match=r"'.*gone' cannot be read: No such file"):
        find_files(tmp_path / "gone")


def test_has_images__looks_below(tmp_path):
    write(tmp_path, "a/b/c.png", "d/e.txt")
    assert has_images(tmp_path / "a")
    assert not has_images(tmp_path / "d")


# What is named on the command line


def test_pattern__finds_as_a_folder_does(tmp_path):
    write(tmp_path, "a/1.jpg", "a/2.txt", "a/.3.jpg", "b/4.png", "b/@eaDir/5.png", "6.png", "7.raw")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = images_named(f"{tmp_path}/*")
    assert set(names(tmp_path, found.images)) >= {"a/1.jpg", "b/4.png", "6.png"}
    assert not any("@eaDir" in str(path) or ".3" in path.name for path in found.images)
    everything = images_named(f"{tmp_path}/**/*.*")
    assert names(tmp_path, everything.images)[:3] == ["6.png", "a/1.jpg", "b/4.png"]
    assert everything.left_out[".txt"] == 1


def test_pattern_that_spells_a_hidden_folder_out__finds_it(tmp_path):
    write(tmp_path, ".cache/1.png", "@eaDir/2.png")
    assert len(images_named(f"{tmp_path}/.cache/*.png").images) == 1
    assert len(images_named(f"{tmp_path}/@eaDir/*.png").images) == 1


def test_file__is_taken_as_it_is__whatever_its_name(tmp_path):
    write(tmp_path, "notes.txt", "photo[1].png")
    for name in ("notes.txt", "photo[1].png"):
        assert images_named(str(tmp_path / name)).images == (tmp_path / name,)


def test_real_image_of_each_pattern__is_found_once(tmp_path):
    make_image().save(tmp_path / "a.png")
    assert images_named(f"{tmp_path}/**").images == (tmp_path / "a.png",)
