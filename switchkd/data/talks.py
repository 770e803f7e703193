"""The turns of a record and the places where its pictures stand, in every form that people write them in. No torch.

    "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", "value": "…"}, …]     LLaVA's
    "messages": [{"role": "user", "content": "<image>\\n…"}, {"role": "assistant", "content": "…"}, …]  transformers'

A message's content may be a list of `{"type": "text", "text": …}` and `{"type": "image"}` parts as well. `<image>` and
`<video>` are words like others in a talk about HTML; as a placeholder one stands at an end of a line and is never closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from switchkd.data.reasons import BadRecordError, Reason

MARKER = "<image>"
Turns = list[tuple[str, str]]  # (role, text)
Place = tuple[int, int]  # (turn, character at which the picture's marker starts)

_LISTS = ("conversations", "messages")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_MEDIA = r"(?:video|audio|depth|sound|speech|lidar|point_?cloud)"
_MEDIA_FIELD = re.compile(rf"{_MEDIA}s?(?:_?(?:path|file|url)s?)?", re.IGNORECASE)
_MARK = re.compile(rf"<(?:image|{_MEDIA})>")


def read_turns(record: Mapping[str, Any]) -> Turns:
    """The turns, in an order that can be trained on: an opening of the assistant's is left out, as LLaVA's code does.

    Raises:
        BadRecordError: there are none, one isn't of the form above, or they don't take turns.
    """
    name = next((name for name in _LISTS if name in record), None)
    talk = record.get(name) if name else None
    if not isinstance(talk, list) or not talk:
        raise BadRecordError(Reason.NO_CONVERSATION, 'no list of turns in "conversations" or "messages"')
    turns = [_read_turn(turn) for turn in talk]
    if not any(role == "assistant" and text.strip() for role, text in turns):
        raise BadRecordError(Reason.NO_ASSISTANT_TURN, "no gpt turn with text")
    opening = 1 if turns[0][0] == "system" else 0
    if turns[opening:] and turns[opening][0] == "assistant":
        del turns[opening]
    spoken = [role for role, _ in turns[opening:]]
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        found = ", ".join(role for role, _ in turns) or "the assistant's alone"
        raise BadRecordError(Reason.BAD_TURN_ORDER, f"turns are {found}; user and assistant have to alternate")
    return turns


def refuse_other_media(record: Mapping[str, Any], turns: Turns) -> None:
    """Raises BadRecordError for a record about a film, a sound or a depth map: without it there is nothing to learn from."""
    fields = [name for name, value in record.items() if _MEDIA_FIELD.fullmatch(name) and _is_named(value)]
    marks = [mark for _, text in _asked(turns) for _, mark in _standing(text) if mark != MARKER]
    if fields or marks:
        what = f'the field "{fields[0]}"' if fields else marks[0]
        raise BadRecordError(Reason.OTHER_MEDIA, f"{what} stands for something that isn't a picture")


def read_pictures(record: Mapping[str, Any]) -> list[str]:
    """The names of the record's pictures, in their order; none where it is of text only.

    Raises:
        BadRecordError: "image" holds something else than paths, or "image" and "images" name different ones.
    """
    named: list[list[Any]] = []
    for field in ("image", "images"):
        value = record.get(field)
        names = [name for name in (value if isinstance(value, list) else [value]) if name not in (None, "")]
        if not all(isinstance(name, str) for name in names):
            raise BadRecordError(Reason.IMAGE_MARKER, f'"{field}" isn\'t a path or a list of paths')
        if names and names not in named:
            named.append(names)
    if len(named) > 1:
        raise BadRecordError(Reason.IMAGE_MARKER, '"image" and "images" name different pictures')
    return named[0] if named else []


def picture_places(turns: Turns, pictures: int) -> list[Place]:
    """Where so many pictures stand, in their order.

    Raises:
        BadRecordError: there are more or fewer markers than pictures.
    """
    every = [(turn, found.start()) for turn, text in _asked(turns) for found in re.finditer(MARKER, text)]
    standing = [(turn, start) for turn, text in _asked(turns) for start, mark in _standing(text) if mark == MARKER]
    places = every if pictures and len(every) == pictures else standing
    if len(places) != pictures:
        raise BadRecordError(Reason.IMAGE_MARKER, f"{len(places)} {MARKER} placeholders for {pictures} pictures")
    return places


def parts_at(text: str, starts: Sequence[int]) -> list[dict[str, str]]:
    """A text as a message's parts, a picture in place of the marker at each of these ascending places; the newline behind it is
    the template's."""
    parts = []
    ends = [0, *(start + len(MARKER) for start in starts)]
    for number, (end, start) in enumerate(zip(ends, [*starts, len(text)], strict=True)):
        piece = text[end:start].removeprefix("\n") if number else text[:start]
        parts += [{"type": "text", "text": piece}] if piece else []
        parts += [{"type": "image"}] if number < len(starts) else []
    return parts


def _read_turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise BadRecordError(Reason.NO_CONVERSATION, "a turn isn't an object")
    said, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    role = _ROLES.get(said) if isinstance(said, str) else None
    if isinstance(text, list):
        text = _joined(text)
    if role is None or not isinstance(text, str):
        raise BadRecordError(
            Reason.NO_CONVERSATION,
            'a turn isn\'t {"from": human, gpt or system, "value": text} or {"role": …, "content": …}',
        )
    return role, text


def _joined(parts: list[Any]) -> str | None:
    """A list of parts as text, with a marker for each picture; None where one is of another kind."""
    texts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image" and len(part) > 1:
            raise BadRecordError(Reason.IMAGE_MARKER, 'a part names its own picture; name it in the record\'s "image"')
        text = f"{MARKER}\n" if kind == "image" else part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def _is_named(value: Any) -> bool:
    """Whether a field names something: numbers and empty values don't."""
    return bool(value) and not isinstance(value, int | float)


def _asked(turns: Turns) -> list[tuple[int, str]]:
    return [(number, text) for number, (role, text) in enumerate(turns) if role == "user"]


def _standing(text: str) -> list[tuple[int, str]]:
    """(start, marker) of those that stand as placeholders."""
    closed = {mark for mark in set(_MARK.findall(text)) if mark.replace("<", "</") in text}
    standing, start = [], 0
    for line in text.splitlines(keepends=True):
        marks = list(_MARK.finditer(line))
        ends = [0, *(found.end() for found in marks)]
        starts = [*(found.start() for found in marks), len(line)]
        blank = [not line[end:begin].strip() for end, begin in zip(ends, starts, strict=True)]
        first = blank.index(False) if False in blank else len(marks)  # so many stand at the line's beginning
        last = len(blank) - 1 - blank[::-1].index(False) if False in blank else 0  # those from here on at its end
        standing += [(start + found.start(), found[0]) for found in {*marks[:first], *marks[last:]}]
        start += len(line)
    return sorted(place for place in standing if place[1] not in closed)
