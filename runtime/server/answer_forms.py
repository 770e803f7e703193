"""A request's fields that give its answer a form: JSON, JSON by a schema, or one of several texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from switchkd.runtime.server.limits import RequestError

FORM_FIELDS = {"response_format", "choices", "guided_choice"}  # the last is vLLM's name of the one before
_MAX_SCHEMA = 64_000  # characters
_MAX_CHOICES = 256
_MAX_LENGTH = 10_000  # characters of all choices
_FORMS = "'response_format' has the type text, json_object or json_schema"


def schema_of(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that the answer fits; None where it is free. Raises RequestError 400."""
    form = fields.get("response_format")
    if form is None or form == {}:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise RequestError(400, f"{_FORMS}.", param="response_format", code="unsupported_value")
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        message = "A json_schema has its schema in 'response_format.json_schema.schema'."
        raise RequestError(400, message, param="response_format.json_schema")
    if len(json.dumps(schema)) > _MAX_SCHEMA:
        message = f"The schema is longer than {_MAX_SCHEMA:,} characters."
        raise RequestError(400, message, param="response_format.json_schema")
    return schema


def choices_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of which one is the answer; none where it is free. Raises RequestError 400."""
    given = {name: fields[name] for name in ("choices", "guided_choice") if fields.get(name) not in (None, [])}
    if not given:
        return ()
    name, texts = next(iter(given.items()))
    good = isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)
    if len(given) > 1 or not good or len(texts) > _MAX_CHOICES or sum(map(len, texts)) > _MAX_LENGTH:
        message = f"'{name}' is a list of up to {_MAX_CHOICES} texts, none empty, of {_MAX_LENGTH:,} characters in all."
        raise RequestError(400, message, param=name)
    if len(set(texts)) < len(texts):
        raise RequestError(400, f"'{name}' has a text twice.", param=name)
    return tuple(texts)
