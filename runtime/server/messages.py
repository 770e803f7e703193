"""A request's messages: roles, words and pictures."""

from __future__ import annotations

from typing import Any

from switchkd.prompt import Message
from switchkd.runtime.engines.picture_order import picture_first
from switchkd.runtime.server import fields as known
from switchkd.runtime.server.fields import Unknown, require_known, shown
from switchkd.runtime.server.limits import RequestError
from switchkd.runtime.server.picture import Picture

_MOVED = "A request has words before its picture; the picture goes before them, as in training (--picture-order)."
_LEFT = "A request has words before its picture, and --picture-order sent leaves it there: most models were trained the other way."


def read_messages(value: Any, pictures_first: bool, unknown: Unknown) -> tuple[list[Message], list[Picture]]:
    """Messages as `ChatPrompt` takes them, and their pictures.

    Args:
        value: the request's field.
        pictures_first: pictures go before the words of their message, wherever they were sent.
        unknown: told of fields that are known to nobody, and of a picture behind words.

    Raises:
        RequestError: 400 for what isn't of the API's form, or can't be seen or said by the model.
    """
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
            refused=known.MESSAGE_REFUSED,
            place=place,
            unknown=unknown,
        )
        if "content" not in message and role != "assistant":
            raise RequestError(400, f"{place} has no content.", param=f"{place}.content")
        content = message.get("content")
        if isinstance(content, list):
            content = [
                _part(part, f"{place}.content[{index}]", role, pictures, unknown) for index, part in enumerate(content)
            ]
            if (first := picture_first(content)) != content:
                unknown.notice(_MOVED if pictures_first else _LEFT)
                content = first if pictures_first else content
        elif content is None:
            content = ""  # an answer of another model that was a call of a tool, or nothing
        elif not isinstance(content, str):
            raise RequestError(400, f"{place}: the content is text or a list of parts.", param=f"{place}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages, pictures


def _part(part: Any, place: str, role: str, pictures: list[Picture], unknown: Unknown) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "image_url"):
        require_known(
            part, {"type", kind}, ignored=known.PART_IGNORED, refused=known.PART_REFUSED, place=place, unknown=unknown
        )
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind != "image_url":
        raise RequestError(400, f"{place} is neither a text nor an image_url part.", param=place)
    if role != "user":
        raise RequestError(400, f"{place}: only a user's message can have a picture.", param=place)
    url = part.get("image_url")
    if isinstance(url, dict):
        require_known(url, {"url"}, ignored=known.PICTURE_IGNORED, place=f"{place}.image_url", unknown=unknown)
        url = url.get("url")
    if not isinstance(url, str):
        raise RequestError(400, f"{place}: image_url is an object with a url.", param=place)
    pictures.append(Picture(url, f"{place}.image_url"))
    return {"type": "image"}
