"""What runs of either task take from their config: the backbone, plain numbers for the loop."""

from __future__ import annotations

import torch

from vpt.backbones import Backbone, create_backbone
from vpt.config import AnyRunConfig, OptimConfig
from vpt.engine.fit import FitSettings, steps_per_epoch
from vpt.engine.optim import OptimSettings
from vpt.seeding import derive_seed


def backbone_of(config: AnyRunConfig) -> Backbone:
    """The backbone of a config.

    Where no weights are loaded, the random ones are the seed's: a run must find them again.
    """
    torch.manual_seed(derive_seed("backbone", config.seed))
    return create_backbone(
        config.backbone.name,
        pretrained=config.backbone.pretrained,
        weights=config.backbone.weights,
        image_size=config.backbone.image_size,
        pool=config.backbone.pool,
    )


def fit_settings(config: AnyRunConfig, images: int) -> FitSettings:
    """Plain numbers for `fit`, without those of a task's own loss.

    Args:
        config: checked.
        images: for training.
    """
    train, optim = config.train, config.optim
    steps = steps_per_epoch(-(-images // config.data.batch_size), optim.accumulation)
    return FitSettings(
        optim=_optim_settings(optim, steps),
        seed=config.seed,
        epochs=train.epochs,
        max_steps=train.max_steps,
        max_hours=train.max_hours,
        accumulation=optim.accumulation,
        clip_grad_norm=optim.clip_grad_norm,
        precision=train.precision,
        select=train.select or "top1",
        evaluate_every=train.evaluate_every,
        early_stopping=train.early_stopping,
        checkpoint_seconds=train.checkpoint_seconds,
        log_every=train.log_every,
        compile_mode=train.compile,
        grad_checkpointing=train.grad_checkpointing,
    )


def _optim_settings(optim: OptimConfig, steps_per_epoch: int) -> OptimSettings:
    """A detector's neck learns as its head does."""
    head_lr, head_decay = optim.head_lr or optim.lr, optim.head_weight_decay
    head_decay = optim.weight_decay if head_decay is None else head_decay
    return OptimSettings(
        name=optim.name,
        lr={
            "prompt": optim.lr,
            "neck": head_lr,
            "head": head_lr,
            "backbone": optim.backbone_lr or optim.lr,
        },
        weight_decay={
            "prompt": optim.weight_decay,
            "neck": head_decay,
            "head": head_decay,
            "backbone": optim.weight_decay,
        },
        momentum=optim.momentum,
        betas=optim.betas,
        schedule=optim.schedule,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        warmup_lr=optim.warmup_lr,
        min_lr=optim.min_lr,
        steps_per_epoch=steps_per_epoch,
    )
