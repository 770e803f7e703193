"""Settings as frozen dataclasses: each field's default, range and help text in one place, checked when they are read."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Literal, Union

import yaml

from switchkd.errors import RecipeError


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple | None = None,
    low: float | None = None,
    high: float | None = None,
    affects_result: bool | Literal["if any"] = True,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its help text and range. A mapping or number that `affects_result` "if any" counts where it isn't
    empty or 0: what was finished before there was this setting stays finished."""
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "affects_result": affects_result}
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def build(cls: type, values: Any, where: str) -> Any:
    """A frozen dataclass from a plain mapping, with every key, type and range checked."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"Recipe: '{where}' has to be a mapping, not {values!r}.")
    known = {item.name: item for item in fields(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(f"Recipe: unknown setting '{_join(where, unknown[0])}'; known here: {', '.join(known)}.")
    hints = typing.get_type_hints(cls)
    built = {key: _value(hints[key], value, known[key], _join(where, key)) for key, value in values.items()}
    return cls(**built)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _value(hint: Any, value: Any, item: dataclasses.Field, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(arguments[0], value, item, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"Recipe: '{where}' has to be a list, not {value!r}.")
        return tuple(_value(arguments[0], entry, item, where) for entry in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f"Recipe: '{where}' has to be a mapping, not {value!r}.")
        return {str(key): _value(arguments[1], entry, item, _join(where, key)) for key, entry in value.items()}
    return value if hint is Any else _scalar(hint, value, item, where)


def _scalar(hint: type, value: Any, item: dataclasses.Field, where: str) -> Any:
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        # YAML reads 1e-3 as text.
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"Recipe: '{where}' has to be {_kind(hint)}, not {value!r}.")
    choices, low, high = (item.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise RecipeError(f"Recipe: '{where}' is {value!r}; possible are {', '.join(map(str, choices))}.")
    outside = (low is not None and not value >= low) or (high is not None and not value <= high)
    if outside or (isinstance(value, float) and not math.isfinite(value)):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise RecipeError(f"Recipe: '{where}' is {value}; it has to be {span}.")
    return value


def _kind(hint: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint))


def to_plain(value: Any) -> Any:
    """A recipe (or a piece of one) as plain data, for YAML and JSON; the inverse of `build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    return [to_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def result_settings(value: Any) -> Any:
    """As `to_plain`, without the settings that can't change a result; what a stage's fingerprint is made of."""
    plain = to_plain(value)
    for item in fields(value):
        affects = item.metadata.get("affects_result", True)
        if not affects or (affects == "if any" and not plain[item.name]):
            del plain[item.name]
    return plain


def explain(cls: type, where: str = "") -> list[tuple[str, str, str]]:
    """(key, default, help text) of every setting, nested ones with their path; NAME stands for a name of your own."""
    rows = []
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        key, hint = _join(where, item.name), hints[item.name]
        arguments = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            rows += explain(typing.cast(type, hint), key)
        elif arguments and dataclasses.is_dataclass(arguments[-1]):
            rows += explain(typing.cast(type, arguments[-1]), f"{key}.NAME")
        else:
            default = (
                "" if item.default is dataclasses.MISSING else yaml.safe_dump(to_plain(item.default)).split("\n")[0]
            )
            choices = item.metadata["choices"]
            possible = f" One of {', '.join(map(str, choices))}." if choices else ""
            rows.append((key, default, item.metadata["help"] + possible))
    return rows
