"""Configurations: reading, checking and writing them; the only place that knows YAML."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.config.detection import (
        AnyRunConfig,
        DetectionRunConfig,
        load_config,
    )
    from vpt.config.registered import Registered
    from vpt.config.run import (
        BoxTransformConfig,
        HeadConfig,
        OptimConfig,
        PromptConfig,
        RunConfig,
        TransformConfig,
        json_schema,
    )
    from vpt.config.schema import AtMost, Schema, key_names, validate
    from vpt.config.yaml_text import dump, load_foreign_yaml, load_yaml
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AnyRunConfig",
    "AtMost",
    "BoxTransformConfig",
    "DetectionRunConfig",
    "HeadConfig",
    "OptimConfig",
    "PromptConfig",
    "Registered",
    "RunConfig",
    "Schema",
    "TransformConfig",
    "dump",
    "json_schema",
    "key_names",
    "load_config",
    "load_foreign_yaml",
    "load_yaml",
    "validate",
]
