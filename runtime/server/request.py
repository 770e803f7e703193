"""Chat completion requests in the form of OpenAI's API, as far as a student with pictures can answer them.

Form: https://platform.openai.com/docs/api-reference/chat. Every field of a request is honoured, known to change nothing,
refused, or told in the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.prompt import Message
from switchkd.runtime.engines.sampling import GREEDY, Sampling
from switchkd.runtime.server import fields as known
from switchkd.runtime.server.answer_forms import FORM_FIELDS, choices_of, schema_of
from switchkd.runtime.server.fields import Unknown, require_known, shown
from switchkd.runtime.server.limits import Limits, RequestError
from switchkd.runtime.server.messages import read_messages
from switchkd.runtime.server.picture import Picture
from switchkd.runtime.server.sampling_fields import SAMPLING_FIELDS, sampling_of

_MAX_STOPS = 4  # OpenAI's
_MAX_TOP = 20  # OpenAI's
_MAX_ANSWERS = 16
_MAX_VALUES = 100_000  # in a body's JSON; Python takes up to 60 bytes for one that is two long

_HONOURED = (
    {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options"}
    | {"n", "logprobs", "top_logprobs"}
    | FORM_FIELDS
    | SAMPLING_FIELDS
)


@dataclass(frozen=True)
class Rules:
    """How a server reads requests."""

    names: tuple[str, ...]  # that `model` may be; the first where a request names none
    pictures_first: bool = True  # pictures go before the words of their message, wherever they were sent
    sampling: Sampling = GREEDY  # what holds where a request doesn't say
    strict: bool = False  # fields that aren't known are refused, not told in the log


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered."""

    model: str  # the name that it used
    messages: list[Message]  # as `ChatPrompt` takes them
    pictures: tuple[Picture, ...]  # as they were sent, in their order
    max_tokens: int
    stop: tuple[str, ...]  # texts that end the answer and aren't part of it
    stream: bool
    stream_usage: bool  # a last chunk with the token counts
    answers: int = 1
    sampling: Sampling = GREEDY
    top_logprobs: int | None = None  # most probable tokens with each; None: no probabilities at all
    schema: Mapping[str, Any] | None = None  # that the answer fits, as JSON
    choices: tuple[str, ...] = ()  # one of which is the answer; none: any
    pixels: tuple[NDArray[np.uint8], ...] = field(default=(), repr=False)  # these in the tower's size, [H, W, 3] each


def parse_request(body: bytes | bytearray, rules: Rules, limits: Limits, unknown: Unknown) -> ChatRequest:
    """Reads a request's body; its pictures stay as they were sent.

    Args:
        unknown: told of what is in a request but known to nobody, and of pictures that stand elsewhere than in training.

    Raises:
        RequestError: 400 malformed or unsupported, 404 another model.
    """
    fields = _object(body)
    require_known(
        fields, _HONOURED, neutral=known.NEUTRAL, ignored=known.IGNORED, refused=known.REFUSED, unknown=unknown
    )
    model = _model(fields.get("model"), rules)
    messages, pictures = read_messages(fields.get("messages"), rules.pictures_first, unknown)
    if len(pictures) > limits.pictures:
        message = (
            f"The conversation has {len(pictures)} pictures; this server takes {limits.pictures} (--max-pictures)."
        )
        raise RequestError(400, message, param=pictures[limits.pictures].place, code="too_many_pictures")
    stream, stream_usage = _stream(fields, unknown)
    schema, choices = schema_of(fields), choices_of(fields)
    if schema is not None and choices:
        raise RequestError(400, "An answer has one form: 'choices' or 'response_format'.", param="response_format")
    return ChatRequest(
        model=model,
        messages=messages,
        max_tokens=_max_tokens(fields, limits),
        stop=_stops(fields.get("stop")),
        stream=stream,
        stream_usage=stream_usage,
        answers=_answers(fields.get("n")),
        sampling=sampling_of(fields, rules.sampling),
        top_logprobs=_top_logprobs(fields),
        schema=schema,
        choices=choices,
        pictures=tuple(pictures),
    )


def _object(body: bytes | bytearray) -> dict[str, Any]:
    if sum(map(body.count, b"{[,")) > _MAX_VALUES:
        raise RequestError(400, f"The body has more than {_MAX_VALUES:,} values, commas in texts counted.")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The body isn't JSON: {type(error).__name__}.") from error
    if not isinstance(fields, dict):
        raise RequestError(400, "The body isn't a JSON object.")
    return fields


def _model(name: Any, rules: Rules) -> str:
    if name is None:
        return rules.names[0]
    if not isinstance(name, str):
        raise RequestError(400, "'model' is a name.", param="model")
    if name not in rules.names:
        there = " or ".join(f"'{each}'" for each in rules.names)
        message = f"There is no model {shown(name)} here, only {there}."
        raise RequestError(404, message, param="model", code="model_not_found")
    return name


def _stream(fields: dict[str, Any], unknown: Unknown) -> tuple[bool, bool]:
    """(whether the answer comes in pieces, whether the token counts come after it)"""
    stream, options = fields.get("stream"), fields.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise RequestError(400, "'stream' is true or false.", param="stream")
    if options is None:
        return bool(stream), False
    usage = options.get("include_usage") if isinstance(options, dict) else ""
    if usage is not None and not isinstance(usage, bool):
        raise RequestError(400, "'stream_options' is an object like {\"include_usage\": true}.", param="stream_options")
    require_known(
        options,
        {"include_usage"},
        neutral=known.STREAM_NEUTRAL,
        ignored=known.STREAM_IGNORED,
        place="stream_options",
        unknown=unknown,
    )
    if not stream:
        raise RequestError(400, "'stream_options' is for answers with \"stream\": true.", param="stream_options")
    return True, bool(usage)


def _max_tokens(fields: dict[str, Any], limits: Limits) -> int:
    names = ("max_completion_tokens", "max_tokens")  # the second is the older name
    given = {name: fields[name] for name in names if fields.get(name) is not None}
    for name, value in given.items():
        if not _is_whole(value) or value < 1:
            raise RequestError(400, f"'{name}' is a whole number of at least 1.", param=name)
    return min(given.values(), default=limits.max_tokens)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(400, f"'stop' is a text or up to {_MAX_STOPS} texts, none empty.", param="stop")
    return tuple(stops)


def _answers(value: Any) -> int:
    if value is not None and (not _is_whole(value) or not 1 <= value <= _MAX_ANSWERS):
        raise RequestError(400, f"'n' is a whole number from 1 to {_MAX_ANSWERS}.", param="n")
    return value or 1


def _top_logprobs(fields: dict[str, Any]) -> int | None:
    """How many tokens are wanted with each; None: no probabilities."""
    wanted, top = fields.get("logprobs"), fields.get("top_logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise RequestError(400, "'logprobs' is true or false.", param="logprobs")
    if top is not None and (not _is_whole(top) or not 0 <= top <= _MAX_TOP):
        raise RequestError(400, f"'top_logprobs' is a whole number from 0 to {_MAX_TOP}.", param="top_logprobs")
    if top and not wanted:
        raise RequestError(400, "'top_logprobs' is for requests with \"logprobs\": true.", param="top_logprobs")
    return (top or 0) if wanted else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
