"""What prompts as context save against inserting tokens, measured side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from vpt.backbones import Backbone, create_backbone
from vpt.errors import BackboneError, ConfigError
from vpt.heads import LinearHead
from vpt.models import Classifier, PromptedBackbone
from vpt.prompts import NoPrompt, build_prompt
from vpt.structures import Batch

NUM_CLASSES = 10

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median and the range around it."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


@dataclass(frozen=True)
class Comparison:
    """Times of one kind of work, done each way by turns.

    Attributes:
        insertion_seconds: median for one batch, prompt tokens inserted at every layer.
        context_seconds: the same with prompts as context.
        plain_seconds: the same without prompts.
        to_insertion: context time over insertion time, turn by turn.
        to_plain: context time over the time without prompts, turn by turn.
    """

    insertion_seconds: float
    context_seconds: float
    plain_seconds: float
    to_insertion: Spread
    to_plain: Spread


@dataclass(frozen=True)
class Agreement:
    """How far both ways are apart in the same run, on the same images, prompts and head.

    Attributes:
        logits: largest difference of a logit.
        gradients: norm of the difference over the norm, of the trained tensor where it is largest.
        prompt_effect: largest change of a logit when the prompts are taken away; what `logits` is
            to be held against.
    """

    logits: float
    gradients: float
    prompt_effect: float


@dataclass(frozen=True)
class ContextBenchmark:
    """What `benchmark_context` measured, and of what.

    Attributes:
        model: name of the backbone; its weights are random.
        image_size: (H, W) in pixels.
        num_tokens: prompt tokens T at each layer.
        batch_size: images B of a step.
        pairs: turns that were measured.
        threads: of torch, on the CPU, in float32.
        torch_version: as torch says it.
        training: forward, loss, backward, optimiser step over prompt and head. Without prompts, the
            gradient goes to the image, so that it passes through every block there too.
        inference: forward without gradient.
        agreement: that both ways compute the same.
    """

    model: str
    image_size: tuple[int, int]
    num_tokens: int
    batch_size: int
    pairs: int
    threads: int
    torch_version: str
    training: Comparison
    inference: Comparison
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"image_size": list(self.image_size)}


def benchmark_context(
    model: str = "timm/vit_base_patch16_224",
    *,
    image_size: int | None = None,
    num_tokens: int = 100,
    batch_size: int = 8,
    pairs: int = 3,
    threads: int = 2,
) -> ContextBenchmark:
    """Time prompts as context against inserted tokens, by turns, on the CPU in float32.

    Args:
        model: name for `create_backbone`; weights are random, nothing is downloaded.
        image_size: pixels; None keeps the model's own.
        num_tokens: prompt tokens T at each layer.
        batch_size: images of a step.
        pairs: turns to measure, after one for warming up.
        threads: of torch; what was set before is set again afterwards.

    Raises:
        ConfigError: a number below 1.
        BackboneError: an unknown or unsupported model, one whose blocks take no context, or an
            image size that does not fit its patches.
    """
    check_positive(num_tokens=num_tokens, batch_size=batch_size, pairs=pairs, threads=threads)
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = create_backbone(model, pretrained=False, image_size=image_size)
        check_takes_context(backbone, model)
        ways = _build_ways(backbone, num_tokens)
        batch = _draw_batch(backbone, batch_size)
        agreement = _measure_agreement(ways, batch)
        training = _compare(_training_steps(ways, batch), pairs)
        inference = _compare(_inferences(ways, batch), pairs)
    return ContextBenchmark(
        model=model,
        image_size=backbone.preprocess.size,
        num_tokens=num_tokens,
        batch_size=batch_size,
        pairs=pairs,
        threads=threads,
        torch_version=torch.__version__,
        training=training,
        inference=inference,
        agreement=agreement,
    )


def context_table(result: ContextBenchmark) -> Table:
    """The measurement as a table: seconds per batch, ratios as median (lowest-highest)."""
    height, width = result.image_size
    table = Table(
        title=f"{result.model}, {height}x{width}, {result.num_tokens} prompts per layer",
        caption=(
            f"batch {result.batch_size}, float32, CPU threads {result.threads}, "
            f"turns {result.pairs}, torch {result.torch_version}\n"
            f"difference: logits {result.agreement.logits:.1e}, "
            f"gradients {result.agreement.gradients:.1e} relative\n"
            f"effect of the prompts on logits: {result.agreement.prompt_effect:.1e}"
        ),
    )
    stages = (result.training, result.inference)
    for heading in ("", "training step", "inference"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, seconds in (
        ("tokens inserted", [stage.insertion_seconds for stage in stages]),
        ("prompts as context", [stage.context_seconds for stage in stages]),
        ("no prompts", [stage.plain_seconds for stage in stages]),
    ):
        table.add_row(name, *(f"{value:.3f} s" for value in seconds))
    table.add_section()
    table.add_row("context / inserted", *(str(stage.to_insertion) for stage in stages))
    table.add_row("context / no prompts", *(str(stage.to_plain) for stage in stages))
    return table


@dataclass(frozen=True)
class _Ways:
    """Three models around one backbone and one head; the first two share their prompt as well."""

    insertion: Classifier
    context: Classifier
    plain: Classifier


def _build_ways(backbone: Backbone, num_tokens: int) -> _Ways:
    prompt = build_prompt(
        {"name": "vpt_deep", "num_tokens": num_tokens, "layers": "all"}, at=backbone.dimensions
    )
    head = LinearHead(backbone.feature_dim, NUM_CLASSES)
    return _Ways(
        insertion=Classifier(PromptedBackbone(backbone, prompt, insert=True), head),
        context=Classifier(PromptedBackbone(backbone, prompt), head),
        plain=Classifier(PromptedBackbone(backbone, NoPrompt()), head),
    )


def _draw_batch(backbone: Backbone, batch_size: int) -> Batch:
    images = torch.randn(batch_size, 3, *backbone.preprocess.size)
    return Batch(images, torch.randint(NUM_CLASSES, (batch_size,)), torch.arange(batch_size))


def _measure_agreement(ways: _Ways, batch: Batch) -> Agreement:
    logits, gradients = _differentiate(ways.context, batch)
    expected_logits, expected_gradients = _differentiate(ways.insertion, batch)
    with torch.no_grad():
        plain_logits = ways.plain(batch.images)
    return Agreement(
        logits=(logits - expected_logits).abs().max().item(),
        gradients=max(map(_relative_difference, gradients, expected_gradients)),
        prompt_effect=(plain_logits - expected_logits).abs().max().item(),
    )


def _differentiate(model: Classifier, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    losses = model.loss(batch)
    return losses["logits"], torch.autograd.grad(losses["loss"], model.trainable_parameters())


def _relative_difference(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def _training_steps(ways: _Ways, batch: Batch) -> dict[str, Run]:
    def train(model: Classifier, optimizer: torch.optim.Optimizer, of_images: bool) -> None:
        assert isinstance(batch.images, Tensor)
        images = batch.images.detach().requires_grad_(of_images)
        optimizer.zero_grad()
        model.loss(replace(batch, images=images))["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    prompted = torch.optim.SGD(ways.context.trainable_parameters(), lr=1e-3)
    plain = torch.optim.SGD(ways.plain.trainable_parameters(), lr=1e-3)
    return {
        "insertion": lambda: train(ways.insertion, prompted, False),
        "context": lambda: train(ways.context, prompted, False),
        "plain": lambda: train(ways.plain, plain, True),
    }


def _inferences(ways: _Ways, batch: Batch) -> dict[str, Run]:
    return {
        "insertion": lambda: ways.insertion.predict(batch.images),
        "context": lambda: ways.context.predict(batch.images),
        "plain": lambda: ways.plain.predict(batch.images),
    }


def _compare(runs: Mapping[str, Run], pairs: int) -> Comparison:
    """Ratios are taken turn by turn: what else the machine does falls on both sides of each."""
    for run in runs.values():
        run()
    turns = [{name: seconds(run) for name, run in runs.items()} for _ in range(pairs)]
    return Comparison(
        insertion_seconds=statistics.median(turn["insertion"] for turn in turns),
        context_seconds=statistics.median(turn["context"] for turn in turns),
        plain_seconds=statistics.median(turn["plain"] for turn in turns),
        to_insertion=Spread.of([turn["context"] / turn["insertion"] for turn in turns]),
        to_plain=Spread.of([turn["context"] / turn["plain"] for turn in turns]),
    )


def seconds(run: Run) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_positive(**numbers: int) -> None:
    """Refuse numbers below 1, by name."""
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} {number} measures nothing; use 1 or more")


def check_takes_context(backbone: Backbone, name: str) -> None:
    """Refuse a backbone in which prompts could only be inserted."""
    for layer in range(backbone.depth):
        if not backbone.takes_context(layer):
            raise BackboneError(
                f"block {layer} of '{name}' takes no context, so both ways are insertion; "
                "use a model of standard blocks, e.g. timm/vit_base_patch16_224"
            )
