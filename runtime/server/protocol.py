"""Chat completion requests and answers in the form of OpenAI's API, as far as a greedy student with pictures has it.

Form: https://platform.openai.com/docs/api-reference/chat. Every field of a request is either honoured, known to change
nothing, or refused: none is dropped silently.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.errors import DataError
from switchkd.preprocess import Preprocess, decode_image
from switchkd.prompt import Message
from switchkd.runtime.engine import Timings
from switchkd.runtime.server.limits import Limits, RequestError

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII | re.IGNORECASE)
_MAX_STOPS = 4  # OpenAI's

# Fields that a client may send with these values, which ask for what is done anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "top_p": (1,),
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
# Fields that can't change a greedy answer, whatever they say.
_IGNORED = {"seed", "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"}
_HONOURED = {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options"}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered."""

    messages: list[Message]  # as `ChatPrompt` takes them
    pixels: NDArray[np.uint8] | None = field(repr=False)  # the picture, of the tower's size [H, W, 3]; None: text alone
    max_tokens: int
    stop: tuple[str, ...]  # texts that end the answer and aren't part of it
    stream: bool
    stream_usage: bool  # a last chunk with the token counts


def parse_request(body: bytes, model: str, preprocess: Preprocess, limits: Limits) -> ChatRequest:
    """Reads a request's body, decodes its picture and brings it to the tower's size.

    Args:
        model: the only name that `model` may be.
        preprocess: the model's.

    Raises:
        RequestError: 400 malformed or unsupported, 404 another model, 413 a picture's file too large, 422 a picture
            that can't be decoded, has too many pixels or is too narrow.
    """
    fields = _object(body)
    _require_known(fields)
    if not isinstance(fields.get("model"), str):
        raise RequestError(400, "The request names no model.", param="model")
    if fields["model"] != model:
        message = f"There is no model {_shown(fields['model'])} here, only '{model}'."
        raise RequestError(404, message, param="model", code="model_not_found")
    messages, pictures = _messages(fields.get("messages"))
    stream, options = fields.get("stream") or False, fields.get("stream_options") or {}
    if not isinstance(stream, bool):
        raise RequestError(400, "'stream' is true or false.", param="stream")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise RequestError(400, "'stream_options' is an object like {\"include_usage\": true}.", param="stream_options")
    return ChatRequest(
        messages=messages,
        max_tokens=_max_tokens(fields, limits),
        stop=_stops(fields.get("stop")),
        stream=stream,
        stream_usage=stream and options.get("include_usage", False),
        pixels=_pixels(pictures, preprocess, limits),
    )


class Completion:
    """One answer's objects: a whole one, or the chunks of a stream."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, reason: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The `chat.completion` object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A `chat.completion.chunk` object."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk after the last, with no choice."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def usage_of(timings: Timings) -> dict[str, Any]:
    """The `usage` object: tokens read, of them not read again, and decoded (an end token included)."""
    return {
        "prompt_tokens": timings.prompt_tokens,
        "completion_tokens": timings.new_tokens,
        "total_tokens": timings.prompt_tokens + timings.new_tokens,
        "prompt_tokens_details": {"cached_tokens": timings.reused_tokens},
    }


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The body isn't JSON: {type(error).__name__}.") from error
    if not isinstance(fields, dict):
        raise RequestError(400, "The body isn't a JSON object.")
    return fields


def _require_known(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if value is None or name in _HONOURED or name in _IGNORED:
            continue
        if name not in _NEUTRAL:
            raise RequestError(400, f"The field {_shown(name)} isn't supported.", code="unsupported_parameter")
        allowed = _NEUTRAL[name]
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in allowed):
            options = " or ".join(json.dumps(known) for known in allowed)
            greedy = "; answers are greedy" if name in ("temperature", "top_p") else ""
            message = f"'{name}' can't be {_shown(value)} here, only {options}{greedy}."
            raise RequestError(400, message, param=name, code="unsupported_value")


def _messages(value: Any) -> tuple[list[Message], list[tuple[str, str]]]:
    """Messages as `ChatPrompt` takes them; the pictures' URLs with the fields that they stand in."""
    if not isinstance(value, list) or not value:
        raise RequestError(400, "'messages' is a list of at least one message.", param="messages")
    messages: list[Message] = []
    pictures: list[tuple[str, str]] = []
    for number, message in enumerate(value):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise RequestError(400, f"{place} isn't an object.", param=place)
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            roles = "system, developer, user or assistant"
            raise RequestError(400, f"{place}: the role is {roles}, not {_shown(role)}.", param=f"{place}.role")
        for name in ("tool_calls", "function_call", "audio"):
            if message.get(name):
                raise RequestError(400, f"{place}: '{name}' isn't supported.", param=f"{place}.{name}")
        content = message.get("content")
        if isinstance(content, list):
            content = [_part(part, f"{place}.content[{index}]", role, pictures) for index, part in enumerate(content)]
        elif not isinstance(content, str):
            raise RequestError(400, f"{place}: the content is text or a list of parts.", param=f"{place}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages, pictures


def _part(part: Any, place: str, role: str, pictures: list[tuple[str, str]]) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind != "image_url":
        raise RequestError(400, f"{place} is neither a text nor an image_url part.", param=place)
    if role != "user":
        raise RequestError(400, f"{place}: only a user's message can have a picture.", param=place)
    url = part.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str):
        raise RequestError(400, f"{place}: image_url is an object with a url.", param=place)
    pictures.append((url, f"{place}.image_url"))
    return {"type": "image"}


def _pixels(pictures: list[tuple[str, str]], preprocess: Preprocess, limits: Limits) -> NDArray[np.uint8] | None:
    """The request's picture, decoded and resized."""
    if not pictures:
        return None
    url, place = pictures[0]
    if len(pictures) > 1:
        message = f"The model sees one picture a conversation, not {len(pictures)}."
        raise RequestError(400, message, param=pictures[1][1])
    head = _DATA_URL.match(url)
    if head is None:
        message = "A picture comes in the request itself, as a URL like data:image/jpeg;base64,…; nothing is fetched."
        raise RequestError(400, message, param=place)
    if (len(url) - head.end()) // 4 * 3 > limits.picture_bytes + 2:  # up to two bytes of it are padding
        message = f"The picture's file is larger than {limits.picture_bytes / 1e6:g} MB."
        raise RequestError(413, message, param=place, code="picture_too_large")
    try:
        data = base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise RequestError(400, "The picture's URL isn't valid base64.", param=place) from error
    try:
        return preprocess.resize(decode_image(data, formats=PICTURE_FORMATS, max_pixels=limits.picture_pixels))
    except DataError as error:
        raise RequestError(422, str(error), param=place, code="invalid_image") from error


def _max_tokens(fields: dict[str, Any], limits: Limits) -> int:
    for name in ("max_completion_tokens", "max_tokens"):  # the second is the older name
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestError(400, f"'{name}' is a whole number of at least 1.", param=name)
        return value
    return limits.max_tokens


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(400, f"'stop' is a text or up to {_MAX_STOPS} texts, none empty.", param="stop")
    return tuple(stops)


def _shown(value: Any) -> str:
    """A client's value in an error message: short, one line, ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
