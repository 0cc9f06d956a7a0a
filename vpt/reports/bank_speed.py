"""What a mixed batch of many tasks costs against a batch of one, measured side by side in one run.

The banks' tasks are random, and what they compute is checked against each task alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from vpt.backbones import Backbone, create_backbone
from vpt.errors import ConfigError
from vpt.heads import LinearHead
from vpt.models import Classifier, PromptedBackbone, TaskBank
from vpt.prompts import build_prompt
from vpt.reports.benchmark_models import check_takes_context
from vpt.reports.timing import Run, Spread, check_positive, seconds_of, torch_threads

NUM_CLASSES = 10
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class BankBenchmark:
    """What `benchmark_bank` measured, and of what; times are medians, ratios turn by turn.

    Attributes:
        model: name of the backbone; its weights are random.
        image_size: (H, W) in pixels.
        num_tokens: prompt tokens T of each task at each layer.
        num_classes: C of each task.
        batch_size: images B.
        tasks: in the mixed batch.
        resident: in the large bank.
        turns: that were measured.
        threads: of torch, on the CPU, in float32.
        torch_version: as torch says it.
        mixed_seconds: one batch of all `tasks`.
        single_seconds: one batch of one of them, by the same bank.
        model_seconds: the same by that task's own model.
        passes_seconds: the mixed batch image by image.
        few_seconds: one mixed batch by a bank of `tasks` in bfloat16.
        many_seconds: the same by one of `resident`, of other tasks in each turn.
        mixed_to_single: time of the mixed batch over that of one task's.
        mixed_to_model: time of the mixed batch over that of one task's own model.
        mixed_to_passes: time of the mixed batch over that of its images one by one.
        many_to_few: time with `resident` tasks over that with `tasks`.
        difference: largest of a logit between the mixed batch and each image's own model.
        bytes_per_task: of keys, values, class rows and tables in the large bank.
    """

    model: str
    image_size: tuple[int, int]
    num_tokens: int
    num_classes: int
    batch_size: int
    tasks: int
    resident: int
    turns: int
    threads: int
    torch_version: str
    mixed_seconds: float
    single_seconds: float
    model_seconds: float
    passes_seconds: float
    few_seconds: float
    many_seconds: float
    mixed_to_single: Spread
    mixed_to_model: Spread
    mixed_to_passes: Spread
    many_to_few: Spread
    difference: float
    bytes_per_task: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"image_size": list(self.image_size)}


def benchmark_bank(
    model: str = "timm/vit_base_patch16_224",
    *,
    image_size: int | None = None,
    num_tokens: int = 10,
    batch_size: int = 8,
    tasks: int = 8,
    resident: int = 1000,
    turns: int = 5,
    threads: int = 2,
) -> BankBenchmark:
    """Time mixed batches by a bank against others, by turns, on the CPU in float32.

    Args:
        model: name for `create_backbone`; weights are random, nothing is downloaded.
        image_size: pixels; None keeps the model's own.
        num_tokens: prompt tokens T of each task at each layer.
        batch_size: images of a batch.
        tasks: that are mixed in it.
        resident: tasks of the large bank, whose keys and values are bfloat16.
        turns: to measure, after one for warming up.
        threads: of torch; what was set before is set again afterwards.

    Raises:
        ConfigError: a number below 1, or fewer resident tasks than are mixed.
        BackboneError: an unknown or unsupported model, one whose blocks take no context, or an
            image size that does not fit its patches.
    """
    check_positive(
        num_tokens=num_tokens, batch_size=batch_size, tasks=tasks, turns=turns, threads=threads
    )
    if batch_size < tasks:
        raise ConfigError(f"batch_size {batch_size} cannot mix {tasks} tasks; use at least {tasks}")
    if resident < tasks:
        raise ConfigError(f"resident {resident}: use at least the {tasks} tasks that are mixed")
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = create_backbone(model, pretrained=False, image_size=image_size)
        check_takes_context(backbone, model)
        banks = _Banks.of(backbone, num_tokens, tasks, resident)
        images = torch.randn(batch_size, 3, *backbone.preprocess.size)
        times = _take_turns(banks.runs(images), turns)
        difference = banks.difference(images)
    return BankBenchmark(
        model=model,
        image_size=backbone.preprocess.size,
        num_tokens=num_tokens,
        num_classes=NUM_CLASSES,
        batch_size=batch_size,
        tasks=tasks,
        resident=resident,
        turns=turns,
        threads=threads,
        torch_version=torch.__version__,
        **{f"{name}_seconds": statistics.median(each) for name, each in times.items()},
        mixed_to_single=_ratio(times, "mixed", "single"),
        mixed_to_model=_ratio(times, "mixed", "model"),
        mixed_to_passes=_ratio(times, "mixed", "passes"),
        many_to_few=_ratio(times, "many", "few"),
        difference=difference,
        bytes_per_task=banks.many.nbytes // resident,
    )


def bank_table(result: BankBenchmark) -> Table:
    """The measurement as a table: seconds per batch, ratios as median (lowest-highest)."""
    height, width = result.image_size
    table = Table(
        title=f"{result.model}, {height}x{width}, {result.num_tokens} prompts per layer",
        caption=(
            f"batch {result.batch_size}, float32, CPU threads {result.threads}, "
            f"turns {result.turns}, torch {result.torch_version}\n"
            f"largest difference of a logit to each task's own model: {result.difference:.1e}\n"
            f"{result.bytes_per_task / 1e6:.2f} MB per task in the large bank"
        ),
    )
    for heading in ("", "seconds", "against it"):
        table.add_column(heading, justify="right" if heading else "left")
    mixed = f"mixed batch of {result.tasks} tasks"
    table.add_row(mixed, f"{result.mixed_seconds:.3f}", "")
    for name, took, ratio in (
        ("one task, same bank", result.single_seconds, result.mixed_to_single),
        ("one task, its own model", result.model_seconds, result.mixed_to_model),
        ("image by image", result.passes_seconds, result.mixed_to_passes),
    ):
        table.add_row(name, f"{took:.3f}", str(ratio))
    table.add_section()
    table.add_row(f"{result.resident} tasks in bfloat16", f"{result.many_seconds:.3f}", "")
    table.add_row(
        f"{result.tasks} tasks in bfloat16", f"{result.few_seconds:.3f}", str(result.many_to_few)
    )
    return table


@dataclass(frozen=True)
class _Banks:
    """Random tasks on one backbone, in three banks; the last has each of them many times."""

    models: list[Classifier]
    exact: TaskBank
    few: TaskBank
    many: TaskBank

    @classmethod
    def of(cls, backbone: Backbone, num_tokens: int, tasks: int, resident: int) -> _Banks:
        models = [_random_task(backbone, num_tokens) for _ in range(tasks)]
        named = {f"task {number}": model for number, model in enumerate(models)}
        many = TaskBank(
            backbone,
            capacity=resident,
            num_tokens=num_tokens,
            num_classes=NUM_CLASSES,
            dtype=torch.bfloat16,
        )
        for number in range(resident):
            many.add(f"task {number}", models[number % tasks])
        exact = TaskBank.from_models(backbone, named)
        few = TaskBank.from_models(backbone, named, dtype=torch.bfloat16)
        return cls(models, exact, few, many)

    def slots(self, batch_size: int) -> Tensor:
        return torch.arange(batch_size) % len(self.models)

    def runs(self, images: Tensor) -> dict[str, Run]:
        count = len(images)
        slots, one = self.slots(count), torch.zeros(count, dtype=torch.int64)

        def one_by_one() -> None:
            for image, slot in zip(images, slots, strict=True):
                self.exact(image[None], slot[None])

        return {
            "mixed": lambda: self.exact(images, slots),
            "single": lambda: self.exact(images, one),
            "model": lambda: self.models[0].predict(images),
            "passes": one_by_one,
            "few": lambda: self.few(images, slots),
            "many": lambda: self.many(images, torch.randint(self.many.capacity, (count,))),
        }

    @torch.no_grad()
    def difference(self, images: Tensor) -> float:
        slots = self.slots(len(images))
        mixed = self.exact(images, slots)
        alone = [
            self.models[slot](image[None])
            for image, slot in zip(images, slots.tolist(), strict=True)
        ]
        return float((mixed - torch.cat(alone)).abs().max())


def _random_task(backbone: Backbone, num_tokens: int) -> Classifier:
    options = {"name": "vpt_deep", "num_tokens": num_tokens, "layers": "all"}
    prompt = build_prompt(options, at=backbone.dimensions)
    head = LinearHead(backbone.feature_dim, NUM_CLASSES)
    return Classifier(PromptedBackbone(backbone, prompt), head).eval()


def _take_turns(runs: Mapping[str, Run], turns: int) -> dict[str, list[float]]:
    """Seconds of each; every turn begins with another one, so that none is always the first."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    names = list(runs)
    for turn in range(turns):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(seconds_of(runs[name], _CPU))
    return times


def _ratio(times: Mapping[str, list[float]], one: str, other: str) -> Spread:
    return Spread.of([a / b for a, b in zip(times[one], times[other], strict=True)])
