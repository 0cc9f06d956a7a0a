"""One pass over a split without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from vpt.engine.acceleration import accelerated
from vpt.engine.device import autocast
from vpt.engine.distributed import on_first, rounds, world_size
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

    Several processes each compute their batches; the first one's evaluator gets all outputs in
    the order of the batches, and every process its metrics.

    Args:
        model: is put in eval, and left as it was.
        batches: of one split; of N processes the first has batches 0, N, 2N, the next 1, N + 1.
        evaluator: is reset first; afterwards it can be asked for more, e.g. a confusion matrix.
        device: where the model is.
        precision: 'fp32', 'bf16' or 'fp16'.
        after_batch: called with the number of images of each batch, by several processes together
            after each has computed one; may raise to stop.
    """
    training = model.training
    model.eval()
    evaluator.reset()
    try:
        with accelerated(model, precision):
            for observed in rounds(_observations(model, batches, device, precision)):
                for outputs, labels in observed:
                    evaluator.update(outputs, labels)
                after_batch(sum(len(labels) for _, labels in observed))
    finally:
        model.train(training)
    return on_first(evaluator.compute)


def _observations(
    model: PromptedModel, batches: Iterable[AnyBatch], device: torch.device, precision: str
) -> Iterator[tuple[Any, Any]]:
    for batch in batches:
        with autocast(device, precision):
            outputs, labels = _observed(model, batch.to(device))
        yield (outputs, labels) if world_size() == 1 else (_on_cpu(outputs), _on_cpu(labels))


def _on_cpu(outputs: Any) -> Any:
    """Logits, labels, or the detections of each image, ready for another process."""
    return [each.to("cpu") for each in outputs] if isinstance(outputs, list) else outputs.cpu()


def _observed(model: PromptedModel, batch: AnyBatch) -> tuple[Any, Any]:
    """(what the model says, what it is compared by): logits and labels, or boxes and indices."""
    if isinstance(batch, DetectionBatch):
        assert isinstance(model, Detector)
        return model.predict(batch.images, batch.letterboxes), batch.indices
    return model(batch.images), batch.labels
