"""Decoded images on the disk: the same bits, under a name that nothing else has."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.fixtures import make_image
from vpt.config import TransformConfig
from vpt.data.loading.decoded import (
    DecodedDataset,
    DecodedImages,
    build_decoded,
    decoded_path,
    decoded_sizes,
    find_decoded,
    make_room,
)
from vpt.data.loading.loader import ImageDataset
from vpt.data.splits import Sample, Split
from vpt.data.transforms.images import Transform, training_transform
from vpt.errors import DataError
from vpt.storage.records import RecordsError
from vpt.structures import Preprocess

SIXTEEN = Preprocess((16, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_pct=0.9)
DISTORTED = {"rotate": 20.0, "color_jitter": 0.3, "rand_augment": {}}
TRANSFORMS = {
    "none": training_transform(SIXTEEN, TransformConfig(name="none")),
    "resize_crop": training_transform(
        SIXTEEN, TransformConfig(name="resize_crop", resize=20, **DISTORTED)
    ),
    "random_resized_crop": training_transform(SIXTEEN, TransformConfig(**DISTORTED)),
}


@pytest.fixture
def split(tmp_path) -> Split:
    """JPEGs and a PNG of several sizes, one lying on its side, one grey, one with an alpha."""
    folder, turned = tmp_path / "images", Image.Exif()
    folder.mkdir()
    turned[0x0112] = 6
    make_image(0, (40, 30)).save(folder / "a.jpg")
    make_image(1, (30, 40)).save(folder / "b.jpg", exif=turned)
    make_image(2, (33, 20)).convert("L").save(folder / "c.jpg")
    make_image(3, (20, 50)).convert("RGBA").save(folder / "d.png")
    files = sorted(folder.iterdir())
    return Split("train", tuple(Sample(f, n % 2, f.name) for n, f in enumerate(files)), ("x", "y"))


def build(split: Split, transform: Transform, folder: Path, workers: int = 0) -> DecodedImages:
    path, sizes = decoded_path(folder, split, transform), decoded_sizes(split, transform, workers)
    return build_decoded(path, split, transform, sizes, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_item__has_the_bits_of_the_decoded_file(name, workers, split, tmp_path):
    transform = TRANSFORMS[name]
    build(split, transform, tmp_path / "kept", workers)
    found = find_decoded(decoded_path(tmp_path / "kept", split, transform))
    assert found is not None
    assert found.nbytes == sum(found[n].nbytes for n in range(len(split)))
    once, kept = (
        ImageDataset(split, transform.pixels, 7),
        DecodedDataset(split, transform, 7, found),
    )
    for epoch in range(3):
        for index in range(len(split)):
            (pixels, *rest), (expected, *others) = kept[epoch, index], once[epoch, index]
            assert pixels.dtype == torch.uint8
            assert torch.equal(pixels, expected)
            assert rest == others


@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_either_kind__read_the_same_file(way, split, tmp_path):
    transform = TRANSFORMS["random_resized_crop"]
    dataset = DecodedDataset(split, transform, 7, build(split, transform, tmp_path / "kept"))
    assert len(ForkingPickler.dumps(dataset._decoded)) < 2000
    items = [(0, index) for index in range(len(split))]
    loader = DataLoader(
        dataset, sampler=items, num_workers=1, batch_size=None, multiprocessing_context=way
    )
    for (pixels, *_), item in zip(loader, items, strict=True):
        assert torch.equal(pixels, dataset[item][0])


def test_the_name__changes_with_files_and_what_is_settled__not_with_what_is_random(split, tmp_path):
    def name(split=split, **options) -> str:
        transform = training_transform(SIXTEEN, TransformConfig(**options))
        return decoded_path(tmp_path, split, transform).name

    names = {name(), name(name="none"), name(name="resize_crop", resize=20)}
    names |= {name(name="resize_crop", resize=21), name(split.with_samples(split.samples[:2]))}
    assert len(names) == 5
    assert name(color_jitter=0.4, hflip=0.1, scale=(0.5, 1.0)) in names
    before, path = name(), split.samples[1].source
    assert isinstance(path, Path)
    os.utime(path, (1, 1))
    assert name() != before


def test_a_missing_image__is_named(split, tmp_path):
    path = split.samples[1].source
    path.unlink()
    with pytest.raises(DataError, match=r"b\.jpg: No such file"):
        decoded_path(tmp_path, split, TRANSFORMS["none"])


def test_an_image_of_another_size_than_its_head_says__leaves_nothing_behind(split, tmp_path):
    transform = TRANSFORMS["random_resized_crop"]
    path, sizes = decoded_path(tmp_path / "kept", split, transform), np.full((4, 2), 9)
    with pytest.raises(DataError, match=r"a\.jpg: another size than its head says"):
        build_decoded(path, split, transform, sizes, num_workers=0)
    assert list(path.parent.iterdir()) == []


class _Slow:
    """A transform that takes its time from the third image on."""

    preprocess = SIXTEEN

    def __init__(self, started: Path):
        self.transform, self.started, self.count = TRANSFORMS["none"], started, 0

    def settle(self, image):
        self.count += 1
        if self.count == 3:
            self.started.touch()
            time.sleep(60)
        return self.transform.settle(image)


def _build_slowly(path: Path, split: Split, sizes, started: Path) -> None:
    build_decoded(path, split, _Slow(started), sizes, num_workers=0)


def test_a_build_that_is_killed__is_taken_for_nothing_and_cleared_away(split, tmp_path):
    transform = TRANSFORMS["none"]
    path, sizes = (
        decoded_path(tmp_path / "kept", split, transform),
        decoded_sizes(split, transform, 0),
    )
    process = multiprocessing.get_context("fork").Process(
        target=_build_slowly, args=(path, split, sizes, tmp_path / "started")
    )
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(path.parent.glob(".*.tmp"))) == 1
    assert find_decoded(path) is None
    build_decoded(path, split, transform, sizes, num_workers=0)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert find_decoded(path) is not None


def test_two_that_build_at_once__both_have_it(split, tmp_path):
    transform = TRANSFORMS["resize_crop"]
    path, sizes = (
        decoded_path(tmp_path / "kept", split, transform),
        decoded_sizes(split, transform, 0),
    )
    others = [
        multiprocessing.get_context("fork").Process(
            target=build_decoded, args=(path, split, transform, sizes), kwargs={"num_workers": 0}
        )
        for _ in range(3)
    ]
    for process in others:
        process.start()
    built = build_decoded(path, split, transform, sizes, num_workers=0)
    for process in others:
        process.join()
        assert process.exitcode == 0
    image = np.asarray(transform.settle(Image.open(split.samples[0].source)))
    assert np.array_equal(built[0], image)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kept_bytes", [0, 20, 3000])
def test_a_cut_file__is_damaged_and_built_again(kept_bytes, split, tmp_path):
    transform = TRANSFORMS["none"]
    path = build(split, transform, tmp_path / "kept").path
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(RecordsError, match=path.name):
        find_decoded(path)
    assert len(build(split, transform, tmp_path / "kept")) == len(split)
    assert find_decoded(path) is not None


def test_room__is_made_by_those_used_longest_ago(split, tmp_path):
    paths = []
    for count in (1, 2, 3):
        part = replace(split, samples=split.samples[:count])
        paths.append(build(part, TRANSFORMS["none"], tmp_path / "kept").path)
        os.utime(paths[-1], (count, count))
    find_decoded(paths[0])  # which is a use
    held = sum(path.stat().st_size for path in paths)
    make_room(tmp_path / "kept", 1, most=held, keep=lambda path: False)
    assert [path.exists() for path in paths] == [True, False, True]
    make_room(tmp_path / "kept", held, most=held, keep=lambda path: path == paths[2])
    assert [path.exists() for path in paths] == [False, False, True]
