"""`vpt data convert` as a user meets it."""

import os
import signal

from tests.data.coco_files import make_coco
from tests.fixtures import make_folder
from tests.test_cli import fails_in_one_line, run


def test_convert__says_what_was_read_and_how_to_look_at_what_was_written(tmp_path, capsys):
    source = make_coco(tmp_path / "boxes")
    assert run("data", "convert", source, tmp_path / "yolo", "--to", "yolo", "--link") == (0, "")
    assert capsys.readouterr().out.splitlines() == [
        f"'{source}' is read as boxes in COCO's format (annotations/train.json with images/, "
        "annotations/val.json with images/)",
        f"written to {tmp_path}/yolo (train 6, val 6 images); look at it: vpt data check "
        f"{tmp_path}/yolo",
    ]
    assert (tmp_path / "yolo" / "images" / "train" / "000.png").is_symlink()
    assert run("data", "check", tmp_path / "yolo")[0] == 0


def test_convert__annotations_alone__come_with_a_descriptor(tmp_path):
    source = make_coco(tmp_path / "boxes")
    words = ("data", "convert", source, tmp_path / "voc", "--to", "voc", "--annotations-only")
    assert run(*words)[0] == 0
    assert run("data", "check", tmp_path / "voc" / "dataset.yaml")[0] == 0
    assert not list((tmp_path / "voc").rglob("*.png"))


def test_a_mistake__is_one_line(tmp_path):
    boxes, photos = make_coco(tmp_path / "boxes"), make_folder(tmp_path / "photos")
    out = tmp_path / "out"
    fails_in_one_line("data", "convert", boxes, out, "--to", "csv", saying="use coco, yolo or voc")
    fails_in_one_line("data", "convert", photos, out, "--to", "voc", saying="use folder or csv")
    fails_in_one_line("data", "convert", boxes, photos, "--to", "voc", saying="is not empty")
    fails_in_one_line("data", "convert", boxes, out, "--to", "tfrecord", saying="'tfrecord'")
    fails_in_one_line("data", "convert", boxes, out, saying="--to")
    assert not out.exists()


def test_sigterm__leaves_nothing_half_written(tmp_path, monkeypatch):
    source = make_coco(tmp_path / "boxes")

    def stop(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("vpt.data.converting.place_file", stop)
    code, said = run("data", "convert", source, tmp_path / "out", "--to", "yolo")
    assert (code, said) == (130, "vpt: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["boxes"]
