"""Trains the bundled backbone on rendered glyphs: the loop, its settings, its checkpoints."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vpt.backbones.bundled.glyph_vit import ARCHITECTURE, glyph_vit
from vpt.backbones.bundled.rendering import (
    IGNORED,
    TARGETS,
    GlyphRenderer,
    RenderedBatch,
    RenderSettings,
    mix_seed,
)

_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class CanvasSize:
    """One of the image sizes that training draws from.

    Attributes:
        size: Side of the images in pixels.
        batch_size: Images per step at this size.
        probability: Share of the steps that use it.
    """

    size: int
    batch_size: int
    probability: float


def _default_sizes() -> tuple[CanvasSize, ...]:
    return (
        CanvasSize(32, 128, 0.86),
        CanvasSize(48, 56, 0.07),
        CanvasSize(64, 32, 0.05),
        CanvasSize(96, 14, 0.02),
    )


def _default_weights() -> dict[str, float]:
    others = {name: 0.1 for name in TARGETS if name not in ("symbol", "font")}
    return {"symbol": 1.0, "font": 0.3, **others, "coverage": 0.5}


@dataclass(frozen=True)
class PretrainSettings:
    """Every setting of a pretraining run.

    Attributes:
        seed: Of the weights, the sizes and the rendered images.
        steps: Optimiser steps.
        warmup_steps: The learning rate rises linearly over these.
        decay_steps: The learning rate falls linearly to zero over the last of these.
        lr: Per step, between warm-up and decay; never rescaled.
        weight_decay: Of matrices; vectors, positions and the class token have none.
        betas: Of AdamW.
        clip_norm: Largest norm of the gradient.
        plain_images: Images at difficulty 0 before the curriculum starts to harden.
        ramp_images: Images over which the difficulty then rises to 1.
        precision: Of forward and backward, "bfloat16" or "float32"; the weights are fp32.
        rendering: What the images look like at full difficulty.
        sizes: Image sizes to draw from.
        loss_weights: Weight of every target of `rendering.TARGETS`, and of "coverage", which the
            patch tokens predict pixel by pixel.
        architecture: Arguments that replace those of `glyph_vit`.
        threads: CPU threads that the run was made with; whoever calls `pretrain` sets them.
        log_every: Steps between log lines.
        checkpoint_every: Steps between checkpoints.
    """

    seed: int = 0
    steps: int = 6000
    warmup_steps: int = 200
    decay_steps: int = 1500
    lr: float = 7e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    plain_images: int = 20_000
    ramp_images: int = 130_000
    precision: str = "bfloat16"
    rendering: RenderSettings = field(default_factory=RenderSettings)
    sizes: tuple[CanvasSize, ...] = field(default_factory=_default_sizes)
    loss_weights: dict[str, float] = field(default_factory=_default_weights)
    architecture: dict[str, Any] = field(default_factory=dict)
    threads: int = 2
    log_every: int = 100
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(f"precision '{self.precision}' is none of {sorted(_PRECISIONS)}")
        unknown = set(self.loss_weights) - {*TARGETS, "coverage"}
        if unknown:
            raise ValueError(f"loss_weights names unknown targets {sorted(unknown)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PretrainSettings":
        """Settings from plain values, as a YAML file holds them.

        Raises:
            ValueError: If a key is unknown or a value is not allowed.
        """
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}")
        converted = dict(values)
        if "rendering" in converted:
            converted["rendering"] = RenderSettings(**converted["rendering"])
        if "sizes" in converted:
            converted["sizes"] = tuple(CanvasSize(**size) for size in converted["sizes"])
        if "betas" in converted:
            first, second = converted["betas"]
            converted["betas"] = (float(first), float(second))
        return cls(**converted)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: warm-up, constant, linear decay to zero."""
        rise = (step + 1) / max(1, self.warmup_steps)
        fall = (self.steps - step) / max(1, self.decay_steps)
        return self.lr * max(0.0, min(1.0, rise, fall))

    def difficulty_at(self, images: int) -> float:
        """Difficulty of the images after this many."""
        return min(1.0, max(0.0, (images - self.plain_images) / max(1, self.ramp_images)))

    def size_at(self, step: int) -> CanvasSize:
        """The image size of a step, drawn from `sizes`."""
        random = torch.Generator().manual_seed(mix_seed(self.seed, step))
        weights = torch.tensor([size.probability for size in self.sizes])
        return self.sizes[int(torch.multinomial(weights, 1, generator=random))]


class PretrainModel(nn.Module):
    """The backbone with one linear head per target, and one per patch for the coverage."""

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone: VisionTransformer = glyph_vit(
            num_classes=0, dynamic_img_size=True, **architecture
        )
        width = self.backbone.embed_dim
        self.patch_size = int(self.backbone.patch_embed.patch_size[0])
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in TARGETS.items()})
        self.coverage = nn.Linear(width, self.patch_size**2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per target (B, C), and "coverage" logits (B, 1, H, W), for images in 0..1."""
        tokens = self.backbone.forward_features((images - 0.5) / 0.5)
        logits = {name: head(tokens[:, 0]).float() for name, head in self.heads.items()}
        height = images.shape[2] // self.patch_size
        pixels = self.coverage(tokens[:, 1:]).float().unflatten(1, (height, -1))
        logits["coverage"] = F.pixel_shuffle(pixels.permute(0, 3, 1, 2), self.patch_size)
        return logits


def pretrain(
    settings: PretrainSettings,
    *,
    checkpoint: Path | None = None,
    log: Callable[[str], None] | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Trains from scratch, or goes on from the checkpoint where there is one.

    The same settings give bit-identical weights with and without an interruption, on the same
    build and number of threads.

    Args:
        settings: Every setting of the run.
        checkpoint: A safetensors file, read if it exists and rewritten every `checkpoint_every`
            steps and at the end.
        log: Called with one line every `log_every` steps.
        stop_after: Stops before this step, as an interruption would.

    Returns:
        The backbone alone, fp32.

    Raises:
        FloatingPointError: If the loss is not finite; the last checkpoint stays.
    """
    torch.manual_seed(settings.seed)
    model = PretrainModel(settings.architecture)
    working = copy.deepcopy(model).to(_PRECISIONS[settings.precision])
    for block in working.backbone.blocks:
        # The fused attention's backward takes half of a training step on the CPU.
        block.attn.fused_attn = False
    optimizer = _build_optimizer(model, settings)
    renderer = GlyphRenderer(settings.seed, settings.rendering)
    start, images = 0, 0
    if checkpoint is not None and checkpoint.exists():
        start, images = load_checkpoint(checkpoint, model, optimizer)
    meter = _Meter()
    end = settings.steps if stop_after is None else min(stop_after, settings.steps)
    for step in range(start, end):
        canvas = settings.size_at(step)
        batch = renderer.render(
            canvas.batch_size,
            size=canvas.size,
            difficulty=settings.difficulty_at(images),
            step=step,
        )
        lr = settings.lr_at(step)
        loss, logits = _train_step(model, working, optimizer, batch, lr=lr, settings=settings)
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss is {loss} at step {step}, lr {lr:g}")
        images += canvas.batch_size
        meter.update(loss, logits, batch)
        if log is not None and (step + 1) % settings.log_every == 0:
            difficulty = settings.difficulty_at(images)
            log(f"step {step + 1} images {images} difficulty {difficulty:.2f} lr {lr:.2e} {meter}")
            meter = _Meter()
        if checkpoint is not None and (
            (step + 1) % settings.checkpoint_every == 0 or step + 1 == end
        ):
            save_checkpoint(checkpoint, model, optimizer, step=step + 1, images=images)
    backbone: nn.Module = model.backbone
    return backbone


def _train_step(
    model: nn.Module,
    working: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: RenderedBatch,
    *,
    lr: float,
    settings: PretrainSettings,
) -> tuple[float, dict[str, Tensor]]:
    """Forward and backward on a copy at the working precision, the update on the fp32 weights."""
    with torch.no_grad():
        for copied, master in zip(working.parameters(), model.parameters(), strict=True):
            copied.copy_(master)
            copied.grad = None
    precision = _PRECISIONS[settings.precision]
    logits = working(batch.images.to(precision))
    loss = compute_loss(logits, batch, settings.loss_weights)
    loss.backward()  # type: ignore[no-untyped-call]
    for copied, master in zip(working.parameters(), model.parameters(), strict=True):
        master.grad = None if copied.grad is None else copied.grad.float()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return loss.item(), logits


def compute_loss(
    logits: Mapping[str, Tensor], batch: RenderedBatch, weights: Mapping[str, float]
) -> Tensor:
    """Weighted sum of the cross-entropies and of the coverage's binary cross-entropy."""
    total = torch.zeros(())
    for name, weight in weights.items():
        if name == "coverage":
            part = F.binary_cross_entropy_with_logits(logits[name], batch.coverage)
        else:
            target = batch.targets[name]
            summed = F.cross_entropy(logits[name], target, ignore_index=IGNORED, reduction="sum")
            part = summed / max(1, int((target != IGNORED).sum()))
        total = total + weight * part
    return total


def _build_optimizer(model: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)


class _Meter:
    """Loss, accuracies and speed since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._images = 0
        self._losses: list[float] = []
        self._correct: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def update(self, loss: float, logits: Mapping[str, Tensor], batch: RenderedBatch) -> None:
        self._images += len(batch.images)
        self._losses.append(loss)
        for name, target in batch.targets.items():
            correct = int((logits[name].argmax(1) == target).sum())
            self._correct[name] = self._correct.get(name, 0) + correct
            self._seen[name] = self._seen.get(name, 0) + int((target != IGNORED).sum())
        covered = (logits["coverage"] > 0) == (batch.coverage > 0.5)
        self._correct["coverage"] = self._correct.get("coverage", 0) + int(covered.sum())
        self._seen["coverage"] = self._seen.get("coverage", 0) + covered.numel()

    def __str__(self) -> str:
        loss = sum(self._losses) / max(1, len(self._losses))
        speed = self._images / (time.perf_counter() - self._start)
        shares = (f"{n} {c / max(1, self._seen[n]):.3f}" for n, c in self._correct.items())
        return f"loss {loss:.4f} {' '.join(shares)} images/s {speed:.0f}"


def _named_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
    for name, parameter in model.named_parameters():
        yield name, parameter, optimizer.state[parameter]


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, images: int
) -> None:
    """Writes weights, AdamW's moments and the counters; the old file stays until this is done."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, _, state in _named_moments(model, optimizer):
        for key, value in state.items():
            tensors[f"optimizer.{name}.{key}"] = value
    counters = json.dumps({"step": step, "images": images})
    write_tensors(path, tensors, {"counters": counters})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int]:
    """Restores model and optimiser in place; returns the next step and the images seen."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        counters = json.loads(file.metadata()["counters"])
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter, _ in _named_moments(model, optimizer):
        optimizer.state[parameter] = {
            key: tensors[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return counters["step"], counters["images"]


def export_weights(
    checkpoint: Path, path: Path, *, settings: PretrainSettings, date: str
) -> dict[str, str]:
    """Writes the backbone of a checkpoint as fp16, with what made it in the header.

    Args:
        checkpoint: Written by `pretrain`.
        path: Of the file to write.
        settings: Of the run.
        date: Of the run, ISO 8601.

    Returns:
        The header's metadata.
    """
    tensors, metadata = read_weights(checkpoint, "model.backbone.")
    metadata |= {
        "model": "glyph_vit",
        "trained_on": "images rendered by vpt.backbones.bundled.rendering; no digits",
        "date": date,
        "seed": str(settings.seed),
        "architecture": json.dumps({**ARCHITECTURE, **settings.architecture}),
        "settings": json.dumps(asdict(settings)),
    }
    write_tensors(path, tensors, metadata)
    return metadata


def read_weights(checkpoint: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors of a checkpoint below a prefix, as fp16; what a header says of any run)."""
    with safe_open(checkpoint, framework="pt") as file:
        counters = json.loads(file.metadata()["counters"])
        tensors = {
            name.removeprefix(prefix): file.get_tensor(name).half()
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
    metadata = {
        "format": "pt",
        "license": "Apache-2.0",
        "images": str(counters["images"]),
        "steps": str(counters["step"]),
    }
    return tensors, metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replaces a file as a whole; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    temporary.replace(path)
