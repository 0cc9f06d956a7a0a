"""No prompt: a linear probe, or the baseline that trains backbone tensors."""

from __future__ import annotations

from vpt.config import Schema
from vpt.prompts.base import Prompt
from vpt.registry import PROMPTS
from vpt.structures import Dimensions


class NoPromptOptions(Schema):
    """No options."""


class NoPrompt(Prompt):
    """The backbone as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.options = {"name": "none"}


def _build(at: Dimensions) -> NoPrompt:
    del at
    return NoPrompt()


PROMPTS.register("none", NoPromptOptions, _build)
