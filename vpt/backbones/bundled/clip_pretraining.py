"""Trains the bundled CLIP on rendered pictures with captions: loop, settings, export."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from vpt.backbones.bundled.captioned import CaptionedRenderer, CaptionSettings, caption_words
from vpt.backbones.bundled.glyph_clip import CONFIG, start_from_glyph_vit
from vpt.backbones.bundled.glyph_vit import glyph_vit
from vpt.backbones.bundled.pretraining import (
    load_checkpoint,
    read_weights,
    save_checkpoint,
    write_tensors,
)

_MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class ClipPretrainSettings:
    """Every setting of a pretraining run.

    Attributes:
        seed: of the weights that are new and of the rendered pictures.
        steps: optimiser steps.
        batch_size: pictures per step, all of them contrasted with each other.
        warmup_steps: the rates rise linearly over these, then fall as a cosine to zero.
        image_lr: peak rate of the image tower, which starts as `glyph_vit`.
        text_lr: peak rate of the text tower, the projections and the scale.
        weight_decay: of matrices; vectors, embeddings and the scale have none.
        betas: of AdamW.
        clip_norm: largest norm of the gradient.
        pictures: what is rendered.
        threads: CPU threads that the run was made with; whoever calls `pretrain_clip` sets them.
        log_every: steps between log lines.
        checkpoint_every: steps between checkpoints.
    """

    seed: int = 0
    steps: int = 3000
    batch_size: int = 256
    warmup_steps: int = 100
    image_lr: float = 3e-4
    text_lr: float = 2e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    pictures: CaptionSettings = field(default_factory=CaptionSettings)
    threads: int = 2
    log_every: int = 50
    checkpoint_every: int = 100

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipPretrainSettings:
        """Settings from plain values, as a YAML file holds them.

        Raises:
            ValueError: a key is unknown.
        """
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"unknown settings {sorted(unknown)}")
        converted = dict(values)
        if "pictures" in converted:
            converted["pictures"] = CaptionSettings(**converted["pictures"])
        if "betas" in converted:
            converted["betas"] = tuple(float(beta) for beta in converted["betas"])
        return cls(**converted)

    def rate_at(self, step: int) -> float:
        """Share of the peak rates at a step."""
        rise = (step + 1) / max(1, self.warmup_steps)
        done = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return min(1.0, rise) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Vocabulary:
    """The tokens that the captions have, numbered anew, so that no others are trained.

    Their order is kept: the end of a text stays the greatest of its tokens.
    """

    def __init__(self) -> None:
        self.tokenizer = open_clip.get_tokenizer(CONFIG.stem)
        self.tokens: Tensor = self.tokenizer(caption_words()).unique()

    def __call__(self, captions: list[str]) -> Tensor:
        """(K, L) numbers in `tokens`.

        Raises:
            ValueError: a caption has a token that was not seen.
        """
        rows = self.tokenizer(captions)
        numbers = torch.searchsorted(self.tokens, rows).clamp_(max=len(self.tokens) - 1)
        if not torch.equal(self.tokens[numbers], rows):
            raise ValueError("a caption has a token that is not in the vocabulary")
        return numbers


def build_model(settings: ClipPretrainSettings, vocabulary: Vocabulary) -> Any:
    """The model of the packaged config with few words, its image tower as `glyph_vit`."""
    torch.manual_seed(settings.seed)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    config["text_cfg"]["vocab_size"] = len(vocabulary.tokens)
    model = open_clip.CLIP(**config)
    # open_clip leaves these to the checkpoint that it expects.
    text: Any = open_clip.model._build_text_tower(config["embed_dim"], config["text_cfg"])
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in text.named_parameters():
            own[name].copy_(tensor)
    start_from_glyph_vit(model.visual, glyph_vit(pretrained=True, num_classes=0))
    return model


def pretrain_clip(
    settings: ClipPretrainSettings,
    *,
    checkpoint: Path | None = None,
    log: Callable[[str], None] | None = None,
    stop_after: int | None = None,
) -> Any:
    """Trains from the start, or goes on from the checkpoint where there is one.

    The same settings give bit-identical weights with and without an interruption, on the same
    build and number of threads.

    Args:
        settings: every setting of the run.
        checkpoint: a safetensors file, read if it exists and rewritten every `checkpoint_every`
            steps and at the end.
        log: called with one line every `log_every` steps.
        stop_after: stops before this step, as an interruption would.

    Returns:
        open_clip's model, fp32, with the vocabulary's words only.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays.
    """
    renderer = CaptionedRenderer(settings.seed, settings.pictures)
    vocabulary = Vocabulary()
    model = build_model(settings, vocabulary)
    optimizer = _build_optimizer(model, settings)
    start, images = 0, 0
    if checkpoint is not None and checkpoint.exists():
        start, images = load_checkpoint(checkpoint, model, optimizer)
    meter = _Meter()
    end = settings.steps if stop_after is None else min(stop_after, settings.steps)
    for step in range(start, end):
        batch = renderer.render(settings.batch_size, step=step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * settings.rate_at(step)
        pictures = model.encode_image((batch.images - 0.5) / 0.5, normalize=True)
        texts = model.encode_text(vocabulary(batch.captions), normalize=True)
        similarity = pictures @ texts.T
        loss = contrastive_loss(model.logit_scale.exp() * similarity, batch.matches)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, _MAX_LOG_SCALE)
        images += settings.batch_size
        meter.update(loss.item(), similarity.detach(), batch.matches)
        if log is not None and (step + 1) % settings.log_every == 0:
            log(f"step {step + 1} images {images} scale {model.logit_scale.exp():.1f} {meter}")
            meter = _Meter()
        if checkpoint is not None and (
            (step + 1) % settings.checkpoint_every == 0 or step + 1 == end
        ):
            save_checkpoint(checkpoint, model, optimizer, step=step + 1, images=images)
    return model


def contrastive_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Cross entropy between pictures and captions (B, B), both ways, mean.

    A picture may have several true captions (B, B): its target is spread over them evenly.
    """
    return 0.5 * (_one_way(logits, matches) + _one_way(logits.T, matches.T))


def _one_way(logits: Tensor, matches: Tensor) -> Tensor:
    target = matches.float() / matches.sum(dim=1, keepdim=True)
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def _build_optimizer(model: nn.Module, settings: ClipPretrainSettings) -> torch.optim.Optimizer:
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        image = name.startswith("visual.") and not name.endswith("visual.proj")
        decayed = parameter.ndim > 1 and "embedding" not in name
        group = groups.setdefault(
            (image, decayed),
            {
                "params": [],
                "peak_lr": settings.image_lr if image else settings.text_lr,
                "weight_decay": settings.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return torch.optim.AdamW(groups.values(), lr=1.0, betas=settings.betas)


class _Meter:
    """Loss, the share of pictures whose nearest caption is true, and speed, since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._losses: list[float] = []
        self._right = 0
        self._images = 0

    def update(self, loss: float, similarity: Tensor, matches: Tensor) -> None:
        self._losses.append(loss)
        nearest = similarity.argmax(dim=1, keepdim=True)
        self._right += int(matches.gather(1, nearest).sum())
        self._images += len(matches)

    def __str__(self) -> str:
        speed = self._images / (time.perf_counter() - self._start)
        loss = sum(self._losses) / max(1, len(self._losses))
        return f"loss {loss:.3f} right {self._right / self._images:.3f} ({speed:.0f} images/s)"


def export_clip(
    checkpoint: Path, path: Path, *, settings: ClipPretrainSettings, date: str
) -> dict[str, str]:
    """Writes both towers of a checkpoint as fp16, in the full vocabulary, unknown words zero.

    Args:
        checkpoint: written by `pretrain_clip`.
        path: of the file to write.
        settings: of the run.
        date: of the run, ISO 8601.

    Returns:
        The header's metadata.
    """
    vocabulary = Vocabulary()
    size = json.loads(CONFIG.read_text(encoding="utf-8"))["text_cfg"]["vocab_size"]
    tensors, metadata = read_weights(checkpoint, "model.")
    few = tensors["token_embedding.weight"]
    full = torch.zeros(size, few.shape[1], dtype=few.dtype)
    full[vocabulary.tokens] = few
    tensors["token_embedding.weight"] = full
    metadata |= {
        "model": "glyph_clip",
        "trained_on": "pictures rendered by vpt.backbones.bundled.captioned; no real handwriting",
        "date": date,
        "seed": str(settings.seed),
        "settings": json.dumps(asdict(settings)),
    }
    write_tensors(path, tensors, metadata)
    return metadata
