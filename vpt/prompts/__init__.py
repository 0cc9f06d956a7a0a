"""Prompt methods: one file each; their options and registrations are in `options.py`."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.prompts.adapter import AdapterPrompt
    from vpt.prompts.base import Prompt, PromptList, build_prompt
    from vpt.prompts.gated import GatedPrompt
    from vpt.prompts.key_value import KeyValuePrompt
    from vpt.prompts.kv_bias import BiasPrompt
    from vpt.prompts.lora import LoraPrompt
    from vpt.prompts.none import NoPrompt
    from vpt.prompts.pixels import PixelPatch, PixelPrompt
    from vpt.prompts.tokens import TokenPrompt
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AdapterPrompt",
    "BiasPrompt",
    "GatedPrompt",
    "KeyValuePrompt",
    "LoraPrompt",
    "NoPrompt",
    "PixelPatch",
    "PixelPrompt",
    "Prompt",
    "PromptList",
    "TokenPrompt",
    "build_prompt",
]
