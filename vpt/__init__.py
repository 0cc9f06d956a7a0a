"""Visual prompt tuning: one frozen vision transformer, one small file per task."""

from importlib.metadata import version

from vpt.backbones import Backbone, list_backbones
from vpt.data import create_transform
from vpt.engine.prompt_file import read_prompt_header
from vpt.errors import (
    BackboneError,
    ConfigError,
    DataError,
    PromptFileError,
    RunError,
    VptError,
)
from vpt.experiment import create_model, list_prompts, load_prompt, save_prompt
from vpt.models import Classifier
from vpt.prompts import Prompt
from vpt.structures import Features, Preprocess

__version__ = version("vpt")

__all__ = [
    "Backbone",
    "BackboneError",
    "Classifier",
    "ConfigError",
    "DataError",
    "Features",
    "Preprocess",
    "Prompt",
    "PromptFileError",
    "RunError",
    "VptError",
    "create_model",
    "create_transform",
    "list_backbones",
    "list_prompts",
    "load_prompt",
    "read_prompt_header",
    "save_prompt",
]
