"""Fields of a request that may be said because they ask for what is done anyway, or can't change a greedy answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from switchkd.runtime.server.limits import RequestError

Neutral = Mapping[str, tuple[Any, ...]]

# Of the request. With these values they ask for what is done anyway; some are of other servers with the same API.
NEUTRAL: Neutral = {
    "temperature": (0,),
    "top_p": (1,),
    "top_k": (1, 0, -1),
    "min_p": (0,),
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
# Whatever they say, a greedy answer is the same: who asks, what is kept, and where; how much to think, which the student doesn't.
IGNORED = frozenset(
    {
        "seed",
        "user",
        "safety_identifier",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache_prompt",
        "prediction",
        "reasoning_effort",
        "verbosity",
        "priority",
        "request_id",
        "keep_alive",
    }
)
# Of a message: who of several speaks, and what other models' answers carry along in a history. Templates write none of it.
MESSAGE_NEUTRAL: Neutral = {"prefix": (False,), "partial": (False,)}
MESSAGE_IGNORED = frozenset({"name", "id", "annotations", "reasoning", "reasoning_content", "cache_control"})
# Of a part, and of its picture: hints for caches; whatever the detail, the tower has one size.
PART_IGNORED = frozenset({"cache_control", "id", "uuid"})
PICTURE_IGNORED = frozenset({"detail", "format", "media_type"})
# Of `stream_options`: bytes that hide how long a piece is.
STREAM_NEUTRAL: Neutral = {"continuous_usage_stats": (False,)}
STREAM_IGNORED = frozenset({"include_obfuscation"})

_NOTHING: tuple[Any, ...] = (None, [], {}, "")  # what clients send for what they don't mean


def require_known(
    fields: Mapping[str, Any],
    known: set[str],
    *,
    neutral: Neutral | None = None,
    ignored: frozenset[str] = frozenset(),
    place: str = "",
) -> None:
    """Refuses fields that say something which isn't honoured.

    Args:
        known: names that somebody reads.
        neutral: names with the values that ask for what is done anyway.
        ignored: names that can't change the answer.
        place: where these fields stand in the request; the request itself where it is empty.

    Raises:
        RequestError: 400 with the field's name.
    """
    neutral = neutral or {}
    for name, value in fields.items():
        if name in known or name in ignored or any(_same(value, nothing) for nothing in _NOTHING):
            continue
        path = f"{place}.{name}" if place else name
        if name not in neutral:
            where = f"{place}: " if place else ""
            raise RequestError(
                400, f"{where}the field {shown(name)} isn't supported.", param=path, code="unsupported_parameter"
            )
        if not any(_same(value, allowed) for allowed in neutral[name]):
            options = " or ".join(json.dumps(allowed) for allowed in neutral[name])
            greedy = "; answers are greedy" if name in ("temperature", "top_p", "top_k", "min_p") else ""
            message = f"'{path}' can't be {shown(value)} here, only {options}{greedy}."
            raise RequestError(400, message, param=path, code="unsupported_value")


def shown(value: Any) -> str:
    """A client's value in an error message: short, one line, ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON has it: true isn't 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
