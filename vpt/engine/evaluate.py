"""One pass over a split without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from vpt.engine.device import autocast
from vpt.evaluation import Evaluator
from vpt.models import Classifier
from vpt.structures import Batch


@torch.no_grad()
def evaluate(
    model: Classifier,
    batches: Iterable[Batch],
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
        for batch in batches:
            batch = batch.to(device)
            with autocast(device, precision):
                logits = model(batch.images)
            evaluator.update(logits, batch.labels)
            after_batch(len(batch.labels))
    finally:
        model.train(training)
    return evaluator.compute()
