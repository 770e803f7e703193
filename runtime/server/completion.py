"""Answers in the form of OpenAI's API: a whole one, or the chunks of a stream.

Form: https://platform.openai.com/docs/api-reference/chat/object.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from switchkd.runtime.engines.logprobs import TokenScore
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.engines.token_bytes import TokenBytes
from switchkd.runtime.server.answer import End, Piece

_LEAST = -9999.0  # OpenAI's figure for a token of no probability at all


@dataclass
class Collected:
    """One of a request's answers, put together from its pieces."""

    texts: list[str] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    end: End | None = None


class Completion:
    """One request's objects.

    Args:
        model: the name that the request used.
        token_bytes: of the model's tokenizer.
        stream_usage: the stream ends with a chunk of token counts, and the chunks before it say that theirs are null.
        logprobs: the answer's tokens come with their probabilities.
    """

    def __init__(
        self, model: str, token_bytes: TokenBytes, *, stream_usage: bool = False, logprobs: bool = False
    ) -> None:
        self._no_usage: dict[str, Any] = {"usage": None} if stream_usage else {}
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._token_bytes, self._logprobs = token_bytes, logprobs

    def whole(
        self, answers: Mapping[int, Collected], usage: Mapping[str, Any], timings: Mapping[str, float]
    ) -> dict[str, Any]:
        """The `chat.completion` object."""
        choices = []
        for index, answer in sorted(answers.items()):
            assert answer.end is not None
            message = {"role": "assistant", "content": "".join(answer.texts), "refusal": None}
            scores = self._scores(answer.scores)
            ending = _ending(answer.end)
            choices.append({"index": index, "message": message, "logprobs": scores, **ending})
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage, "timings": timings}

    def role_chunk(self, index: int) -> dict[str, Any]:
        """The chunk that an answer begins with."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece_chunk(self, piece: Piece) -> dict[str, Any]:
        """A piece of an answer."""
        return self._chunk(piece.index, {"content": piece.text}, logprobs=self._scores(piece.scores))

    def end_chunk(self, end: End) -> dict[str, Any]:
        """The chunk that an answer ends with."""
        return self._chunk(end.index, {}, **_ending(end))

    def usage_chunk(self, usage: Mapping[str, Any], timings: Mapping[str, float]) -> dict[str, Any]:
        """The chunk after the last, with no choice."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage, "timings": timings}

    def _chunk(self, index: int, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **self._no_usage}

    def _scores(self, scores: Iterable[TokenScore]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {**self._entry(each.token, each.logprob), "top_logprobs": [self._entry(*pair) for pair in each.top]}
            for each in scores
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._token_bytes[token]
        return {"token": raw.decode(errors="replace"), "logprob": max(logprob, _LEAST), "bytes": list(raw)}


def usage_of(timings: Timings) -> dict[str, Any]:
    """The `usage` object: tokens read, of them not read again, and decoded (end tokens included)."""
    return {
        "prompt_tokens": timings.prompt_tokens,
        "completion_tokens": timings.new_tokens,
        "total_tokens": timings.prompt_tokens + timings.new_tokens,
        "prompt_tokens_details": {"cached_tokens": timings.reused_tokens},
    }


def timings_of(timings: Timings, waited: float) -> dict[str, float]:
    """Seconds by phase, a field of ours: until the engine began, and in it, under the names that the metrics have."""
    phases = {"wait": waited, "encode": timings.encode, "prefill": timings.prefill, "decode": timings.decode}
    return {phase: round(seconds, 6) for phase, seconds in phases.items()}


def _ending(end: End) -> dict[str, Any]:
    """What an answer's last object says of its end; the choices' probabilities are a field of ours."""
    chosen = {} if end.probabilities is None else {"choice_probabilities": dict(end.probabilities)}
    return {"finish_reason": end.reason, **chosen}
