"""What is written about a class: sentences with a place for its name, or sentences of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt.backbones.open_clip_models import imagenet_templates
from vpt.errors import ConfigError
from vpt.registry import nearest
from vpt.storage.whole_file import read_whole_text
from vpt.text.tokenizer import quote

TEMPLATES: dict[str, tuple[str, ...]] = {
    "a_photo": ("a photo of a {}.",),
    **imagenet_templates(),
}
"""The named sets: 'a_photo' (1), 'simple' (7) and 'openai_imagenet' (80)."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_PLACES = ("", "c")
_MOST = 200_000_000  # bytes of a file of sentences
_FILE = re.compile(r"\.(txt|json)$|\.json#|[/\\]")
_DATASET = re.compile(r"(.+\.json)#(.*)", re.IGNORECASE | re.DOTALL)


def fill(template: str, name: str) -> str:
    """The sentence with the name in every `{}` or `{c}`; all other braces stay as they are."""
    return _FIELD.sub(lambda field: name if field[1] in _PLACES else field[0], template)


def resolve_templates(value: str | Path | Sequence[str]) -> list[str]:
    """Sentences with at least one `{}` or `{c}` each.

    Args:
        value: a named set (`TEMPLATES`), one sentence, several, or a file of them: text, one a
            line, or JSON, a list or CLIP_benchmark's {data set: list}. Of several data sets
            'file.json#imagenet1k' takes one.

    Raises:
        ConfigError: unknown set, unreadable file, unknown data set, no sentence, a sentence without
            a place for the name or with a field of another name.
    """
    if isinstance(value, str) and value in TEMPLATES:
        return list(TEMPLATES[value])
    if isinstance(value, str) and _FIELD.search(value):
        return _checked([value], "templates")
    if isinstance(value, str) and not (_FILE.search(value) or Path(value).is_file()):
        known = ", ".join(TEMPLATES)
        raise ConfigError(
            f"unknown templates {quote(value)}{nearest(value, TEMPLATES)} (known: {known}; or give "
            "sentences with {} for the class name, or a .txt or .json file of them)"
        )
    if isinstance(value, str | Path):
        return _checked(_read_templates(value), f"templates {value}")
    return _checked(value, "templates")


def resolve_class_prompts(
    value: Mapping[str, Sequence[str]] | Path | str,
) -> dict[str, tuple[str, ...]]:
    """Whole sentences for each class (CuPL, Pratt et al. 2023), by its name.

    Args:
        value: such a mapping, or a JSON file of it: {class: list}, or {data set: {class: list}}. Of
            several data sets 'file.json#imagenet1k' takes one.

    Raises:
        ConfigError: unreadable file, unknown data set, or a class without a sentence.
    """
    source = "class_prompts"
    prompts: Any = value
    if isinstance(value, str | Path):
        source = f"class_prompts {value}"
        path, dataset = _split(value)
        prompts = _read_json(path, source)
        several = isinstance(prompts, dict) and any(isinstance(p, dict) for p in prompts.values())
        if several or dataset is not None:
            prompts = _choose(prompts, path, dataset, source)
    if not isinstance(prompts, Mapping) or not prompts:
        raise ConfigError(f"{source}: give a mapping of class names to lists of sentences")
    return {name: _sentences(texts, name, source) for name, texts in prompts.items()}


def _checked(templates: Sequence[str], source: str) -> list[str]:
    templates = list(templates)
    if not templates:
        raise ConfigError(f"{source}: no template; give at least one, e.g. 'a photo of a {{}}.'")
    for template in templates:
        if not isinstance(template, str):
            raise ConfigError(f"{source}: {quote(str(template))} is no text")
        fields = _FIELD.findall(template)
        strange = next((field for field in fields if field not in _PLACES), None)
        if strange is not None:
            raise ConfigError(
                f"{source}: template {quote(template)} has the field {quote(f'{{{strange}}}')}; "
                "write {} or {c} for the class name"
            )
        if not fields:
            raise ConfigError(
                f"{source}: template {quote(template)} has no place for the class name; "
                "write {} or {c} there"
            )
    return templates


def _split(value: str | Path) -> tuple[Path, str | None]:
    """'file.json#name' -> (file.json, name); any other path, and a file of that name, as it is."""
    found = _DATASET.fullmatch(str(value))
    if found is None or Path(value).is_file():
        return Path(value), None
    return Path(found[1]), found[2]


def _read_templates(value: str | Path) -> Sequence[str]:
    source = f"templates {value}"
    path, dataset = _split(value)
    if path.suffix.lower() != ".json":
        return [line.strip() for line in _read_text(path, source).splitlines() if line.strip()]
    values = _read_json(path, source)
    if isinstance(values, dict) or dataset is not None:
        values = _choose(values, path, dataset, source)
    if isinstance(values, dict):
        raise ConfigError(f"{source} has sentences for each class; give it as class_prompts")
    if not isinstance(values, list):
        raise ConfigError(f"{source}: a list of sentences is needed")
    return values


def _choose(values: Any, path: Path, dataset: str | None, source: str) -> Any:
    """The part of a JSON object that belongs to a data set; without a name, the only part."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: the file has no data sets; leave out {quote(f'#{dataset}')}")
    if dataset is None and len(values) == 1:
        return next(iter(values.values()))
    if dataset in values:
        return values[dataset]
    known = quote(", ".join(values))
    problem = "has several data sets"
    if dataset is not None:
        problem = f"has no data set {quote(dataset)}{nearest(dataset, values)}"
    raise ConfigError(f"{source} {problem} (write {path}#NAME with one of {known})")


def _sentences(texts: Any, name: str, source: str) -> tuple[str, ...]:
    texts = [texts] if isinstance(texts, str) else texts
    good = isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)
    if not good or not texts or not all(text.strip() for text in texts):
        raise ConfigError(
            f"{source}: class {quote(str(name))} needs a list of sentences, none empty"
        )
    return tuple(texts)


def _read_text(path: Path, source: str) -> str:
    try:
        return read_whole_text(path, most=_MOST)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: it is no UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


def _read_json(path: Path, source: str) -> Any:
    try:
        return json.loads(_read_text(path, source))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: it is no JSON: {' '.join(str(error).split())}") from error
