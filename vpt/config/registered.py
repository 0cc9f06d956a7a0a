"""Sections of a configuration whose keys a registered method decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from vpt.errors import ConfigError
from vpt.limits import MAX_METHODS
from vpt.registry import Registry


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
            if len(value) > MAX_METHODS:
                raise ValueError(f"must have at most {MAX_METHODS} members, not {len(value):,}")
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
            items = {"oneOf": list(one["oneOf"])}
            one["oneOf"].append({"type": "array", "items": items, "maxItems": MAX_METHODS})
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
