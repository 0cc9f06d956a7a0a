"""Visual prompt tuning: one frozen vision transformer, one small file per task.

The names below are loaded when they are first used, so that `import vpt` and `vpt --help` cost
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.api import (
        PromptBank,
        create_detector,
        create_model,
        list_prompts,
        load_detector,
        load_prompt,
        save_prompt,
    )
    from vpt.backbones import Backbone, list_backbones
    from vpt.data import create_transform, read_image
    from vpt.engine.prompt_file import read_prompt_header
    from vpt.errors import (
        BackboneError,
        ConfigError,
        DataError,
        PromptFileError,
        RunError,
        VptError,
    )
    from vpt.models import Classifier, Detector
    from vpt.prompts import Prompt
    from vpt.structures import Features, Preprocess
    from vpt.text import TextClassifier, TextTower, build_classifier, create_text_tower

    __version__: str
else:
    _load, _ = lazy_names(__name__)

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("vpt")
        return _load(name)

    def __dir__() -> list[str]:
        return __all__


__all__ = [
    "Backbone",
    "BackboneError",
    "Classifier",
    "ConfigError",
    "DataError",
    "Detector",
    "Features",
    "Preprocess",
    "Prompt",
    "PromptBank",
    "PromptFileError",
    "RunError",
    "TextClassifier",
    "TextTower",
    "VptError",
    "__version__",
    "build_classifier",
    "create_detector",
    "create_model",
    "create_text_tower",
    "create_transform",
    "list_backbones",
    "list_prompts",
    "load_detector",
    "load_prompt",
    "read_image",
    "read_prompt_header",
    "save_prompt",
]
