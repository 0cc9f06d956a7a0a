"""The smallest real comparison: two methods, two rates, two seeds on a handful of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RATES = [0.001, 0.01]


def comparison_values(run_dir: Path, data: Path) -> dict[str, Any]:
    """What a comparison's YAML file holds."""
    return {
        "run_dir": str(run_dir),
        "base": {
            "backbone": {"name": "timm/test_vit", "pretrained": False, "image_size": 32},
            "data": {"dataset": str(data), "batch_size": 4, "num_workers": 0, "shots": 2},
            "optim": {"head_lr": 0.01},
            "train": {"epochs": 2, "device": "cpu"},
        },
        "methods": {
            "linear": {"prompt": "none"},
            "vpt_deep": {"prompt": {"name": "vpt_deep", "num_tokens": 2}},
        },
        "learning_rates": {"linear": list(RATES), "vpt_deep": list(RATES)},
        "seeds": [0, 1],
        "trial_seeds": [100],
    }


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    """The values as a YAML file."""
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
