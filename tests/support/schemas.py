"""Random JSON schemas, and a plain reading of whether a value fits one."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as some

NAMES = some.sampled_from(["a", "colour", "n", "is red", "Straße", "sign_1"])
LEAVES = some.one_of(
    some.just({"type": "boolean"}),
    some.just({"type": "null"}),
    some.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        some.integers(-50, 50),
        some.integers(0, 300),
    ),
    some.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        some.integers(0, 3),
        some.integers(0, 5),
    ),
    some.builds(
        lambda values: {"enum": values},
        some.lists(some.sampled_from(["yes", "no", "a car", "naïve", 3, True]), min_size=1, max_size=4, unique_by=repr),
    ),
    some.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
)


def _object(properties: dict[str, Any], optional: bool) -> dict[str, Any]:
    required = list(properties)[: -1 if optional and len(properties) > 1 else None]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS = some.recursive(
    LEAVES,
    lambda inner: (
        some.builds(_object, some.dictionaries(NAMES, inner, min_size=1, max_size=3), some.booleans())
        | some.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, some.integers(0, 3)
        )
        | some.builds(lambda first, second: {"anyOf": [first, second]}, inner, inner)
    ),
    max_leaves=5,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is one of a schema of `SCHEMAS`."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return any(value == each and type(value) is type(each) for each in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        known, required = schema["properties"], schema["required"]
        named = isinstance(value, dict) and set(required) <= value.keys() <= known.keys()
        return named and all(fits(inner, known[name]) for name, inner in value.items())
    if kind == "array":
        return (
            isinstance(value, list)
            and len(value) <= schema["maxItems"]
            and all(fits(each, schema["items"]) for each in value)
        )
    if kind == "string":
        if "pattern" in schema:
            return isinstance(value, str) and 2 <= len(value) <= 4 and set(value) <= set("abc")
        return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
    if kind == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    return value is None if kind == "null" else isinstance(value, bool)
