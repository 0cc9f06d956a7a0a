"""Albumentations; without this, importing it asks its makers' server for a newer version."""

import os
from importlib.metadata import PackageNotFoundError, version

from vpt.errors import ConfigError


def refuse_other_albumentations() -> None:
    """Refuse AlbumentationsX, which takes the same import name under another licence.

    Raises:
        ConfigError: it is installed.
    """
    try:
        found = version("albumentationsx")
    except PackageNotFoundError:
        return
    raise ConfigError(
        f"albumentationsx {found} is installed in the place of albumentations: pip uninstall "
        "albumentationsx, then pip install --force-reinstall 'albumentations>=2.0.8,<2.1'"
    )


refuse_other_albumentations()
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A  # noqa: E402, N812 (N812: its own convention)

__all__ = ["A"]
