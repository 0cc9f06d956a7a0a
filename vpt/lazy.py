"""Packages whose names are loaded when they are first used."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.abc import InspectLoader
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562), with which importing it loads nothing.

    Its names are those that the `if TYPE_CHECKING:` block of its `__init__.py` imports. Editors,
    mypy and import-linter read that block as it stands; here a name's module is imported when the
    name is first asked for. No name may be that of a module in the package, which would hide it.

    Args:
        package: its `__name__`.

    Raises:
        ImportError: the package is installed without its source.
    """
    homes = dict(_imports(package))

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(homes[name]), name)

    return load, lambda: sorted(homes)


def _imports(package: str) -> Iterator[tuple[str, str]]:
    """(name, module that has it) of each import in the block."""
    spec = sys.modules[package].__spec__
    assert spec is not None
    assert isinstance(spec.loader, InspectLoader)
    source = spec.loader.get_source(package)
    if source is None:  # compiled files alone
        raise ImportError(
            f"{package} is installed without its __init__.py, from which its names are read; "
            "install it with its source"
        )
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                if not isinstance(line, ast.ImportFrom):
                    continue
                yield from ((alias.name, f"{line.module}") for alias in line.names)
