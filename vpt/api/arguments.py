"""What is checked of the arguments of `create_model` and `create_detector` first of all."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

from vpt.errors import ConfigError
from vpt.limits import MAX_CLASSES
from vpt.registry import PROMPTS


def check_num_classes(value: Any) -> None:
    """Refuse anything but a number of classes.

    Raises:
        ConfigError: naming the value.
    """
    if value is None:
        return
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= MAX_CLASSES:
        hint = f"; write num_classes={value}" if isinstance(value, str) and value.isdigit() else ""
        rule = f"num_classes must be an integer from 1 to {MAX_CLASSES:,}"
        raise ConfigError(f"{rule}, not {value!r}{hint}")


def check_options(function: Callable[..., Any], prompt: Any, options: Mapping[str, Any]) -> None:
    """Refuse keywords that are no argument of a function and no option of the prompt it is given.

    Args:
        function: that takes the keywords.
        prompt: as the function was given it.
        options: the keywords that are none of its own arguments.

    Raises:
        ConfigError: naming the nearest argument or option.
    """
    name = prompt.get("name") if isinstance(prompt, Mapping) else prompt
    if not options or (isinstance(name, str) and name not in PROMPTS.names()):
        return  # the name's own error says more
    own = [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    of_prompt = list(PROMPTS[name].schema.model_fields) if isinstance(name, str) else []
    for option in options:
        if option in of_prompt:
            continue
        raise ConfigError(
            f"{function.__name__} has no argument '{option}'"
            f"{_meant(option, [*own, *of_prompt]) or _of_another_prompt(option, prompt)}"
        )


def _meant(option: str, known: list[str]) -> str:
    found = difflib.get_close_matches(option, known, n=1, cutoff=0.75)
    return f"; did you mean '{found[0]}'?" if found else ""


def _of_another_prompt(option: str, prompt: Any) -> str:
    """A hint at the prompts that have such an option, where the one that was given has not."""
    schemas = {name: list(PROMPTS[name].schema.model_fields) for name in PROMPTS.names()}
    names = {key for fields in schemas.values() for key in fields}
    found = difflib.get_close_matches(option, sorted(names), n=1, cutoff=0.75)
    if not found:
        return ""
    if not isinstance(prompt, str | Mapping):
        return f"; '{found[0]}' belongs into the prompt itself, which is given whole"
    having = [name for name, fields in schemas.items() if found[0] in fields]
    best = next((name for name in having if name == "vpt_deep"), having[0])
    return f"; '{found[0]}' is an option of {', '.join(having)}: give e.g. prompt='{best}'"
