"""One record of a data file: its pictures, and its way to chat messages. No torch.

    {"id": …, "image": "folder/file.jpg", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                            {"from": "gpt", "value": "…"}, …], "kind": …}

`image` may be absent (text only) or a list, an opening `system` turn and `kind` (a test question's group) are optional. A
record has one `<image>` marker a picture in its human turns, and its pictures stand there in their order. See
docs/inputs.md for the other forms.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.data.reasons import BadRecordError, Reason
from switchkd.data.talks import Place, Turns, parts_at, picture_places, read_pictures, read_turns, refuse_other_media


@dataclass(frozen=True)
class Record:
    """A usable record."""

    id: str | None  # its first 80 characters, unprintable ones escaped
    kind: str  # group of a test question, printed likewise; "all" where the file names none
    images: tuple[str, ...]  # paths inside the image folder
    messages: list[dict[str, Any]]  # chat messages, each picture as an image part


def read_record(raw: bytes) -> Record:
    """Reads one record's JSON.

    Raises:
        BadRecordError: with the first reason that applies.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecordError(Reason.UNSAFE_TEXT, f"not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecordError(Reason.TORN_RECORD, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRecordError(Reason.NOT_AN_OBJECT, "not a JSON object; a file that holds one list is to be named .json")
    turns = read_turns(value)
    refuse_other_media(value, turns)
    images = read_pictures(value)
    return Record(
        id=_name(value),
        kind=_printable(value.get("kind", "all")),
        images=tuple(images),
        messages=_messages(turns, picture_places(turns, len(images))),
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


def picture_path(folder: Path | None, name: str, *, follow_links: bool = False) -> Path:
    """The picture's real path, inside `folder` after every symbolic link. Windows' separators are taken as well.

    Args:
        follow_links: links inside the folder may lead out of it.

    Raises:
        BadRecordError: the path climbs out, is another's absolute one, or leads out through a link; or there is no such file.
    """
    if folder is None:
        raise BadRecordError(Reason.NO_PICTURE, f"{_printable(name)}: no image folder is given")
    try:
        path, inside = _resolve(folder, name, follow_links)
        if not path and "\\" in name:
            path, inside = _resolve(folder, name.replace("\\", "/"), follow_links)
    except (OSError, ValueError) as error:  # a NUL, a lone surrogate, a name too long
        raise BadRecordError(Reason.NO_PICTURE, f"{_printable(name)}: {error}") from error
    if not inside:
        raise BadRecordError(Reason.OUTSIDE_FOLDER, f"{_printable(name)} isn't inside {folder}")
    if not path:
        raise BadRecordError(Reason.NO_PICTURE, f"{_printable(name)} isn't in {folder}")
    return Path(path)


def picture_paths(folder: Path | None, names: Iterable[str], *, follow_links: bool = False) -> tuple[Path, ...]:
    """`picture_path` of each, in their order. Raises as that does, for the first that can't be used."""
    return tuple(picture_path(folder, name, follow_links=follow_links) for name in names)


def _resolve(folder: Path, name: str, follow_links: bool) -> tuple[str, bool]:
    """(the picture's real path, "" where there is no such file; whether its name stays inside). Strings, because pathlib is
    four times slower here."""
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))  # noqa: PTH118
    if ".." in Path(name).parts:
        return "", False
    if not _is_inside(root, path):
        named = os.path.join(root, name)  # noqa: PTH118
        given = _is_inside(root, named) or _is_inside(os.path.abspath(folder), named)  # noqa: PTH100
        if given and not follow_links:
            raise BadRecordError(
                Reason.OUTSIDE_FOLDER,
                f"{_printable(name)} leads out of {folder} through a link; allow that with --follow-links, "
                "or data.follow_links=true in a recipe",
            )
        if not given:
            return "", False
    return path if os.path.isfile(path) else "", True  # noqa: PTH113


def _is_inside(root: str, path: str) -> bool:
    return os.path.commonpath([root, path]) == root


def _messages(turns: Turns, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Chat messages; a turn with pictures as its parts around them, behind each of which the template writes the newline."""
    messages: list[dict[str, Any]] = []
    for number, (role, text) in enumerate(turns):
        starts = [start for turn, start in places if turn == number]
        messages.append({"role": role, "content": parts_at(text, starts) if starts else text})
    return messages
