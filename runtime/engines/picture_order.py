"""Where pictures stand in their message: in front of the words, as models of this kind have them in training.

A question before its picture is another input to a model that has only seen the reverse, and most answers to it are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from switchkd.data.talks import MARKER, parts_at


def picture_first(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message with its pictures in front, in their order; what stood around them is a line each then.

    Args:
        parts: `{"type": "text", "text": …}` and `{"type": "image"}`.
    """
    runs = [(kind, list(run)) for kind, run in groupby(parts, lambda part: part["type"])]
    texts = ["".join(part["text"] for part in run) for kind, run in runs if kind == "text"]
    pictures = [part for kind, run in runs if kind == "image" for part in run]
    last = max((place for place, (kind, _) in enumerate(runs) if kind == "image"), default=0)
    if not any(part["text"] for kind, run in runs[:last] if kind == "text" for part in run):
        return list(parts)
    lines = [line for text in texts if (line := text.strip("\n"))]
    return [*pictures, *([{"type": "text", "text": "\n".join(lines)}] if lines else [])]


def marked_question(text: str) -> list[dict[str, str]]:
    """The parts of a question: a picture stands at each `MARKER` in it, as in a record."""
    return parts_at(text, [found.start() for found in re.finditer(MARKER, text)])
