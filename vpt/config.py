"""The schema of a run; reading, checking and writing configurations."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, core_schema

from vpt.errors import ConfigError
from vpt.registry import HEADS, PROMPTS, Registry

S = TypeVar("S", bound=BaseModel)

MAX_BYTES = 1_000_000
MAX_VALUES = 200_000
MAX_DEPTH = 50
MAX_PROBLEMS = 10

# ------------------------------------------------------------------------------------- reading

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


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as configurations use it: plain values, unique text keys, bounded size."""

    yaml_implicit_resolvers = {None: _RESOLVERS}  # noqa: RUF012 - PyYAML's own interface

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # by id of the node, aliases counted as often as used

    def fetch_tag(self) -> None:
        raise _refusal("tags such as !!python/object are not allowed; write a plain value", self)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels; flatten it", self)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:  # its own node is still being composed
            raise _refusal("an alias refers to itself; write the value", node)
        if not is_alias:
            _check_node(node)
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if self._sizes[id(node)] > MAX_VALUES:
            raise _refusal(f"expands to more than {MAX_VALUES} values; shorten it", node)
        return node


def _refusal(problem: str, place: yaml.Node | _Loader) -> yaml.MarkedYAMLError:
    mark = place.get_mark() if isinstance(place, _Loader) else place.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_node(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    elif isinstance(node, yaml.ScalarNode):
        _check_text(node)


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise _refusal("a key is not text; quote it", key)
        if key.value in lines:
            first = lines[key.value]
            raise _refusal(f"key {_show(key.value)} is already set on line {first}; keep one", key)
        lines[key.value] = key.start_mark.line + 1


def _check_text(node: yaml.ScalarNode) -> None:
    if "${" in node.value:
        raise _refusal(
            f"{_show(node.value)}: interpolation ${{...}} is not allowed; write the value", node
        )
    if node.value == "???":
        raise _refusal("'???' stands for a missing value; write the value", node)
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal("a lone surrogate is no character; write valid Unicode", node)


def load_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `key=value` overrides merged over it.

    Numbers and booleans are YAML 1.2's (`5e-4` is a number, only true and false are booleans).
    An override's key is dotted, its value is YAML and replaces what was there. Where it opens a
    bare name (`prompt: vpt_deep` and `prompt.num_tokens=5`), the name becomes the key `name`.

    Raises:
        ConfigError: unreadable, not UTF-8, not a mapping, a duplicate key, a tag, an
            interpolation, or a malformed override; one line with file and line number.
    """
    source = str(path)
    values = _parse(_read_text(path), source)
    if values is None:
        raise ConfigError(f"{source}: is empty; write lines of 'key: value'")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        raise ConfigError(f"{source}: line 1: is {kind}, not a mapping; write 'key: value' lines")
    return _merge(values, overrides) if overrides else values


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ConfigError(f"{path}: is not a file; name a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; name a readable YAML file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes; name a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8; save it as UTF-8") from error


def _parse(text: str, source: str) -> Any:
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        hint = "; indent with spaces" if r"\t" in problem else ""
        raise ConfigError(f"{source}: {line}{problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{source}: line {number}: character {error.character:#x} is not allowed; remove it"
        ) from error


def _merge(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.create(values)
    for override in overrides:
        key, value = _parse_override(override)
        try:
            _open_sections(config, key)
            OmegaConf.update(config, key, value, merge=False)
        except (OmegaConfBaseException, ValueError, LookupError) as error:
            raise ConfigError(
                f"override {_show(override)}: '{key}' leads into a list; name a position that "
                "it has, from 0"
            ) from error
    merged: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return merged


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    source = f"override {_show(override)}"
    if not equals:
        raise ConfigError(f"{source}: has no '='; write key=value")
    if not _OVERRIDE_KEY.fullmatch(key):
        raise ConfigError(f"{source}: {_show(key)} is not a dotted key; write e.g. optim.lr=0.1")
    value = _parse(text, source)
    if value is None and text.strip().lower() not in ("null", "~"):
        raise ConfigError(f"{source}: has no value; write {key}=null for none, or quote the value")
    return key, value


def _open_sections(config: DictConfig, key: str) -> None:
    """Make every section on the way to `key` a mapping; a bare name keeps its meaning."""
    steps = key.split(".")
    for count in range(1, len(steps)):
        section = ".".join(steps[:count])
        current = OmegaConf.select(config, section)
        if not OmegaConf.is_config(current):
            opened = {"name": current} if isinstance(current, str) else {}
            OmegaConf.update(config, section, opened, merge=False)


# ------------------------------------------------------------------------------------ checking


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
        lines = [f"{source}: {line}" for line in _problems(error.errors(), schema, values)]
        if len(lines) > MAX_PROBLEMS:
            lines[MAX_PROBLEMS:] = [f"{source}: and {len(lines) - MAX_PROBLEMS} more problems"]
        raise ConfigError("\n".join(lines)) from error


def _show(value: Any) -> str:
    """The value on one line, as YAML writes constants, cut after 60 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
        dotted = _show(dotted)
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
    return f"value {_show(value)} is not allowed: {rule}"


def _unknown_key(
    key: tuple[str, ...], tree: list[tuple[str, ...]], values: Mapping[str, Any]
) -> str:
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


def _keys(schema: type[BaseModel], values: Any) -> Iterator[tuple[str, ...]]:
    """Every key that the schema knows, as a path; registered sections by the name in the values."""
    for name, field in schema.model_fields.items():
        key = field.alias or name
        yield (key,)
        value = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(value, list):
            for index, item in enumerate(value):
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


# ------------------------------------------------------------------------- registered sections


@dataclass(frozen=True)
class Registered:
    """Marks a section whose keys are those of the registry's entry that its `name` picks.

    The value is a name, a mapping {name: ..., options}, or, with `many`, a list of those. It is
    validated to a plain dict {name, every option with its default filled in} (or their list).
    """

    registry: Registry[Any]
    many: bool = False

    def schema_of(self, value: Any) -> type[BaseModel] | None:
        """The schema of the entry that a section's value names; None where it names none."""
        name = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(name, str) and name in self.registry.names():
            return self.registry[name].schema
        return None

    def check(self, value: Any) -> Any:
        """The value validated and completed; pydantic's errors for a wrong one."""
        if self.many and isinstance(value, list | tuple) and value:
            one = Annotated[Any, Registered(self.registry)]
            return TypeAdapter(list[one]).validate_python(list(value))
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, Mapping):
            kinds = "a name, a mapping or a list of those" if self.many else "a name or a mapping"
            raise ValueError(f"must be {kinds}")
        name = _name_of(options, self.registry)
        try:
            schema = self.registry[name].schema
        except ConfigError as error:
            raise ValueError(str(error)) from error
        checked = schema.model_validate({k: v for k, v in options.items() if k != "name"})
        return {"name": name, **checked.model_dump(mode="json")}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = self.registry.names()
        one: JsonSchemaValue = {
            "oneOf": [{"enum": names}, *(self._entry_json_schema(name, handler) for name in names)]
        }
        if self.many:
            one["oneOf"].append({"type": "array", "items": {"oneOf": list(one["oneOf"])}})
        return one

    def _entry_json_schema(self, name: str, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        entry_schema = self.registry[name].schema
        resolved = handler.resolve_ref_schema(handler(entry_schema.__pydantic_core_schema__))
        return {
            **resolved,
            "title": name,
            "properties": {"name": {"const": name}, **resolved.get("properties", {})},
            "required": ["name", *resolved.get("required", [])],
        }


def _name_of(options: Mapping[str, Any], registry: Registry[Any]) -> str:
    name = options.get("name")
    if isinstance(name, str):
        return name
    problem = "string_type" if "name" in options else "missing"
    details = [InitErrorDetails(type=problem, loc=("name",), input=name)]
    known = {key for entry in registry.names() for key in registry[entry].schema.model_fields}
    for key in sorted(options.keys() - known - {"name"}):  # maybe the name's own key, mistyped
        details.append(InitErrorDetails(type="extra_forbidden", loc=(key,), input=options[key]))
    raise ValidationError.from_exception_data(registry.kind, details)


PromptConfig = Annotated[dict[str, Any] | list[dict[str, Any]], Registered(PROMPTS, many=True)]
HeadConfig = Annotated[dict[str, Any], Registered(HEADS)]

# --------------------------------------------------------------------------- the schema of a run


def _is_range(low: float, high: float) -> bool:
    return 0 < low <= high


def _check_scale(value: tuple[float, float]) -> tuple[float, float]:
    if not (_is_range(*value) and value[1] <= 1):
        raise ValueError("must be [low, high] with 0 < low <= high <= 1")
    return value


def _check_ratio(value: tuple[float, float]) -> tuple[float, float]:
    if not _is_range(*value):
        raise ValueError("must be [low, high] with 0 < low <= high")
    return value


def _check_tuning(value: str) -> str:
    if not re.fullmatch(r"frozen|full|bias|norm|last:[1-9]\d{0,3}", value):
        raise ValueError("must be frozen, full, bias, norm or last:<k> with k of at least 1")
    return value


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, cuda:<n> or mps")
    return value


Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class BackboneConfig(NamedSchema):
    """The pretrained transformer; a bare string is its name."""

    name: str = Field(
        min_length=1,
        description="timm/<model>[.tag], open_clip/<architecture>:<tag> or bundled/<model>",
    )
    pretrained: bool = Field(True, description="load pretrained weights; false: random ones")
    weights: Path | None = Field(
        None,
        description="a local safetensors file in the backbone's own tensor names, instead of a "
        "download",
    )
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="input side, or [height, width], in pixels; null: the backbone's own"
    )


class TransformConfig(NamedSchema):
    """What happens to training images; evaluation always uses the backbone's own transform."""

    name: Literal["random_resized_crop", "resize_crop", "none"] = Field(
        "random_resized_crop",
        description="random_resized_crop; resize_crop: short side to `resize`, then a random crop "
        "of the input size; none: the evaluation transform",
    )
    scale: Annotated[tuple[float, float], AfterValidator(_check_scale)] = Field(
        (0.35, 1.0), description="random_resized_crop: range of the crop's share of the area"
    )
    ratio: Annotated[tuple[float, float], AfterValidator(_check_ratio)] = Field(
        (0.75, 1.3333), description="random_resized_crop: range of the crop's width / height"
    )
    resize: PositiveInt = Field(
        256, description="resize_crop: short side in pixels before the crop"
    )
    hflip: Share = Field(0.5, description="probability of a left-right flip")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="largest rotation to either side, in degrees"
    )
    color_jitter: Share = Field(
        0.0, description="largest relative change of brightness, contrast and saturation"
    )


class DataConfig(Schema):
    """The data set and how batches are made of it."""

    dataset: Path = Field(description="a descriptor YAML, or a folder of images by class")
    root: Path | None = Field(None, description="where the images are; null: the descriptor's root")
    preprocess: Literal["backbone", "imagenet"] = Field(
        "backbone",
        description="of all images: the backbone's own, or the paper's (ImageNet mean and std, "
        "bilinear, short side to size / 0.875)",
    )
    transform: TransformConfig = Field(
        default_factory=TransformConfig, description="augmentation of training images"
    )
    batch_size: PositiveInt = Field(description="images per forward pass and process in training")
    eval_batch_size: PositiveInt | None = Field(
        None, description="images per forward pass in evaluation; null: batch_size"
    )
    num_workers: Annotated[int, Field(ge=0)] = Field(
        2, description="loader processes; 0: load in the main process"
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="an unreadable image stops the run, or is left out"
    )
    scan: bool = Field(True, description="decode every image once before training starts")
    shots: PositiveInt | None = Field(
        None, description="training images per class, drawn by the seed; null: all"
    )


class OptimConfig(NamedSchema):
    """The optimiser and its schedule; rates are used as written, never rescaled."""

    name: Literal["sgd", "adamw"] = Field("adamw", description="the update rule")
    lr: Positive = Field(
        description="peak rate, per optimiser step at batch_size x accumulation images; never "
        "rescaled"
    )
    weight_decay: NotNegative = Field(0.0, description="decay of the prompt's tensors")
    head_lr: Positive | None = Field(None, description="peak rate of the head; null: lr")
    head_weight_decay: NotNegative | None = Field(
        None, description="decay of the head; null: weight_decay"
    )
    backbone_lr: Positive | None = Field(
        None, description="peak rate of tuned backbone tensors; null: lr"
    )
    momentum: Decay = Field(0.9, description="sgd: momentum")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="adamw: decay of the gradient's and its square's averages"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="the rate after warm-up: cosine down to min_lr, or constant"
    )
    warmup_epochs: NotNegative = Field(
        0.0, description="epochs of linear warm-up, stepwise, from above zero"
    )
    min_lr: NotNegative = Field(0.0, description="rate at the end of the cosine schedule")
    clip_grad_norm: Positive | None = Field(
        None, description="largest norm of the whole gradient; null: no clipping"
    )
    accumulation: PositiveInt = Field(1, description="batches per optimiser step")

    @model_validator(mode="after")
    def _check_rates(self) -> OptimConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}; lower min_lr")
        return self


class LossConfig(Schema):
    """The training loss."""

    label_smoothing: Decay = Field(0.0, description="share of the target spread over all classes")
    class_weights: Literal["balanced"] | list[Positive] | None = Field(
        None,
        description="balanced: inversely to the class counts; or one weight per class, in the "
        "order of the classes; null: equal",
    )


class TrainConfig(Schema):
    """How long, where and how carefully to train."""

    epochs: PositiveInt = Field(description="passes over the training images")
    max_steps: PositiveInt | None = Field(None, description="stop after so many optimiser steps")
    max_hours: Positive | None = Field(None, description="stop after so many hours")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="arithmetic of forward and backward; trained tensors stay fp32"
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:<n> or mps; auto: the best there is"
    )
    early_stopping: PositiveInt | None = Field(
        None, description="stop after so many epochs without a better validation metric"
    )
    select: Literal["top1", "mean_class_accuracy", "loss"] = Field(
        "top1", description="validation metric that picks the best epoch"
    )
    checkpoint_seconds: Positive = Field(
        600.0, description="seconds between checkpoints within an epoch"
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(
        3, description="newest checkpoints kept; at least one to fall back to"
    )
    log_every: PositiveInt = Field(20, description="optimiser steps between logged training values")
    init_from: Path | None = Field(None, description="a prompt file to start from")


class RunConfig(Schema):
    """Everything that decides a training run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="of everything random: initialisation, order, augmentation, dropout, splits"
    )
    run_dir: Path = Field(description="folder of the run's files; new or empty")
    backbone: BackboneConfig = Field(description="the pretrained transformer, by name or mapping")
    prompt: PromptConfig = Field(
        default_factory=lambda: {"name": "none"},
        description="prompt method: a name, a mapping with its options, or a list of those",
    )
    head: HeadConfig = Field(
        default_factory=lambda: {"name": "linear"},
        description="head: a name, or a mapping with its options",
    )
    tuning: Annotated[str, AfterValidator(_check_tuning)] = Field(
        "frozen",
        description="backbone tensors that train too: frozen, full, bias, norm or last:<k> blocks",
    )
    data: DataConfig = Field(description="the data set and how batches are made of it")
    optim: OptimConfig = Field(description="the optimiser and its schedule")
    loss: LossConfig = Field(default_factory=LossConfig, description="the training loss")
    train: TrainConfig = Field(description="how long, where and how carefully to train")

    @model_validator(mode="after")
    def _check_warmup(self) -> RunConfig:
        warmup, epochs = self.optim.warmup_epochs, self.train.epochs
        if warmup > epochs:
            raise ValueError(
                f"optim.warmup_epochs {warmup} exceeds train.epochs {epochs}; lower it"
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that a YAML file and `key=value` overrides describe.

    Raises:
        ConfigError: one line per problem.
    """
    return validate(RunConfig, load_yaml(path, overrides), str(path))


# ------------------------------------------------------------------------------------- writing


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes what YAML 1.1 or our own reading would not take for text; writes no aliases."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own interface
        **yaml.SafeDumper.yaml_implicit_resolvers,
        None: _RESOLVERS,
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(config: Schema) -> str:
    """The configuration as YAML, every default written out; reads back equal."""
    values = config.model_dump(mode="json")
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration, for editors."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **schema.model_json_schema()}
