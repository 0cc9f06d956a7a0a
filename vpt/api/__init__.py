"""Models by name, and their prompt files."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.api.banks import PromptBank
    from vpt.api.models import create_detector, create_model, list_prompts
    from vpt.api.prompt_files import (
        check_saveable,
        check_weights,
        load_detector,
        load_prompt,
        save_prompt,
    )
    from vpt.api.texts import check_head
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "PromptBank",
    "check_head",
    "check_saveable",
    "check_weights",
    "create_detector",
    "create_model",
    "list_prompts",
    "load_detector",
    "load_prompt",
    "save_prompt",
]
