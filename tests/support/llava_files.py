"""Records for the tests of this folder."""

from __future__ import annotations

from typing import Any

IMAGE_TOKENS = 4


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """human and gpt in turn."""
    opening = [] if system is None else [{"from": "system", "value": system}]
    return opening + [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def car(**changes: Any) -> dict[str, Any]:
    """A usable record with a picture."""
    return {"id": "car", "image": "car.png", "conversations": turns("<image>\nWhat is it?", "A car.")} | changes
