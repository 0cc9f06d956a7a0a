"""One pass over a split without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from vpt.engine.acceleration import accelerated
from vpt.engine.device import autocast
from vpt.evaluation import Evaluator
from vpt.models import Detector, PromptedModel
from vpt.structures import AnyBatch, DetectionBatch


@torch.no_grad()
def evaluate(
    model: PromptedModel,
    batches: Iterable[AnyBatch],
    evaluator: Evaluator,
    *,
    device: torch.device,
    precision: str = "fp32",
    after_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
    """The evaluator's metrics of a model on batches.

    Args:
        model: is put in eval, and left as it was.
        batches: of one split.
        evaluator: is reset first; afterwards it can be asked for more, e.g. a confusion matrix.
        device: where the model is.
        precision: 'fp32', 'bf16' or 'fp16'.
        after_batch: called with the number of images of each batch; may raise to stop.
    """
    training = model.training
    model.eval()
    evaluator.reset()
    try:
        with accelerated(model, precision):
            for batch in batches:
                batch = batch.to(device)
                with autocast(device, precision):
                    evaluator.update(*_observed(model, batch))
                after_batch(len(batch.images))
    finally:
        model.train(training)
    return evaluator.compute()


def _observed(model: PromptedModel, batch: AnyBatch) -> tuple[Any, Any]:
    """(what the model says, what it is compared by): logits and labels, or boxes and indices."""
    if isinstance(batch, DetectionBatch):
        assert isinstance(model, Detector)
        return model.predict(batch.images, batch.letterboxes), batch.indices
    return model(batch.images), batch.labels
