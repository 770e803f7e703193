"""Chat completion requests and answers in the form of OpenAI's API, as far as a greedy student with pictures has it.

Form: https://platform.openai.com/docs/api-reference/chat. Every field of a request is either honoured, known to change
nothing, or refused: none is dropped silently.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.preprocess import Preprocess
from switchkd.prompt import Message
from switchkd.runtime.engines.picture_order import picture_first
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.server import fields as known
from switchkd.runtime.server.fields import require_known, shown
from switchkd.runtime.server.limits import Limits, RequestError
from switchkd.runtime.server.picture import Picture

_MAX_STOPS = 4  # OpenAI's
_MAX_VALUES = 100_000  # in a body's JSON; Python takes up to 60 bytes for one that is two long

_HONOURED = {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options"}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered."""

    messages: list[Message]  # as `ChatPrompt` takes them
    picture: Picture | None  # as it was sent; None: text alone, or it is prepared
    max_tokens: int
    stop: tuple[str, ...]  # texts that end the answer and aren't part of it
    stream: bool
    stream_usage: bool  # a last chunk with the token counts
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)  # the picture in the tower's size, [H, W, 3]

    def prepared(self, preprocess: Preprocess, limits: Limits) -> ChatRequest:
        """The same with its picture decoded. Raises RequestError as `Picture.decode`."""
        return (
            self
            if self.picture is None
            else replace(self, picture=None, pixels=self.picture.decode(preprocess, limits))
        )


def parse_request(body: bytes | bytearray, model: str, limits: Limits, *, pictures_first: bool = True) -> ChatRequest:
    """Reads a request's body; its picture stays as it was sent.

    Args:
        model: the only name that `model` may be.
        pictures_first: a picture goes before the words of its message, wherever it was sent.

    Raises:
        RequestError: 400 malformed or unsupported, 404 another model.
    """
    fields = _object(body)
    require_known(fields, _HONOURED, neutral=known.NEUTRAL, ignored=known.IGNORED)
    if not isinstance(fields.get("model"), str):
        raise RequestError(400, "The request names no model.", param="model")
    if fields["model"] != model:
        message = f"There is no model {shown(fields['model'])} here, only '{model}'."
        raise RequestError(404, message, param="model", code="model_not_found")
    messages, pictures = _messages(fields.get("messages"), pictures_first)
    if len(pictures) > 1:
        message = f"The model sees one picture a conversation, not {len(pictures)}."
        raise RequestError(400, message, param=pictures[1].place)
    stream, stream_usage = _stream(fields)
    return ChatRequest(
        messages=messages,
        max_tokens=_max_tokens(fields, limits),
        stop=_stops(fields.get("stop")),
        stream=stream,
        stream_usage=stream_usage,
        picture=pictures[0] if pictures else None,
    )


class Completion:
    """One answer's objects: a whole one, or the chunks of a stream.

    Args:
        stream_usage: the stream ends with a chunk of token counts, and the chunks before it say that theirs are null.
    """

    def __init__(self, model: str, stream_usage: bool = False) -> None:
        self._no_usage: dict[str, Any] = {"usage": None} if stream_usage else {}
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, reason: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The `chat.completion` object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A `chat.completion.chunk` object."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **self._no_usage}

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


def _messages(value: Any, pictures_first: bool) -> tuple[list[Message], list[Picture]]:
    """Messages as `ChatPrompt` takes them, and their pictures."""
    if not isinstance(value, list) or not value:
        raise RequestError(400, "'messages' is a list of at least one message.", param="messages")
    messages: list[Message] = []
    pictures: list[Picture] = []
    for number, message in enumerate(value):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise RequestError(400, f"{place} isn't an object.", param=place)
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            roles = "system, developer, user or assistant"
            raise RequestError(400, f"{place}: the role is {roles}, not {shown(role)}.", param=f"{place}.role")
        require_known(
            message,
            {"role", "content"},
            neutral=known.MESSAGE_NEUTRAL,
            ignored=known.MESSAGE_IGNORED,
            place=place,
        )
        if "content" not in message and role != "assistant":
            raise RequestError(400, f"{place} has no content.", param=f"{place}.content")
        content = message.get("content")
        if isinstance(content, list):
            content = [_part(part, f"{place}.content[{index}]", role, pictures) for index, part in enumerate(content)]
            content = picture_first(content) if pictures_first and len(pictures) <= 1 else content
        elif content is None:
            content = ""  # an answer of another model that was a call of a tool, or nothing
        elif not isinstance(content, str):
            raise RequestError(400, f"{place}: the content is text or a list of parts.", param=f"{place}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages, pictures


def _part(part: Any, place: str, role: str, pictures: list[Picture]) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "image_url"):
        require_known(part, {"type", kind}, ignored=known.PART_IGNORED, place=place)
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind != "image_url":
        raise RequestError(400, f"{place} is neither a text nor an image_url part.", param=place)
    if role != "user":
        raise RequestError(400, f"{place}: only a user's message can have a picture.", param=place)
    url = part.get("image_url")
    if isinstance(url, dict):
        require_known(url, {"url"}, ignored=known.PICTURE_IGNORED, place=f"{place}.image_url")
        url = url.get("url")
    if not isinstance(url, str):
        raise RequestError(400, f"{place}: image_url is an object with a url.", param=place)
    pictures.append(Picture(url, f"{place}.image_url"))
    return {"type": "image"}


def _stream(fields: dict[str, Any]) -> tuple[bool, bool]:
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
    )
    if not stream:
        raise RequestError(400, "'stream_options' is for answers with \"stream\": true.", param="stream_options")
    return True, bool(usage)


def _max_tokens(fields: dict[str, Any], limits: Limits) -> int:
    names = ("max_completion_tokens", "max_tokens")  # the second is the older name
    given = {name: fields[name] for name in names if fields.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestError(400, f"'{name}' is a whole number of at least 1.", param=name)
    return min(given.values(), default=limits.max_tokens)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(400, f"'stop' is a text or up to {_MAX_STOPS} texts, none empty.", param="stop")
    return tuple(stops)
