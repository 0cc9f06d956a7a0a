"""No prompt: a linear probe, or the baseline that trains backbone tensors."""

from __future__ import annotations

from vpt.prompts.base import Prompt
from vpt.structures import Dimensions


class NoPrompt(Prompt):
    """The backbone as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.options = {"name": "none"}


def build(at: Dimensions) -> NoPrompt:
    """The method from its checked options."""
    del at
    return NoPrompt()
