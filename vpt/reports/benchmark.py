"""How fast prompts are beside the frozen backbone alone, measured by turns in one process."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from vpt.engine.acceleration import CompileMode, accelerated
from vpt.engine.device import DTYPES, autocast, choose_device
from vpt.errors import ConfigError
from vpt.models import Classifier, count_flops, count_saved
from vpt.reports.benchmark_models import (
    VARIANTS,
    ModelShelf,
    Variant,
    check_takes_context,
    start_of,
)
from vpt.reports.timing import Run, Spread, check_positive, seconds_of, torch_threads
from vpt.structures import Batch

Axis = Literal["num_tokens", "batch_size", "image_size", "model", "num_classes"]
"""What grows from case to case."""


@dataclass(frozen=True)
class Setting:
    """What a variant is measured with.

    Attributes:
        model: name of the backbone; its weights are random, nothing is downloaded.
        image_size: side in pixels; None: the model's own.
        batch_size: images B of a step.
        num_tokens: prompt tokens T at every layer, of the variants that have a prompt.
        num_classes: C of the linear head.
        precision: 'fp32', 'bf16' or 'fp16'.
        compile_mode: of torch.compile; 'none' runs as it is written.
    """

    model: str = "timm/vit_base_patch16_224"
    image_size: int | None = None
    batch_size: int = 8
    num_tokens: int = 100
    num_classes: int = 100
    precision: str = "fp32"
    compile_mode: CompileMode = "none"


@dataclass(frozen=True)
class Pass:
    """One kind of pass over a batch, turn by turn.

    Attributes:
        seconds: of each turn.
        ceilings: FLOP/s of a bare matrix product beside each turn, in the same type: the model's
            tokens times the weights of an MLP's first layer.
        flops: of the whole batch, `count_flops`.
    """

    seconds: tuple[float, ...]
    ceilings: tuple[float, ...]
    flops: int

    @property
    def achieved(self) -> Spread:
        """FLOP/s as a share of the ceiling."""
        pairs = zip(self.seconds, self.ceilings, strict=True)
        return Spread.of([self.flops / seconds / ceiling for seconds, ceiling in pairs])


@dataclass(frozen=True)
class Measured:
    """One variant at one setting.

    Attributes:
        variant: see `VARIANTS`.
        setting: what it was measured with.
        training: forward, loss, backward and optimiser step; None where it is another variant's.
        inference: forward without gradients; None where it is another variant's.
        saved_bytes: kept per image for the backward pass, `count_saved`; None for compiled ones,
            of which the compiler decides.
        saved_blocks: the same of each block.
        peak_bytes: of the device during a step, above what was there before; None on the CPU.
    """

    variant: Variant
    setting: Setting
    training: Pass | None
    inference: Pass | None
    saved_bytes: int | None
    saved_blocks: tuple[int, ...]
    peak_bytes: int | None


@dataclass(frozen=True)
class Ratio:
    """Times of one variant over those of another at the same setting, turn by turn.

    Attributes:
        variant: the numerator.
        to: the denominator.
        setting: of both.
        training: of a step; None where one of them has none.
        inference: likewise.
        saved: bytes kept per image over bytes kept per image.
    """

    variant: Variant
    to: Variant
    setting: Setting
    training: Spread | None
    inference: Spread | None
    saved: float | None


@dataclass(frozen=True)
class Agreement:
    """How far prompts as context are from inserted ones, on the same images, prompts and head.

    Attributes:
        logits: largest difference of a logit, in float32.
        gradients: norm of the difference over the norm, of the trained tensor where it is largest.
        prompt_effect: largest change of a logit when the prompts are taken away; what `logits` is
            to be held against.
    """

    logits: float
    gradients: float
    prompt_effect: float


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured, and on what.

    Attributes:
        axis: what grows from case to case.
        turns: how often each was measured, after warming up.
        device: in words.
        threads: of torch, on the CPU.
        tf32: whether a GPU's float32 products were of TensorFloat-32.
        torch_version: as torch says it.
        measured: every variant at every setting.
        agreement: of the first setting.
        ratios: of the variants that were measured at the same setting.
    """

    axis: Axis
    turns: int
    device: str
    threads: int
    tf32: bool
    torch_version: str
    measured: tuple[Measured, ...]
    agreement: Agreement
    ratios: tuple[Ratio, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with the shares of the ceiling."""
        values = asdict(self)
        for each, record in zip(self.measured, values["measured"], strict=True):
            for name in ("training", "inference"):
                done: Pass | None = getattr(each, name)
                if done is not None:
                    record[name]["achieved"] = asdict(done.achieved)
        return values


def parse_axis(text: str) -> tuple[Axis, list[Any]]:
    """What grows and its values, from text such as 'num_tokens=0,50,100'.

    Raises:
        ConfigError: an unknown name, or values that are none.
    """
    name, _, values = text.partition("=")
    known = get_args(Axis)
    if name not in known:
        raise ConfigError(f"unknown axis '{name}' in '{text}' (known: {', '.join(known)})")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    whole = name != "model"
    if not parts or (whole and not all(part.isdecimal() for part in parts)):
        kind = "whole numbers" if whole else "names of models"
        raise ConfigError(f"'{text}' has no values; give {kind}, as in {name}=...,...")
    return cast("Axis", name), [int(part) for part in parts] if whole else parts


def grid(
    setting: Setting, axis: Axis, values: Sequence[Any], **others: Sequence[Any]
) -> list[Setting]:
    """Settings: `values` along the axis, for each combination of the others' values."""
    names = (*others, axis)
    return [
        replace(setting, **dict(zip(names, chosen, strict=True)))
        for chosen in itertools.product(*others.values(), values)
    ]


def benchmark(
    settings: Sequence[Setting],
    variants: Sequence[Variant] = ("backbone", "insertion", "context"),
    *,
    axis: Axis = "num_tokens",
    turns: int = 5,
    device: str = "cpu",
    threads: int = 2,
    tf32: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Benchmark:
    """Time variants of a model by turns.

    Every turn measures every variant at every setting once, so that what else the machine does
    falls on all of them, and every other turn goes backwards.

    Args:
        settings: see `grid`.
        variants: of `VARIANTS`.
        axis: what the settings differ in; for the plot.
        turns: to measure, after those for warming up.
        device: as `train.device`.
        threads: of torch, on the CPU; what was set before is set again afterwards.
        tf32: let a GPU's float32 products be of TensorFloat-32.
        log: takes a line on each measurement.

    Raises:
        ConfigError: a number below 1, or an unknown variant.
        BackboneError: an unknown or unsupported model, one whose blocks take no context, or an
            image size that does not fit its patches.
    """
    _check(settings, variants, turns=turns, threads=threads)
    place = choose_device(device)
    with torch_threads(threads), torch.random.fork_rng(devices=[]), ExitStack() as stack:
        torch.manual_seed(0)
        stack.enter_context(
            _float32_products("high" if tf32 and place.type == "cuda" else "highest")
        )
        shelf = ModelShelf(place)
        for setting in settings:
            check_takes_context(shelf.backbone(setting.model, setting.image_size), setting.model)
        agreement = _measure_agreement(shelf, settings[0])
        cases = [_Case(shelf, variant, each) for each in settings for variant in variants]
        for case in cases:
            log(f"prepares {case.variant}: {_told(case.setting)}")
            case.prepare(stack)
        _take_turns(cases, turns, log)
        measured = tuple(case.measured() for case in cases)
    return Benchmark(
        axis=axis,
        turns=turns,
        device=_device_name(place),
        threads=threads,
        tf32=tf32,
        torch_version=torch.__version__,
        measured=measured,
        agreement=agreement,
        ratios=tuple(_ratios(measured)),
    )


_OWN = {"training": "trains", "inference": "infers"}


class _Case:
    """One variant at one setting: what is run, and what was measured so far."""

    def __init__(self, shelf: ModelShelf, variant: Variant, setting: Setting):
        self.variant, self.setting, self.device = variant, setting, shelf.device
        self.model = shelf.model(
            variant,
            shelf.backbone(setting.model, setting.image_size),
            num_tokens=setting.num_tokens,
            num_classes=setting.num_classes,
        )
        self.batch = shelf.batch(
            self.model.backbone.preprocess.size, setting.batch_size, setting.num_classes
        )
        self.start = start_of(variant, self.model)
        self.optimizer = torch.optim.SGD(self.model.trainable_parameters(), lr=1e-3, momentum=0.9)
        kind = VARIANTS[variant]
        runs: dict[str, Run] = {"training": self.train, "inference": self.infer}
        self.runs = {name: runs[name] for name in runs if getattr(kind, _OWN[name])}
        self.seconds: dict[str, list[float]] = {name: [] for name in self.runs}
        self.ceilings: list[float] = []
        self.product: tuple[Run, int] | None = None
        self.peak_bytes: int | None = None

    def prepare(self, stack: ExitStack) -> None:
        """Count what can be counted, warm up; the model stays accelerated within the stack."""
        setting, batch_size = self.setting, self.setting.batch_size
        self.flops = count_flops(self.model, batch_size, start=self.start)
        checkpointing = self.model.prompted.grad_checkpointing
        with accelerated(self.model, setting.precision, grad_checkpointing=checkpointing):
            dtype = DTYPES.get(setting.precision, torch.float32)
            self.saved = count_saved(self.model, batch_size, dtype=dtype, start=self.start)
        stack.enter_context(
            accelerated(
                self.model,
                setting.precision,
                compile_mode=setting.compile_mode,
                grad_checkpointing=checkpointing,
            )
        )
        for run in (*self.runs.values(), *self.runs.values()):
            run()
        if self.device.type == "cuda" and "training" in self.runs:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.train()
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - before

    def train(self) -> None:
        """One step."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.setting.precision):
            assert isinstance(self.batch.images, Tensor)
            batch = replace(self.batch, images=self.start(self.batch.images))
            loss = self.model.loss(batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def infer(self) -> None:
        """Logits of one batch."""
        self.model.eval()
        with autocast(self.device, self.setting.precision):
            if self.variant == "context_baked" and not self.model.baked_layers:
                self.model.bake()
            self.model(self.batch.images)

    def measure(self) -> None:
        """One turn."""
        self.ceilings.append(self._ceiling())
        for name, run in self.runs.items():
            self.seconds[name].append(seconds_of(run, self.device))

    def _ceiling(self) -> float:
        """FLOP/s of products that take about as long as a step, at most."""
        setting, width = self.setting, self.model.backbone.embed_dim
        enough = min(_MOST_FLOPS[self.device.type == "cuda"], setting.batch_size * self.flops.step)
        if self.product is None:
            self.product = _product(self._rows, width, enough, setting.precision, self.device)
        run, flops = self.product
        return flops / seconds_of(run, self.device)

    @property
    def _rows(self) -> int:
        height, width = self.model.backbone.grid
        return self.setting.batch_size * (self.model.backbone.num_prefix + height * width)

    def measured(self) -> Measured:
        """All turns."""
        passes = {
            name: Pass(
                tuple(seconds),
                tuple(self.ceilings),
                self.setting.batch_size
                * (self.flops.step if name == "training" else self.flops.forward),
            )
            for name, seconds in self.seconds.items()
        }
        compiled = self.setting.compile_mode != "none"
        return Measured(
            self.variant,
            self.setting,
            training=passes.get("training"),
            inference=passes.get("inference"),
            saved_bytes=None if compiled else self.saved.total,
            saved_blocks=() if compiled else self.saved.blocks,
            peak_bytes=self.peak_bytes,
        )


_MOST_FLOPS = {False: 20_000_000_000, True: 5_000_000_000_000}
"""Of the products beside each case, on the CPU and on a GPU: tens of milliseconds."""


def _take_turns(cases: Sequence[_Case], turns: int, log: Callable[[str], None]) -> None:
    for turn in range(turns):
        began = time.perf_counter()
        for case in cases if turn % 2 == 0 else reversed(cases):
            case.measure()
        log(f"turn {turn + 1}/{turns}: {time.perf_counter() - began:.0f} s")


def _product(
    rows: int, width: int, enough: int, precision: str, device: torch.device
) -> tuple[Run, int]:
    """Products of (rows, D) and (D, 4 D), of about so many FLOPs, and how many these are."""
    dtype = DTYPES.get(precision, torch.float32)
    left = torch.randn(rows, width, dtype=dtype, device=device)
    right = torch.randn(4 * width, width, dtype=dtype, device=device).T
    once = 2 * rows * width * 4 * width
    times = max(1, round(enough / once))

    def run() -> None:
        for _ in range(times):
            torch.mm(left, right)

    run()
    return run, times * once


def _ratios(measured: Sequence[Measured]) -> Iterator[Ratio]:
    """What each variant costs against the backbone alone, and context against insertion."""
    by_place = {(each.variant, each.setting): each for each in measured}
    for (variant, setting), each in by_place.items():
        for to in VARIANTS[variant].beside:
            other = by_place.get((to, setting))
            if other is not None:
                yield _ratio(each, other)


def _ratio(one: Measured, other: Measured) -> Ratio:
    saved = None
    if one.saved_bytes is not None and other.saved_bytes and one.training is not None:
        saved = one.saved_bytes / other.saved_bytes
    return Ratio(
        one.variant,
        other.variant,
        one.setting,
        training=_turn_by_turn(one.training, other.training),
        inference=_turn_by_turn(one.inference, other.inference),
        saved=saved,
    )


def _turn_by_turn(one: Pass | None, other: Pass | None) -> Spread | None:
    if one is None or other is None:
        return None
    return Spread.of([a / b for a, b in zip(one.seconds, other.seconds, strict=True)])


def _measure_agreement(shelf: ModelShelf, setting: Setting) -> Agreement:
    backbone = shelf.backbone(setting.model, setting.image_size)
    sizes = {"num_tokens": max(1, setting.num_tokens), "num_classes": setting.num_classes}
    context, insertion, plain = (
        shelf.model(variant, backbone, **sizes) for variant in ("context", "insertion", "backbone")
    )
    batch = shelf.batch(backbone.preprocess.size, min(8, setting.batch_size), setting.num_classes)
    logits, gradients = _differentiate(context, batch)
    expected_logits, expected_gradients = _differentiate(insertion, batch)
    with torch.no_grad():
        plain_logits = plain(batch.images)
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


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def _told(setting: Setting) -> str:
    size = "" if setting.image_size is None else f", {setting.image_size} px"
    compiled = "" if setting.compile_mode == "none" else f", compiled ({setting.compile_mode})"
    return (
        f"{setting.model}{size}, batch {setting.batch_size}, {setting.num_tokens} tokens, "
        f"{setting.num_classes} classes, {setting.precision}{compiled}"
    )


def _check(settings: Sequence[Setting], variants: Sequence[Variant], **numbers: int) -> None:
    check_positive(**numbers)
    for setting in settings:
        _check_known("precision", setting.precision, ("fp32", *DTYPES))
        _check_known("compile_mode", setting.compile_mode, get_args(CompileMode))
        for name, least in (("batch_size", 1), ("num_tokens", 0), ("num_classes", 1)):
            if getattr(setting, name) < least:
                raise ConfigError(
                    f"{name} {getattr(setting, name)} measures nothing; use {least} or more"
                )
    for variant in variants:
        _check_known("variant", variant, VARIANTS)


def _check_known(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} '{value}' (known: {', '.join(known)})")
