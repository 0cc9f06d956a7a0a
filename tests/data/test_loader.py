import multiprocessing
import struct
import zlib
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.coco_files import coco_descriptor, make_coco
from tests.fixtures import make_folder, make_image
from vpt.config import TransformConfig
from vpt.data.layouts import load_descriptor
from vpt.data.loading.loader import ImageDataset, make_loader
from vpt.data.loading.scans import drop_bad, scan_images
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.sampling import EpochBatches
from vpt.data.splits import Sample, Split
from vpt.data.transforms.images import training_transform
from vpt.errors import DataError
from vpt.structures import Batch, Preprocess

TRANSFORM = training_transform(
    Preprocess((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), TransformConfig(color_jitter=0.3)
)


@pytest.fixture
def split(tmp_path) -> Split:
    return read_splits(load_descriptor(make_folder(tmp_path, classes=3))).require("train")


def epoch_of(split: Split, *, epoch: int = 0, start: int = 0, workers: int = 0) -> list[Batch]:
    batches = EpochBatches(len(split), 4, seed=5, epoch=epoch, start_batch=start)
    dataset = ImageDataset(split, TRANSFORM, seed=5)
    loader = make_loader(dataset, batches, num_workers=workers, pin_memory=False)
    listed = list(loader)
    assert len(listed) == len(loader)
    return listed


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_make_loader__one_epoch__has_every_image_with_its_label(split):
    batches = epoch_of(split)
    assert [batch.images.shape for batch in batches] == [(4, 3, 8, 8), (4, 3, 8, 8), (1, 3, 8, 8)]
    assert all(batch.labels.dtype == batch.indices.dtype == torch.int64 for batch in batches)
    found = {
        int(index): int(label)
        for batch in batches
        for index, label in zip(batch.indices, batch.labels, strict=True)
    }
    assert found == dict(enumerate(split.labels))


def test_make_loader__workers_and_resumption__change_no_bit(split):
    whole = epoch_of(split, epoch=3)
    assert same(epoch_of(split, epoch=3, workers=2), whole)
    assert same(epoch_of(split, epoch=3, start=1, workers=2), whole[1:])
    assert not same(epoch_of(split, epoch=4), whole)


def test_make_loader__workers_that_stay__change_no_bit_and_end_with_the_loader(split):
    dataset = ImageDataset(split, TRANSFORM, seed=5)
    loader = make_loader(dataset, [], num_workers=2, pin_memory=False, keep_workers=True)
    workers = []
    for epoch, count in ((0, 3), (1, 1), (2, 3)):  # the second is given up after a batch
        batches = loader.of(EpochBatches(len(split), 4, seed=5, epoch=epoch))
        got = list(islice(batches, count))
        assert same(got, epoch_of(split, epoch=epoch)[:count])
        workers.append({process.pid for process in multiprocessing.active_children()})
        del batches
    assert len(workers[0]) == 2
    assert workers[0] == workers[1] == workers[2]
    del loader
    assert multiprocessing.active_children() == []


def test_make_loader__global_generators__are_left_alone(split):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch_of(split)
    assert torch.equal(torch.rand(3), expected)


def test_dataset__one_image_in_two_epochs__is_augmented_anew(split):
    dataset = ImageDataset(split, TRANSFORM, seed=5)
    assert torch.equal(dataset[0, 1][0], dataset[0, 1][0])
    assert not torch.equal(dataset[0, 1][0], dataset[1, 1][0])
    assert not torch.equal(dataset[0, 1][0], ImageDataset(split, TRANSFORM, seed=6)[0, 1][0])


def test_dataset__array_source__is_read(tmp_path):
    array = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8).numpy()
    split = Split("train", (Sample(0, 0, "0000"),), ("a",), array)
    flat = training_transform(
        Preprocess((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), TransformConfig(name="none")
    )
    image, label, index = ImageDataset(split, flat, seed=0)[0, 0]
    assert torch.equal((image * 255).round().to(torch.uint8)[2], torch.from_numpy(array)[0])
    assert (label, index) == (0, 0)
    assert scan_images(split) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_make_loader__unreadable_image__is_one_line_naming_it(split, workers):
    path = split.samples[4].source
    assert isinstance(path, Path)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError) as caught:
        epoch_of(split, workers=workers)
    assert str(caught.value).startswith(f"{path}: not an image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_scan_images__bad_files__are_all_listed_and_dropped_with_their_labels(split, workers):
    cut, empty = split.samples[1].source, split.samples[5].source
    assert isinstance(cut, Path)
    assert isinstance(empty, Path)
    make_image(1, (90, 90)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    empty.write_bytes(b"")
    bad = scan_images(split, workers)
    assert [image.path for image in bad] == [cut, empty]
    assert "truncated" in bad[0].reason
    assert bad[1].reason == "empty file (0 bytes)"
    rest = drop_bad(split, bad)
    assert rest.samples == tuple(s for s in split.samples if s.source not in (cut, empty))
    assert scan_images(rest, workers) == []


def test_scan_images__another_size_than_the_head_says__is_bad(tmp_path):
    """A PNG whose orientation comes after its pixels: the head knows nothing of it."""
    root = make_coco(tmp_path)
    path = root / "images/train/001.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    content = path.read_bytes()
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + data
    late = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:-12] + late + content[-12:])
    split = read_detection(coco_descriptor(root)).require("train")
    (bad,) = scan_images(split)
    assert bad.path == path
    assert "60 x 92 pixels once decoded, but its head says 92 x 60" in bad.reason


def test_drop_bad__class_left_empty__is_refused(split):
    for sample in split.samples[:3]:
        assert isinstance(sample.source, Path)
        sample.source.write_bytes(b"")
    with pytest.raises(DataError, match=r"class 'class_0' has no readable image left"):
        drop_bad(split, scan_images(split))
