"""YAML files and `key=value` overrides as plain values, and configurations as YAML."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel
from yaml.composer import Composer  # type: ignore[import-untyped]
from yaml.constructor import SafeConstructor  # type: ignore[import-untyped]
from yaml.reader import Reader  # type: ignore[import-untyped]
from yaml.resolver import Resolver  # type: ignore[import-untyped]

from vpt.errors import ConfigError
from vpt.storage.whole_file import open_regular

MAX_BYTES = 1_000_000
MAX_VALUES = 200_000
MAX_DEPTH = 50


# Scalars as YAML 1.2 has them: PyYAML's own (1.1) read `5e-4` as text, `no` as false, `010` as 8.
_SCALARS = {
    "merge": r"<<",
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]{0,19})",
    "float": r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}
_RESOLVERS = [
    (f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"))
    for kind, pattern in _SCALARS.items()
]
_OVERRIDE_KEY = re.compile(r"[A-Za-z][\w-]*(\.[\w-]+)*")


if yaml.__with_libyaml__:
    from yaml.cyaml import CParser as _Parser  # type: ignore[import-untyped]
else:  # the same events, thirty times as slow
    from yaml import SafeLoader as _Parser


class _Loader(Composer, _Parser, SafeConstructor, Resolver):  # type: ignore[misc]
    """YAML as configurations use it: plain values, unique text keys, bounded size."""

    yaml_implicit_resolvers = {None: _RESOLVERS}  # noqa: RUF012 - PyYAML's own interface

    def __init__(self, text: str, *, any_keys: bool = False):
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._any_keys = any_keys
        self._depth = 0
        self._sizes: dict[int, int] = {}  # by id of the node, aliases counted as often as used

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._depth += 1
        event = self.peek_event()
        if self._depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels; flatten it", event)
        if getattr(event, "tag", None) is not None:
            problem = "tags such as !!python/object are not allowed; write a plain value"
            raise _refusal(problem, event)
        is_alias = isinstance(event, yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:  # its own node is still being composed
            raise _refusal("an alias refers to itself; write the value", node)
        if not is_alias:
            _check_node(node, any_keys=self._any_keys)
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if self._sizes[id(node)] > MAX_VALUES:
            raise _refusal(f"expands to more than {MAX_VALUES} values; shorten it", node)
        return node


def _refusal(problem: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_node(node: yaml.Node, *, any_keys: bool) -> None:
    if isinstance(node, yaml.MappingNode):
        if any_keys:
            _keys_as_text(node)
        _check_keys(node)
    elif isinstance(node, yaml.ScalarNode):
        _check_text(node)


def _keys_as_text(node: yaml.Node) -> None:
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            key.tag = "tag:yaml.org,2002:str"


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise _refusal("a key is not text; quote it", key)
        if key.value in lines:
            first = lines[key.value]
            raise _refusal(
                f"key {show_value(key.value)} is already set on line {first}; keep one", key
            )
        lines[key.value] = key.start_mark.line + 1


def _check_text(node: yaml.ScalarNode) -> None:
    if "${" in node.value:
        raise _refusal(
            f"{show_value(node.value)}: interpolation ${{...}} is not allowed; write the value",
            node,
        )
    if node.value == "???":
        raise _refusal("'???' stands for a missing value; write the value", node)
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal("a lone surrogate is no character; write valid Unicode", node)


def load_foreign_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file of another tool: as `load_yaml`, with keys of any kind as text.

    Raises:
        ConfigError: see `load_yaml`.
    """
    return _mapping(_parse(_read_text(path), str(path), any_keys=True), str(path))


def load_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `key=value` overrides merged over it.

    Numbers and booleans are YAML 1.2's (`5e-4` is a number, only true and false are booleans).
    An override's key is dotted, its value is YAML and replaces what was there. Where it opens a
    bare name (`prompt: vpt_deep` and `prompt.num_tokens=5`), the name becomes the key `name`.

    Raises:
        ConfigError: unreadable, not UTF-8, not a mapping, a duplicate key, a tag, an
            interpolation, or a malformed override; one line with file and line number.
    """
    values = _mapping(_parse(_read_text(path), str(path)), str(path))
    return _merge(values, overrides) if overrides else values


def _mapping(values: Any, source: str) -> dict[str, Any]:
    if values is None:
        raise ConfigError(f"{source}: is empty; write lines of 'key: value'")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        raise ConfigError(f"{source}: line 1: is {kind}, not a mapping; write 'key: value' lines")
    return values


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.EINVAL, errno.EISDIR):
            raise ConfigError(f"{path}: is not a file; name a YAML file") from error
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; name a readable YAML file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes; name a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8; save it as UTF-8") from error


def _parse(text: str, source: str, *, any_keys: bool = False) -> Any:
    if strange := Reader.NON_PRINTABLE.search(text):
        number = text.count("\n", 0, strange.start()) + 1
        raise ConfigError(
            f"{source}: line {number}: character {ord(strange[0]):#x} is not allowed; remove it"
        )
    try:
        loader = _Loader(text, any_keys=any_keys)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        hint = "; indent with spaces" if mark and _has_tab_indent(text, mark.line) else ""
        raise ConfigError(f"{source}: {line}{problem}{hint}") from error


def _has_tab_indent(text: str, line: int) -> bool:
    lines = text.splitlines()
    start = lines[line] if line < len(lines) else ""
    return "\t" in start[: len(start) - len(start.lstrip())]


def _merge(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    _refuse_blanks(overrides)
    for override in overrides:
        key, value = _parse_override(override)
        try:
            values = _replaced(values, key.split("."), value)
        except LookupError as error:
            raise ConfigError(
                f"override {show_value(override)}: '{key}' leads into a list; name a position that "
                "it has, from 0"
            ) from error
    return values


def _replaced(node: Any, steps: Sequence[str], value: Any) -> Any:
    """A copy of plain values with another one at the end of the steps.

    What is no section on the way is made one, where a bare name keeps its meaning.

    Raises:
        LookupError: a step is no position of a list.
    """
    if not steps:
        return value
    step, *rest = steps
    if isinstance(node, list):
        if not step.isdecimal() or int(step) >= len(node):
            raise LookupError(step)
        place = int(step)
        return [*node[:place], _replaced(node[place], rest, value), *node[place + 1 :]]
    if not isinstance(node, dict):
        node = {"name": node} if isinstance(node, str) else {}
    return {**node, step: _replaced(node.get(step), rest, value)}


def _refuse_blanks(overrides: Sequence[str]) -> None:
    """Refuse `key = value`, which a shell hands on as several words unless it is quoted."""
    text = " ".join(overrides)
    broken = re.search(r"([\w.-]+)( = ?|= )(\S+)|([\w.-]+) =(\S+)", text)
    if broken is not None and (len(overrides) > 1 or broken[2] == " = "):
        key, value = broken[1] or broken[4], broken[3] or broken[5]
        raise ConfigError(
            f"override {show_value(broken[0])}: no blanks may stand around '='; write {key}={value}"
        )


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    source = f"override {show_value(override)}"
    if not equals:
        raise ConfigError(f"{source}: has no '='; write key=value")
    if not _OVERRIDE_KEY.fullmatch(key):
        raise ConfigError(
            f"{source}: {show_value(key)} is not a dotted key; write e.g. optim.lr=0.1"
        )
    if key.count(".") >= MAX_DEPTH:
        raise ConfigError(f"{source}: leads deeper than {MAX_DEPTH} levels; shorten the key")
    if several := re.fullmatch(r"([^\[{'\"]*),\s*([a-z_]+(?:\.[a-z_]+)*=.*)", text):
        raise ConfigError(
            f"{source}: settings are separated by blanks; write {key}={several[1]} {several[2]}"
        )
    value = _parse(text, source)
    if value is None and text.strip().lower() not in ("null", "~"):
        raise ConfigError(f"{source}: has no value; write {key}=null for none, or quote the value")
    return key, value


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what YAML 1.1 or our own reading would not take for text; writes no aliases."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own interface
        **yaml.SafeDumper.yaml_implicit_resolvers,
        None: _RESOLVERS,
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """In double quotes where it holds a line break that YAML folds into a space when it is read."""
    style = '"' if _FOLDED.search(text) else None
    node: yaml.Node = dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    return node


_FOLDED = re.compile("[\x85\u2028\u2029]")
_Dumper.add_representer(str, _represent_text)


def dump(config: BaseModel, *, defaults: bool = True) -> str:
    """The configuration as YAML; reads back equal.

    Args:
        config: to be written.
        defaults: also write what has its default value.
    """
    values = config.model_dump(mode="json", exclude_defaults=not defaults)
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def show_value(value: Any) -> str:
    """The value on one line, as YAML writes constants, cut after 60 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
