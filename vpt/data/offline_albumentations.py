"""Albumentations; without this, importing it asks its makers' server for a newer version."""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A  # noqa: N812 (its own convention)

__all__ = ["A"]
