"""The descriptors of VTAB-1k, read end to end from small copies of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures import make_image
from vpt.data import load_descriptor, read_image, read_splits
from vpt.data.descriptor import Counts
from vpt.errors import DataError

FOLDER = Path(__file__).parents[2] / "datasets" / "vtab"
CLASSES = {
    "cifar": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37,
    "svhn": 10, "sun397": 397, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45,
    "diabetic_retinopathy": 5, "clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4,
    "dsprites_loc": 16, "dsprites_ori": 16, "smallnorb_azi": 18, "smallnorb_ele": 9,
}  # fmt: skip


def make_task(root: Path, classes: int) -> None:
    """Lists as the community shares them; class 1 is not among the images to learn from."""
    image = make_image()
    lists = {"train800": "train", "val200": "val", "test": "test"}
    for file, split in lists.items():
        (root / "images" / split).mkdir(parents=True)
        lines = []
        for label in range(classes):
            if split == "test" or label in (0, classes - 1):
                name = f"images/{split}/{label:05d}.jpg"
                image.save(root / name)
                lines.append(f"{name} {label}")
        (root / f"{file}.txt").write_text("\n".join(lines) + "\n")
    both = [(root / f"{file}.txt").read_text() for file in ("train800", "val200")]
    (root / "train800val200.txt").write_text("".join(both))


def test_every_task__has_its_descriptor():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CLASSES)


@pytest.mark.parametrize("task", CLASSES)
def test_a_task__is_read_from_its_layout__and_counted(task, tmp_path):
    make_task(tmp_path, CLASSES[task])
    descriptor = load_descriptor(FOLDER / f"{task}.yaml")
    assert (descriptor.counts.train, descriptor.counts.val) == (800, 200)
    with pytest.raises(DataError, match="images in train, 800 are expected"):
        read_splits(descriptor, tmp_path)
    splits = read_splits(descriptor.model_copy(update={"counts": Counts()}), tmp_path)
    assert splits.class_names == tuple(str(label) for label in range(CLASSES[task]))
    assert len(splits.require("test")) == CLASSES[task]
    last = splits.require("train").samples[-1]
    assert last.label == CLASSES[task] - 1
    assert read_image(last.source).size == (12, 10)


def test_a_class_without_training_images__is_refused_elsewhere(tmp_path):
    make_task(tmp_path, 4)
    descriptor = load_descriptor(FOLDER / "kitti.yaml")
    changes = {"counts": Counts(), "missing_classes": "error"}
    with pytest.raises(DataError, match="class '1' has no image in 'train'"):
        read_splits(descriptor.model_copy(update=changes), tmp_path)
