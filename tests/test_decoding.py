"""A run whose images are decoded once is the run that decodes them every epoch, bit for bit."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

import vpt.data.loading.loader
import vpt.runs.showing
from tests.data.test_loader import same
from tests.fixtures import make_folder
from tests.test_runs import assert_same_run
from tests.training import make_config
from vpt.data.images import read_image
from vpt.engine.interrupt import Interrupted
from vpt.errors import ConfigError
from vpt.experiment import build
from vpt.runs import train
from vpt.runs.feeding import fit_data
from vpt.runs.start import FREE_ON_RESUME

pytestmark = pytest.mark.usefixtures("no_drawing")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), classes=3, images=3)


def config_of(tmp_path, data, decoded, **changes):
    given = {"data__decoded_dir": str(tmp_path / "decoded"), "prompt": "none", **changes}
    return make_config(tmp_path / decoded, data, data__decoded=decoded, **given)


def batches_of(config, lines=None):
    log = (lambda line: None) if lines is None else lines.append
    fed = fit_data(build(config), CPU, log=log)
    return [*fed.train(0, 0), *fed.train(1, 0), *fed.val()]


@pytest.mark.parametrize(
    "transform",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "resize_crop")),
        "random_resized_crop",
    ],
)
def test_a_run_with_decoded_images__is_the_run_without__bit_for_bit(transform, data, tmp_path):
    changes = {"data__transform": transform, "data__num_workers": 1, "train__epochs": 2}
    lines: list[str] = []
    for decoded in ("none", "disk"):
        train(config_of(tmp_path, data, decoded, **changes), log=lines.append)
    assert_same_run(tmp_path / "disk", tmp_path / "none")
    told = [line.split(" images")[0] for line in lines if line.startswith("decoded")]
    assert told == ["decoded: 9 training", "decoded: 9 validation"]
    assert len(list((tmp_path / "decoded").iterdir())) == 2


def test_the_second_run__decodes_no_training_or_validation_image(data, tmp_path, monkeypatch):
    config, lines = config_of(tmp_path, data, "auto"), []
    first = batches_of(config)
    monkeypatch.setattr(
        "vpt.data.loading.loader.read_image", lambda path, **_: pytest.fail("decoded again")
    )
    assert same(batches_of(config, lines), first)
    assert [line.split(", ")[-1] for line in lines] == [f"found in {tmp_path / 'decoded'}"] * 2


def test_with_what_the_model_makes_of_them_kept__auto_leaves_them_out(data, tmp_path):
    kept = {"data__cache": "memory", "data__transform": "none"}
    lines: list[str] = []
    expected = batches_of(config_of(tmp_path, data, "none", **kept))
    assert same_begun(batches_of(config_of(tmp_path, data, "disk", **kept)), expected)
    assert same_begun(batches_of(config_of(tmp_path, data, "auto", **kept), lines), expected)
    assert (
        sum("because data.cache keeps what the model makes of them" in line for line in lines) == 2
    )


def same_begun(ones, others):
    pairs = zip(ones, others, strict=True)
    return all(torch.equal(a.images.values, b.images.values) for a, b in pairs)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file__is_told_in_one_line_and_built_anew(damage, data, tmp_path):
    config, lines = config_of(tmp_path, data, "disk", data__transform="none"), []
    first = batches_of(config)
    for path in (tmp_path / "decoded").iterdir():
        content = bytearray(path.read_bytes())
        content[7] ^= 255
        path.write_bytes(content if damage == "changed" else content[:-100])
    assert same(batches_of(config, lines), first)
    assert sum("built anew" in line for line in lines) == 2
    assert not any("\n" in line for line in lines)
    lines.clear()
    batches_of(config, lines)
    assert all("found in" in line for line in lines)


def test_a_changed_image__is_decoded_anew(tmp_path):
    data = make_folder(tmp_path / "data", classes=3, images=3)
    config = config_of(tmp_path, data, "disk", data__transform="none")
    before = batches_of(config)
    path = data / "train" / "class_0" / "0.png"
    read_image(path).rotate(180).save(path)
    after = batches_of(config)
    assert not same(after, before)
    assert same(after, batches_of(config_of(tmp_path, data, "none", data__transform="none")))


def test_what_does_not_fit__is_refused_or_left_out(data, tmp_path):
    small = {"data__decoded_gb": 5e-6}
    with pytest.raises(ConfigError, match=r"validation images cannot be kept.*data\.decoded=auto"):
        batches_of(config_of(tmp_path, data, "disk", **small))
    lines: list[str] = []
    batches_of(config_of(tmp_path, data, "auto", **small), lines)
    assert lines[0].startswith("decoded: 9 training images, 3.24 kB, found in ")
    assert lines[1] == (
        "decoded: no validation images, because 27.65 kB are more than is left of data.decoded_gb "
        "5e-06 (1.76 kB; raise it)"
    )


def test_a_full_disk__costs_a_line_and_the_run_goes_on(data, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config, lines = config_of(tmp_path, data, "disk"), []
    expected = batches_of(config_of(tmp_path, data, "none"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert same(batches_of(config, lines), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reason = f"because {tmp_path / 'decoded'} cannot take them ({os.strerror(errno.EFBIG)})"
    assert lines == [f"decoded: no {what} images, {reason}" for what in ("training", "validation")]
    assert list((tmp_path / "decoded").iterdir()) == []


def test_images_in_memory__have_nothing_to_decode(tmp_path):
    with pytest.raises(ConfigError, match="because they are in memory already"):
        batches_of(config_of(tmp_path, Path("datasets/digits.yaml"), "disk"))


def test_a_run_that_goes_on__may_decode_otherwise():
    assert {"data.decoded", "data.decoded_dir", "data.decoded_gb"} <= FREE_ON_RESUME


def test_a_stop_while_images_are_decoded__leaves_no_file(data, tmp_path, monkeypatch):
    def stopping(path, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return read_image(path, **options)

    monkeypatch.setattr(vpt.data.loading.loader, "read_image", stopping)
    config = config_of(tmp_path, data, "disk", data__num_workers=0, data__scan=False)
    ours = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(Interrupted, match="SIGTERM while training images were decoded"):
            train(config)
    finally:
        signal.signal(signal.SIGTERM, ours)
    assert not list((tmp_path / "decoded").iterdir())
