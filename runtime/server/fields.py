"""Fields of a request that nothing here reads: some ask for what is done anyway, some can't change an answer, some would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from switchkd.runtime.server.limits import RequestError
from switchkd.runtime.server.notices import Notices

Neutral = Mapping[str, tuple[Any, ...]]

_TOOLS = "the model calls no tools; leave '{}' out, or give the answer a form by 'response_format'"
_TEXT = "the model answers in text alone"
_MISSING = "'{}' isn't supported"

# Of the request. With these values they ask for what is done anyway; some are of other servers with the same API.
NEUTRAL: Neutral = {
    "best_of": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "typical_p": (1,),
    "mirostat": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
# With other values they would change the answer in a way that isn't possible here: why, for a person.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), _TOOLS),
    **dict.fromkeys(("modalities", "audio"), _TEXT),
    "web_search_options": "the model searches nothing",
    **dict.fromkeys(
        ("chat_template", "chat_template_kwargs", "documents", "prompt", "input", "prompt_embeds", "lora_request"),
        _MISSING,
    ),
    **dict.fromkeys(
        ("grammar", "guided_json", "guided_regex", "guided_grammar", "structured_outputs", "json_schema"),
        "'{}' isn't supported; 'response_format' and 'choices' are",
    ),
    **dict.fromkeys(("stop_token_ids", "bad_words", "logits_processors", "samplers"), _MISSING),
    **dict.fromkeys(("tfs_z", "top_a", "epsilon_cutoff", "eta_cutoff", "dry_multiplier", "xtc_probability"), _MISSING),
}
# Whatever they say, the answer is the same: who asks, what is kept, and where; how much to think, which the student doesn't.
IGNORED = frozenset(
    {
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
MESSAGE_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("tool_calls", "tool_call_id", "function_call"), _TOOLS),
    **dict.fromkeys(("audio", "images", "refusal"), _MISSING),
}
# Of a part, and of its picture: hints for caches; whatever the detail, the tower has one size.
PART_IGNORED = frozenset({"cache_control", "id", "uuid"})
PART_REFUSED: Mapping[str, str] = dict.fromkeys(("text", "image_url"), "a part is a text or a picture, not both")
PICTURE_IGNORED = frozenset({"detail", "format", "media_type"})
# Of `stream_options`: bytes that hide how long a piece is.
STREAM_NEUTRAL: Neutral = {"continuous_usage_stats": (False,)}
STREAM_IGNORED = frozenset({"include_obfuscation"})

_NOTHING: tuple[Any, ...] = (None, [], {}, "")  # what clients send for what they don't mean


class Unknown:
    """What is done about fields that nobody here knows.

    Args:
        notices: the log's.
        strict: refuse them; otherwise each name is told once.
    """

    def __init__(self, notices: Notices, strict: bool = False) -> None:
        self._notices, self._strict = notices, strict

    def field(self, name: str, place: str) -> None:
        """A field that says something, and where it stands; raises RequestError 400 where that is to be refused."""
        if self._strict:
            raise _unsupported(name, place, f"the field {shown(name)} isn't known (--strict)")
        self._notices.once(f"Requests have a field {shown(name)}, which isn't known here and changes nothing.")

    def notice(self, text: str) -> None:
        """Tells the log once."""
        self._notices.once(text)


def require_known(
    fields: Mapping[str, Any],
    known: set[str],
    *,
    unknown: Unknown,
    neutral: Neutral | None = None,
    ignored: frozenset[str] = frozenset(),
    refused: Mapping[str, str] | None = None,
    place: str = "",
) -> None:
    """Refuses fields that ask for what can't be done.

    Args:
        known: names that somebody reads.
        unknown: told of names in none of these.
        neutral: names with the values that ask for what is done anyway.
        ignored: names that can't change the answer.
        refused: names that would, with the reason.
        place: where these fields stand in the request; the request itself where it is empty.

    Raises:
        RequestError: 400 with the field's name.
    """
    neutral, refused = neutral or {}, refused or {}
    for name, value in fields.items():
        if name in known or name in ignored or any(_same(value, nothing) for nothing in _NOTHING):
            continue
        if any(_same(value, allowed) for allowed in neutral.get(name, ())):
            continue
        if name in refused:
            raise _unsupported(name, place, refused[name].format(name))
        if name not in neutral:
            unknown.field(name, place)
            continue
        options = " or ".join(json.dumps(allowed) for allowed in neutral[name])
        path = _path(name, place)
        message = f"'{path}' can't be {shown(value)} here, only {options}."
        raise RequestError(400, message, param=path, code="unsupported_value")


def shown(value: Any) -> str:
    """A client's value in an error message: short, one line, ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _unsupported(name: str, place: str, why: str) -> RequestError:
    sentence = f"{place}: {why}." if place else f"{why[0].upper()}{why[1:]}."
    return RequestError(400, sentence, param=_path(name, place), code="unsupported_parameter")


def _path(name: str, place: str) -> str:
    return f"{place}.{name}" if place else name


def _same(value: Any, other: Any) -> bool:
    """Equal as JSON has it: true isn't 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
