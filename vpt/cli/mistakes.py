"""What was probably meant, where a command line is refused before a command begins."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_CONFIG_COMMANDS = {"train": "", "probe": "", "benchmark-data": "", "quickstart": "base."}
"""The commands that take key=value of a run's config, and what stands before its keys."""

_IMAGES = ("data", "images", "image", "input", "source")
"""What other programs call the images to predict."""

_OTHER_WORDS = {
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "cuda": "train.device",
    "data": "data.dataset",
    "gpu": "train.device",
    "learning_rate": "optim.lr",
    "model": "backbone.name",
    "out": "run_dir",
    "output": "run_dir",
    "output_dir": "run_dir",
    "wd": "optim.weight_decay",
    "workers": "data.num_workers",
}
"""What other programs call a key."""


def refusal(error: Any, words: Sequence[str]) -> str:
    """The one line for an error of the command line's own parser.

    Args:
        error: of typer's click.
        words: of the command line.
    """
    message = " ".join(error.format_message().split()).replace("Value error, ", "")
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    if context is None:
        return message
    command = f"{context.info_name or ''}"
    if kind == "NoSuchOption":
        if hint := _of_option(error.option_name, command, words):
            return f"{error.message}{hint}"
        return f"{message}; {context.command_path} --help lists all"
    if kind == "MissingParameter":
        usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
        needed = " --data DATA" if "'--data'" in message else ""
        return f"{message.rstrip('.')}; usage: {re.sub('[{}]', '', usage)}{needed}"
    if found := re.match("No such command '(.*?)'", message):
        hint = _of_command(found[1], words)
        return message + (hint or ("" if "?" in message else " vpt --help lists the commands."))
    return message + _near_choice(message)


def _near_choice(message: str) -> str:
    """What may have been meant by a value that is not one of those listed behind it."""
    found = re.search("'([^']*)' is not one of (.*)", message)
    if found is None:
        return ""
    near = difflib.get_close_matches(found[1], re.findall("'([^']*)'", found[2]), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _of_option(option: str, command: str, words: Sequence[str]) -> str:
    """The keys of the config that an unknown option probably stands for, ready to be written."""
    given = next((word for word in words if word.startswith(option)), option)
    name, value = _name_and_value(given, words)
    if command in ("predict", "show") and name in _IMAGES:
        return f"; images are named without an option: vpt predict PROMPT.safetensors {value}"
    if command not in _CONFIG_COMMANDS:
        return ""
    if name in ("config", "cfg"):
        return f"; the config is named without an option: vpt {command} {value}"
    prefix = _CONFIG_COMMANDS[command]
    keys = [f"{prefix}{key}={value}" for key in _keys_like(name)]
    if not keys:
        return ""
    settings = " or ".join(shlex.quote(key) for key in keys)
    return f"; a key of the config is set without dashes: write {settings}"


def _name_and_value(word: str, words: Sequence[str]) -> tuple[str, str]:
    """An option's name in a config's letters, and the value that follows it."""
    name, equals, value = word.lstrip("-").partition("=")
    if not equals:
        place = list(words).index(word)
        rest = [each for each in words[place + 1 : place + 2] if not each.startswith("-")]
        value = rest[0] if rest else "VALUE"
    name = name.replace("-", "_")
    if name in ("gpu", "cuda") and value.isdigit():
        value = f"cuda:{value}"
    return name, value


def _keys_like(name: str) -> list[str]:
    """The keys of a run's config that have a name, whole or as last part; at most three."""
    known = list(dict.fromkeys(_known_keys()))
    if name in _OTHER_WORDS:
        return [_OTHER_WORDS[name]]
    if name in known:
        return [name]
    last = {key: key.rpartition(".")[2] for key in known}
    named = [key for key in known if last[key] == name]
    if not named:
        near = difflib.get_close_matches(name, set(last.values()), n=1, cutoff=0.8)
        named = [key for key in known if last[key] in near]
    return named[:3]


def _known_keys() -> Iterator[str]:
    from vpt.config import DetectionRunConfig, RunConfig, key_names
    from vpt.registry import HEADS, PROMPTS

    for schema in (RunConfig, DetectionRunConfig):
        yield from key_names(schema)
    for section, registry in (("prompt", PROMPTS), ("head", HEADS)):
        for name in registry.names():
            yield from (f"{section}.{key}" for key in registry[name].schema.model_fields)


def _of_command(word: str, words: Sequence[str]) -> str:
    """The command that a file or folder in a command's place probably wants."""
    path, place = Path(word), list(words).index(word) if word in words else 0
    rest = shlex.join(words[place + 1 :])
    if path.suffix in (".yaml", ".yml") and not place:
        return f" Write: vpt train {shlex.join(words)}"
    if path.suffix == ".safetensors":
        return f" Write: vpt predict {path} {rest or 'IMAGE_OR_FOLDER'}"
    if place and path.exists():
        return f" Write: vpt {shlex.join(words[:place])} check {shlex.join(words[place:])}"
    if path.is_dir():
        return f" Write: vpt data check {path}, or vpt train CONFIG.yaml data.dataset={path}"
    return ""
