"""Where a picture stands in its message: in front of the words, as models of this kind have it in training.

A question before its picture is another input to a model that has only seen the reverse, and most answers to it are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from switchkd.data.talks import MARKER


def picture_first(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message with its picture in front; what was on both sides of it is two lines then.

    Args:
        parts: `{"type": "text", "text": …}` and at most one `{"type": "image"}`.
    """
    places = [place for place, part in enumerate(parts) if part["type"] == "image"]
    before = "".join(part["text"] for part in parts[: places[0]]) if places else ""
    if not before:
        return list(parts)
    after = "".join(part["text"] for part in parts[places[0] + 1 :])
    lines = [text for text in (before.strip("\n"), after.strip("\n")) if text]
    return [parts[places[0]], *([{"type": "text", "text": "\n".join(lines)}] if lines else [])]


def marked_question(text: str) -> list[dict[str, Any]]:
    """The parts of a question that has one `MARKER` in it: the picture stands there, as in a record."""
    before, _, after = text.partition(MARKER)
    parts = [
        {"type": "text", "text": before},
        {"type": "image"},
        {"type": "text", "text": after.removeprefix("\n")},
    ]
    return [part for part in parts if part.get("text") != ""]
