"""Which of two validations is the better one: the rule by which epochs and probes are chosen."""

from __future__ import annotations

from collections.abc import Mapping


def is_better(now: Mapping[str, float], best: Mapping[str, float] | None, select: str) -> bool:
    """Whether metrics beat the best so far.

    A tie goes to the lower validation loss: accuracies of a few hundred images are often equal,
    and the loss still tells which model is surer of what is right. Of equal losses, and where no
    loss is measured (boxes), the earlier one stays.

    Args:
        now: metrics of a validation.
        best: those of the best before; None: there is none.
        select: the metric to go by, higher is better but for 'loss'; 'last' takes any newer one.
    """
    if best is None or select == "last":
        return True
    if select != "loss" and now[select] != best[select]:
        return now[select] > best[select]
    return "loss" in now and "loss" in best and now["loss"] < best["loss"]
