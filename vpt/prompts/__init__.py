"""Prompt methods: each a file with its options, its module and its registration."""

from vpt.prompts.base import Prompt, PromptList, build_prompt
from vpt.prompts.none import NoPrompt
from vpt.prompts.pixels import PixelPrompt
from vpt.prompts.tokens import TokenPrompt

__all__ = ["NoPrompt", "PixelPrompt", "Prompt", "PromptList", "TokenPrompt", "build_prompt"]
