"""How fast images come: what decoding, augmentation and collation take, and what a loader gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

from rich.table import Table
from torch.optim import SGD
from torch.utils.data import Dataset

from vpt.backbones import Backbone
from vpt.config import AnyRunConfig
from vpt.data import (
    DetectionSplit,
    EpochBatches,
    Workers,
    collate,
    collate_detection,
    each_of,
    load_sample,
    make_detection_loader,
    make_loader,
    read_image,
    usable_cores,
    worker_count,
)
from vpt.data.loading.detection_loader import DetectionDataset
from vpt.engine.acceleration import accelerated
from vpt.engine.device import autocast, choose_device
from vpt.engine.transfer import on_device
from vpt.errors import ConfigError, DataError
from vpt.experiment import AnyExperiment, build
from vpt.reports.timing import Spread, seconds_of
from vpt.runs.feeding import dataset_of
from vpt.seeding import derive_seed

Items = list[tuple[int, int]]
"""(epoch, index) of some images."""


@dataclass(frozen=True)
class DataSpeed:
    """What `measure_data_path` measured, and of what; all speeds in images per second.

    Attributes:
        dataset: as the config names it.
        transform: of the training images.
        image_size: (H, W) in pixels of what the model sees.
        images: that were measured, of the training split.
        batch_size: images of a batch.
        turns: that each was measured.
        cores: that this process may use.
        workers: processes of the loader.
        decode: from files to whole images, by one worker.
        augment: from whole images to the model's pixels, by one worker.
        collate: from the pixels of images to batches, by one worker.
        one_worker: all three one after the other.
        loader: what comes out of the loader once it runs.
        training: what the training step takes where nothing is waited for; None: not given.
    """

    dataset: str
    transform: str
    image_size: tuple[int, int]
    images: int
    batch_size: int
    turns: int
    cores: int
    workers: int
    decode: Spread
    augment: Spread
    collate: Spread
    one_worker: Spread
    loader: Spread
    training: float | None = None

    @property
    def needed_workers(self) -> float | None:
        """Workers, of a core each, that training would keep busy."""
        return None if self.training is None else self.training / self.one_worker.median

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"image_size": list(self.image_size)}


def measure_data_path(
    config: AnyRunConfig,
    *,
    backbone: Backbone | None = None,
    workers: Workers | None = None,
    images: int = 256,
    turns: int = 3,
    training: float | None = None,
) -> DataSpeed:
    """Time the way of a config's training images, without any training.

    Nothing that `data.cache` or `data.decoded` keep is used. Files are read once before the first
    turn, so that a cold disk is not measured.

    Args:
        config: checked.
        backbone: one in memory, instead of the config's.
        workers: processes of the loader; None: as the config says.
        images: of the training split, in the order of the first epoch; fewer if there are fewer.
        turns: to measure each.
        training: images per second that the training step takes, to be held against.

    Raises:
        ConfigError: a number below 1.
        VptError: the config does not fit together, or an image cannot be read.
    """
    if images < 1 or turns < 1:
        raise ConfigError(f"{images} images in {turns} turns measure nothing; use 1 or more")
    experiment = build(config, backbone=backbone)
    way = _Way(experiment, _chosen(experiment, images))
    parts = _parts(way, turns)
    count = worker_count(config.data.num_workers if workers is None else workers)
    loaded = [_loader_speed(way, count) for _ in range(turns)]
    return DataSpeed(
        dataset=str(config.data.dataset),
        transform=config.data.transform.name,
        image_size=experiment.model.preprocess.size,
        images=len(way.items),
        batch_size=config.data.batch_size,
        turns=turns,
        cores=usable_cores(),
        workers=count,
        decode=Spread.of([turn.decode for turn in parts]),
        augment=Spread.of([turn.augment for turn in parts]),
        collate=Spread.of([turn.collate for turn in parts]),
        one_worker=Spread.of([turn.all for turn in parts]),
        loader=Spread.of(loaded),
        training=training,
    )


def training_speed(
    config: AnyRunConfig, *, backbone: Backbone | None = None, turns: int = 3
) -> float:
    """Images per second of a config's training step where nothing is waited for.

    Forward, loss, backward and an optimiser step over one batch of training images, again and
    again, in the config's precision and on its device; the median of some turns after one for
    warming up.

    Raises:
        VptError: the config does not fit together, or an image cannot be read.
    """
    experiment, device = build(config, backbone=backbone), choose_device(config.train.device)
    way = _Way(experiment, _chosen(experiment, config.data.batch_size))
    model: Any = experiment.model.to(device).train()
    loader = way.loaded([way.items], 0)
    batch = next(iter(on_device(loader, device, experiment.model.preprocess)))
    optimizer = SGD(experiment.model.trainable_parameters(), lr=0.0)

    def step() -> None:
        with autocast(device, config.train.precision):
            loss = model.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with accelerated(
        model,
        config.train.precision,
        compile_mode=config.train.compile,
        grad_checkpointing=config.train.grad_checkpointing,
    ):
        step()
        seconds = statistics.median(seconds_of(step, device) for _ in range(turns))
    return len(way.items) / seconds


def data_speed_table(result: DataSpeed) -> Table:
    """The measurement as a table, speeds as median (lowest-highest)."""
    height, width = result.image_size
    table = Table(
        title=f"{result.dataset}, {result.transform}, {height}x{width}",
        caption=(
            f"images {result.images}, batch {result.batch_size}, turns {result.turns}, "
            f"cores {result.cores}{_verdict(result)}"
        ),
    )
    table.add_column("")
    for heading in ("images/s", "ms per image"):
        table.add_column(heading, justify="right")
    for name, speed in (
        ("decode", result.decode),
        ("augment", result.augment),
        ("collate", result.collate),
        ("one worker, all of it", result.one_worker),
        (f"loader, workers: {result.workers}", result.loader),
    ):
        table.add_row(name, _speed(speed), f"{1000 / speed.median:,.2f}")
    if result.training is not None:
        table.add_section()
        table.add_row("training step", f"{result.training:,.0f}", f"{1000 / result.training:,.2f}")
    return table


def _speed(speed: Spread) -> str:
    return f"{speed.median:,.0f} ({speed.lowest:,.0f}-{speed.highest:,.0f})"


def _verdict(result: DataSpeed) -> str:
    if result.training is None or result.needed_workers is None:
        return ""
    share = result.loader.median / result.training
    return (
        f"\nthe loader gives {share:.2f} of what training takes, "
        f"which is the work of {result.needed_workers:.1f} workers"
    )


def _chosen(experiment: AnyExperiment, images: int) -> Items:
    config, split = experiment.config, experiment.splits.require("train")
    order = EpochBatches(len(split), min(images, len(split)), seed=config.seed, epoch=0)
    return next(iter(order))


class _Way:
    """The parts of the way of some training images of either task."""

    def __init__(self, experiment: AnyExperiment, items: Items):
        self.items = items
        self.batch_size, self.seed = experiment.config.data.batch_size, experiment.config.seed
        self.split = experiment.splits.require("train")
        self.transform: Any = experiment.train_transform
        self.dataset = dataset_of(self.split, self.transform, self.seed)

    def decode(self, index: int) -> Any:
        """An image."""
        scaled = self.transform.preprocess.value_range
        if isinstance(self.split, DetectionSplit):
            return read_image(self.split.samples[index].source, value_range=scaled)
        return load_sample(self.split, self.split.samples[index], scaled)

    def augment(self, image: Any, epoch: int, index: int) -> Any:
        """Its pixels as the model sees them."""
        seed = derive_seed("augment", self.seed, epoch, index)
        if isinstance(self.split, DetectionSplit):
            return self.transform.pixels(image, self.split.samples[index].target_boxes, seed)
        return self.transform.pixels(image, seed)

    def collated(self, items: list[Any]) -> Any:
        """A batch of items of the data set."""
        if isinstance(self.split, DetectionSplit):
            return collate_detection(items)
        return collate(items)

    def loaded(self, batches: list[Items], workers: int) -> Any:
        """The batches, by a loader."""
        if isinstance(self.dataset, DetectionDataset):
            return make_detection_loader(
                self.dataset, batches, num_workers=workers, pin_memory=False
            )
        return make_loader(self.dataset, batches, num_workers=workers, pin_memory=False)


@dataclass(frozen=True)
class _Turn:
    """Images per second of one worker."""

    decode: float
    augment: float
    collate: float

    @property
    def all(self) -> float:
        """One after the other."""
        return 1 / (1 / self.decode + 1 / self.augment + 1 / self.collate)


class _Turns(Dataset["_Turn | DataError"]):
    """Turns of measuring the parts of a way, each by asking for it."""

    def __init__(self, way: _Way, turns: int):
        self.way, self.turns = way, turns

    def __len__(self) -> int:
        return self.turns

    def __getitem__(self, turn: int) -> _Turn | DataError:
        way = self.way
        try:
            if turn == 0:
                for _, index in way.items:
                    way.decode(index)
            images: list[Any] = []
            decode = _seconds(lambda: images.extend(way.decode(i) for _, i in way.items))
        except DataError as error:
            return DataError(str(error))
        pairs = list(zip(images, way.items, strict=True))
        augment = _seconds(lambda: [way.augment(image, *item) for image, item in pairs])
        some = [way.dataset[item] for item in way.items[: way.batch_size]]
        way.collated(some)
        collation = _seconds(lambda: way.collated(some))
        return _Turn(len(images) / decode, len(images) / augment, len(some) / collation)


def _parts(way: _Way, turns: int) -> Sequence[_Turn]:
    """Measured in a process like those of a loader: with one thread."""
    measured = []
    for turn in each_of(_Turns(way, turns), 1):
        if isinstance(turn, DataError):
            raise turn
        measured.append(turn)
    return measured


def _loader_speed(way: _Way, workers: int) -> float:
    """Images per second between the first round of batches and the end."""
    round_of = max(1, workers)
    size = min(way.batch_size, len(way.items))
    images = cycle(way.items)
    batches = [list(islice(images, size)) for _ in range(4 * round_of)]
    began = time.perf_counter()
    for number, _ in enumerate(way.loaded(batches, workers), 1):
        if number == round_of:
            began = time.perf_counter()
    return size * (len(batches) - round_of) / (time.perf_counter() - began)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return max(1e-9, time.perf_counter() - began)
