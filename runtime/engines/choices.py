"""Answers out of a list: how probable each is, exactly, and which is said.

Each choice is followed token by token from the prompt that was read, and its probability is that of its tokens and of an end
behind them: so "yes" and "yes, two" exclude each other. What choices have in common is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from switchkd.errors import CheckpointError, DataError
from switchkd.prompt import Message
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.logprobs import TokenScore, log_total, score
from switchkd.runtime.engines.sampler import Floats, chooser
from switchkd.runtime.engines.sampling import Sampling


@dataclass(frozen=True)
class Followed:
    """A choice that the model was led along."""

    scores: tuple[TokenScore, ...]  # of its tokens
    logprob: float  # of its tokens and an end behind them


class Choices:
    """A list of answers, weighed behind one prompt.

    Args:
        texts: the choices, no two of them alike.
        followed: each one's way.
    """

    def __init__(self, texts: Sequence[str], followed: Sequence[Followed]) -> None:
        self._texts, self._followed = texts, followed
        self._logprobs = np.array([each.logprob for each in followed])

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Choice → its probability among them; together 1."""
        weights = np.exp(self._logprobs - self._logprobs.max())
        return dict(zip(self._texts, (weights / weights.sum()).tolist(), strict=True))

    def choose(self, sampling: Sampling) -> tuple[str, Followed]:
        """The most probable one, or one that is drawn as a token would be."""
        place = chooser(sampling, ())((self._logprobs - self._logprobs.max()).astype(np.float32))
        return self._texts[place], self._followed[place]


def weigh(
    engine: Engine,
    messages: Sequence[Message],
    ids: Sequence[int],
    features: Floats | None,
    texts: Sequence[str],
    *,
    top: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Choices:
    """Reads a prompt and follows each choice.

    Args:
        messages: the conversation.
        ids: its token ids, by `Engine.encode_prompt`.
        features: its picture's.
        texts: the choices.
        top: how many of the most probable tokens are kept with each token.
        check: called between steps; raises where it shouldn't go on.

    Raises:
        DataError: a choice that doesn't fit the context, or is the same as another one.
    """
    answers = [answer_ids(engine, messages, ids, text) for text in texts]
    for text, answer in zip(texts, answers, strict=True):
        if not answer or answers.count(answer) > 1:
            raise DataError(f"The choice {text!r:.60} has no tokens of its own.")
        if len(ids) + len(answer) > engine.language.context:
            raise DataError(f"The choice {text!r:.60} doesn't fit the context of {engine.language.context} tokens.")
    return Choices(texts, list(follow(engine, engine.prefill(ids, features), answers, top=top, check=check)))


def follow(
    engine: Engine,
    logits: Floats,
    answers: Sequence[Sequence[int]],
    *,
    top: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Followed]:
    """The way of each answer behind the prompt that was read, in their order.

    Args:
        logits: [V], what `Engine.prefill` returned.
        answers: token ids, no two alike.
    """
    start = engine.timings.prompt_tokens
    ways: dict[tuple[int, ...], list[TokenScore]] = {(): []}
    done: dict[tuple[int, ...], Followed] = {}
    waiting: list[tuple[int, ...]] = [()]  # beginnings, the one to be read next at the end
    while waiting:
        check()
        said = waiting.pop()
        if said:
            engine.rewind(start + len(said) - 1)
            logits = engine.next_token(said[-1])
        if any(tuple(answer) == said for answer in answers):
            scores = ways[said]
            done[said] = Followed(tuple(scores), sum(each.logprob for each in scores) + _end(engine, logits))
        for token in {answer[len(said)]: None for answer in answers if _goes_on(answer, said)}:
            ways[*said, token] = [*ways[said], score(logits, token, top)]
            waiting.append((*said, token))
    engine.timings.ended = True
    return (done[tuple(answer)] for answer in answers)


def answer_ids(engine: Engine, messages: Sequence[Message], prompt: Sequence[int], text: str) -> list[int]:
    """Token ids of an answer, as they stand behind this prompt in training; without the end.

    Args:
        prompt: the conversation's ids.
    """
    plain = engine.prompt.encode_text(text)
    try:
        whole = [*messages, {"role": "assistant", "content": text}]
        ids = engine.prompt.encode(whole, image_tokens=engine.image_tokens).ids
    except (DataError, CheckpointError):  # a template that writes no such answer
        return plain
    behind = ids[len(prompt) :]
    place = next((place for place, token in enumerate(behind) if token in engine.end_tokens), None)
    said = behind[:place]
    same = engine.prompt.decode(said).strip() == engine.prompt.decode(plain).strip()
    return said if ids[: len(prompt)] == list(prompt) and place is not None and same else plain


def _goes_on(answer: Sequence[int], said: tuple[int, ...]) -> bool:
    return len(answer) > len(said) and tuple(answer[: len(said)]) == said


def _end(engine: Engine, logits: Floats) -> float:
    """The logarithm of an end's probability, whichever end; 0 for a model that has none."""
    ends = [token for token in engine.end_tokens if token < len(logits)]
    return log_total(logits[ends]) - log_total(logits) if ends else 0.0
