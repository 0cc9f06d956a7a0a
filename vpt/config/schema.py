"""The base of every configuration section, and the check that tells what is wrong in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from vpt.config.registered import Registered
from vpt.config.yaml_text import show_value
from vpt.errors import ConfigError

S = TypeVar("S", bound=BaseModel)

MAX_PROBLEMS = 10
_MAX_DETAILS = 100


def _relax_containers(node: Any) -> None:
    """Let YAML's lists and texts fill tuples and paths: strict means the scalars inside."""
    if isinstance(node, list):
        for child in node:
            _relax_containers(child)
    elif isinstance(node, dict):
        if node.get("type") in ("tuple", "list", "set", "frozenset", "dict", "lax-or-strict"):
            node.setdefault("strict", False)
        for key, child in node.items():
            if key not in ("default", "metadata", "serialization"):
                _relax_containers(child)


@dataclass(frozen=True)
class AtMost:
    """The largest allowed value of a number, and why: `Annotated[int, AtMost(256, "...")]`."""

    limit: float
    reason: str

    def check(self, value: Any) -> Any:
        """The value; ValueError where it is larger."""
        if value > self.limit:
            raise ValueError(f"must be at most {self.limit:,}: {self.reason}")
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "maximum": self.limit}


LONGEST_PATH, LONGEST_TEXT = 4_096, 10_000


def _check_text(value: str, *, most: int) -> None:
    if "\0" in value:
        raise ValueError("must not hold a NUL character, which ends a name for the system")
    if len(value) > most:
        raise ValueError(f"must have at most {most:,} characters, not {len(value):,}")


class Schema(BaseModel):
    """Base of every configuration section: closed, frozen, finite, nothing coerced.

    Values are what they are written as: text is no number, true is no 1, 2.0 is no integer.
    An integer may stand for a float, a list for a tuple or set, text for a path.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _relax_containers(schema)
        return schema

    @field_validator("*")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        """Refuse text that no file can be named by; see also `AtMost` for numbers."""
        if isinstance(value, PurePath):
            _check_path(value)
        elif isinstance(value, str):
            _check_text(value, most=LONGEST_TEXT)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], str | PurePath):
            for each in value:
                _check_text(str(each), most=LONGEST_TEXT)
        return value


def _check_path(path: PurePath) -> None:
    _check_text(str(path), most=LONGEST_PATH)
    for part in path.parts:
        if len(part.encode(errors="surrogateescape")) > 255:
            raise ValueError("must have at most 255 bytes between two slashes")


class NamedSchema(Schema):
    """A section whose bare name stands for {name: ...}."""

    @model_validator(mode="before")
    @classmethod
    def _open_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def validate(schema: type[S], values: Mapping[str, Any], source: str) -> S:
    """The values as an instance of the schema, defaults filled in.

    Args:
        schema: what is allowed.
        values: plain values, as `load_yaml` gives them.
        source: where they come from, named first in every error line.

    Raises:
        ConfigError: every problem, one line each (ten at most):
            'source: dotted.key: value v is not allowed: rule', or the nearest known key.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        # A line takes a look at every key that there is, so not for thousands of wrong ones.
        details = error.errors(include_url=False)
        looked_at, rest = details[:_MAX_DETAILS], details[_MAX_DETAILS:]
        lines = [f"{source}: {line}" for line in _problems(looked_at, schema, values)]
        if len(lines) > MAX_PROBLEMS:
            more = len(lines) + len(rest) - MAX_PROBLEMS
            lines[MAX_PROBLEMS:] = [f"{source}: and {more} more problems"]
        raise ConfigError("\n".join(lines)) from error


_TYPE_RULES = {
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
}


def _problems(
    details: list[ErrorDetails], schema: type[BaseModel], values: Mapping[str, Any]
) -> list[str]:
    """One line for each key that is wrong; the arms of a union share theirs."""
    tree = list(_keys(schema, values))
    found: dict[tuple[str, ...], list[str]] = {}
    for detail in details:
        key = _locate(detail, values)
        rules = found.setdefault(key, [])
        rule = _unknown_key(key, tree, values) if _is_extra(detail) else _rule(detail)
        if rule not in rules:
            rules.append(rule)
    return [
        _line(key, rules)
        for key, rules in found.items()
        # an error inside the value says more than the union's other arm about the whole of it
        if not any(other[: len(key)] == key != other for other in found if key)
    ]


def _is_extra(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden"


def _line(key: tuple[str, ...], rules: list[str]) -> str:
    start, *others = rules
    alternatives = [
        other.rpartition(" is not allowed: ")[2].removeprefix("must be ") for other in others
    ]
    text = " or ".join([start, *alternatives])
    dotted = ".".join(key)
    if not dotted.isprintable() or len(dotted) > 200:
        dotted = show_value(dotted)
    return f"{dotted}: {text}" if key else text


def _locate(detail: ErrorDetails, values: Any) -> tuple[str, ...]:
    """The dotted key of an error; pydantic's location also names the arms of unions."""
    location = detail["loc"]
    parts: list[str] = []
    node = values
    for position, step in enumerate(location, start=1):
        last_missing = detail["type"] == "missing" and position == len(location)
        if _has(node, step):
            node = node[step]
        elif not last_missing:
            continue
        parts.append(str(step))
    return tuple(parts)


def _has(node: Any, step: str | int) -> bool:
    if isinstance(node, list | tuple):
        return isinstance(step, int) and step < len(node)
    return isinstance(node, Mapping) and step in node


def _rule(detail: ErrorDetails) -> str:
    """What is wrong with a value, and what is allowed."""
    message = " ".join(detail["msg"].split()).removeprefix("Value error, ")
    value = detail["input"]
    if detail["type"] == "missing":
        return "is required but missing; add it"
    if detail["type"] == "value_error" and isinstance(value, Mapping | BaseModel):
        return message  # a rule between several keys, which it names
    if detail["type"] == "too_long":
        message = f"must have at most {detail['ctx']['max_length']} items"
    rule = _TYPE_RULES.get(detail["type"], message.replace("Input should be ", "must be ", 1))
    return f"value {show_value(value)} is not allowed: {rule}"


_OF_DATA = ("num_classes", "classes", "nb_classes", "n_classes", "class_names")
"""Keys that other programs have for what the data set says here."""


def _unknown_key(
    key: tuple[str, ...], tree: list[tuple[str, ...]], values: Mapping[str, Any]
) -> str:
    if key[-1] in _OF_DATA:
        return "unknown key: the classes are those of the data set, data.dataset; leave it out"
    near = _nearest_keys(key, tree, values)
    if near:
        return f"unknown key; did you mean {' or '.join(repr('.'.join(path)) for path in near)}?"
    known = ", ".join(path[-1] for path in tree if path[:-1] == key[:-1])
    return f"unknown key; known here: {known}"


def _nearest_keys(
    key: tuple[str, ...], tree: list[tuple[str, ...]], values: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """The known keys nearest to a mistyped or misplaced one, best first, three at most."""
    section, written = key[:-1], key[-1]
    if len(written) > 100:
        return []
    ranked = []
    for path in tree:
        distance, here = _edit_distance(_fold(written), path[-1]), path[:-1] == section
        if distance <= (max(1, len(written) // 3) if here else len(written) // 4):
            likeness = difflib.SequenceMatcher(None, written, path[-1]).ratio()
            # of equally near keys, one that is not yet written is the one that was meant
            rank = (distance + (not here), _contains(values, path), -likeness)
            ranked.append((rank, path))
    ranked.sort()
    return [path for rank, path in ranked if rank[:2] == ranked[0][0][:2]][:3]


def _fold(key: str) -> str:
    return key.lower().replace("-", "_")


def _contains(values: Any, path: tuple[str, ...]) -> bool:
    for step in path:
        if not isinstance(values, Mapping) or step not in values:
            return False
        values = values[step]
    return True


def _edit_distance(first: str, second: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words."""
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, previous = previous, row
    return previous[-1]


def key_names(schema: type[BaseModel]) -> list[str]:
    """The dotted keys that a schema knows, without those that a registered method decides."""
    return [".".join(path) for path in _keys(schema, {})]


def _keys(schema: type[BaseModel], values: Any) -> Iterator[tuple[str, ...]]:
    """Every key that the schema knows, as a path; registered sections by the name in the values."""
    for name, field in schema.model_fields.items():
        key = field.alias or name
        yield (key,)
        value = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(value, list):
            for index, item in enumerate(value[:_MAX_DETAILS]):
                inside = _keys_inside(field, item, in_list=True)
                yield from ((key, str(index), *path) for path in inside)
        else:
            yield from ((key, *path) for path in _keys_inside(field, value, in_list=False))


def _keys_inside(field: FieldInfo, value: Any, *, in_list: bool) -> Iterator[tuple[str, ...]]:
    for registered in field.metadata:
        if isinstance(registered, Registered):
            yield ("name",)
            entry_schema = registered.schema_of(value)
            if entry_schema is not None:
                yield from _keys(entry_schema, value)
    for schema in _models_in(field.annotation, in_list=in_list):
        yield from _keys(schema, value)


def _models_in(annotation: Any, *, in_list: bool) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if get_origin(annotation) not in (list, tuple) or in_list:
        for argument in get_args(annotation):
            yield from _models_in(argument, in_list=in_list)
