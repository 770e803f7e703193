"""One LLaVA record: its form, its reasons for being unusable, and its way to chat messages. No torch.

    {"id": …, "image": "folder/file.jpg", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                            {"from": "gpt", "value": "…"}, …], "kind": …}

`image` may be absent (text only), an opening `system` turn and `kind` (a test question's group) are optional. A record
with a picture has exactly one `<image>` marker in its human turns, and the picture stands there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

MARKER = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Reason(IntEnum):
    """Why a record can't be used; stored as one byte, so the numbers stay."""

    USABLE = 0
    TORN_RECORD = 1  # a JSONL line that isn't JSON
    NOT_AN_OBJECT = 2
    NO_CONVERSATION = 3  # no list of {"from", "value"} turns
    BAD_TURN_ORDER = 4  # not (system), human, gpt, human, gpt …
    NO_ASSISTANT_TURN = 5  # nothing to learn: no gpt turn, or only empty ones
    IMAGE_MARKER = 6  # `<image>` and "image" disagree, or more than one
    UNSAFE_TEXT = 7  # not Unicode, or a noncharacter that the prompt reserves
    OUTSIDE_FOLDER = 8  # the picture's path leaves the image folder
    NO_PICTURE = 9  # there is no such file
    TORN_PICTURE = 10  # it can't be decoded, or is too large
    TOO_LONG = 11  # more tokens than max_length


PICTURE_REASONS = (Reason.OUTSIDE_FOLDER, Reason.NO_PICTURE, Reason.TORN_PICTURE)


class BadRecordError(Exception):
    """A record that can't be used, and why. Counted, never fatal."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """A usable record."""

    id: str | None  # its first 80 characters, unprintable ones escaped
    kind: str  # group of a test question, printed likewise; "all" where the file names none
    image: str | None  # path inside the image folder
    messages: list[dict[str, Any]]  # chat messages, the picture as an image part


def read_record(raw: bytes) -> Record:
    """Reads one record's JSON.

    Raises:
        BadRecordError: with the first reason that applies.
    """
    try:
        value = json.loads(raw)
    except UnicodeDecodeError as error:
        raise BadRecordError(Reason.UNSAFE_TEXT, f"not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(Reason.TORN_RECORD, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRecordError(Reason.NOT_AN_OBJECT, "not a JSON object")
    turns = _read_turns(value.get("conversations"))
    image = value.get("image")
    _check_markers(turns, image)
    return Record(
        id=_name(value),
        kind=_printable(value.get("kind", "all")),
        image=image,
        messages=[{"role": role, "content": _content(role, text, image)} for role, text in turns],
    )


def record_id(raw: bytes) -> str | None:
    """The record's own name, whatever else is wrong with it; None where it has none."""
    try:
        return _name(json.loads(raw))
    except (ValueError, RecursionError):
        return None


def _name(value: Any) -> str | None:
    """It ends up in one-line messages."""
    name = value.get("id") if isinstance(value, dict) else None
    return None if name is None else _printable(name)


def _printable(value: Any) -> str:
    return repr(str(value)[:80])[1:-1]


def picture_path(folder: Path | None, name: str) -> Path:
    """The picture's real path, inside `folder` after every symbolic link.

    Raises:
        BadRecordError: the path is absolute, climbs out, or leads out through a link; or there is no such file.
    """
    if folder is None:
        raise BadRecordError(Reason.NO_PICTURE, f"{name}: no image folder is given")
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))  # noqa: PTH118 (pathlib is four times slower here)
        inside = os.path.commonpath([root, path]) == root and not os.path.isabs(name)  # noqa: PTH117
        found = inside and os.path.isfile(path)  # noqa: PTH113
    except (OSError, ValueError) as error:  # a NUL, a lone surrogate, a name too long
        raise BadRecordError(Reason.NO_PICTURE, f"{name!r}: {error}") from error
    if not inside or ".." in Path(name).parts:
        raise BadRecordError(Reason.OUTSIDE_FOLDER, f"{name} leads out of {folder}")
    if not found:
        raise BadRecordError(Reason.NO_PICTURE, f"{name} isn't in {folder}")
    return Path(path)


def _read_turns(conversations: Any) -> list[tuple[str, str]]:
    """(role, text) of each turn, in an order that can be trained on."""
    if not isinstance(conversations, list) or not conversations:
        raise BadRecordError(Reason.NO_CONVERSATION, "no conversations")
    turns = []
    for turn in conversations:
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        text = turn.get("value") if role else None
        if role is None or not isinstance(text, str):
            raise BadRecordError(Reason.NO_CONVERSATION, 'a turn isn\'t {"from": human, gpt or system, "value": text}')
        turns.append((role, text))
    if not any(role == "assistant" and text.strip() for role, text in turns):
        raise BadRecordError(Reason.NO_ASSISTANT_TURN, "no gpt turn with text")
    spoken = [role for role, _ in turns[turns[0][0] == "system" :]]
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BadRecordError(Reason.BAD_TURN_ORDER, f"turns are {', '.join(role for role, _ in turns)}")
    return turns


def _check_markers(turns: list[tuple[str, str]], image: Any) -> None:
    markers = sum(text.count(MARKER) for role, text in turns if role == "user")
    if image is not None and not isinstance(image, str):
        raise BadRecordError(Reason.IMAGE_MARKER, '"image" isn\'t one path')
    if markers != (image is not None):
        raise BadRecordError(Reason.IMAGE_MARKER, f"{markers} {MARKER} markers for {int(image is not None)} pictures")


def _content(role: str, text: str, image: str | None) -> str | list[dict[str, str]]:
    """The turn's text, or its parts around the picture, behind which the template writes the newline."""
    if image is None or role != "user" or MARKER not in text:
        return text
    before, after = text.split(MARKER)
    parts = ({"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after.removeprefix("\n")})
    return [part for part in parts if part.get("text") != ""]
