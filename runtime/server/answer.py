"""A request's way through the engine: prompt, pictures, tokens, text, and why it ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from switchkd.errors import CheckpointError, DataError, MissingDependencyError
from switchkd.runtime.engines.choices import weigh
from switchkd.runtime.engines.engine import Engine, Floats
from switchkd.runtime.engines.grammar import Grammar, GrammarError
from switchkd.runtime.engines.logprobs import Scored, TokenScore
from switchkd.runtime.engines.picture_places import join_features
from switchkd.runtime.engines.sampler import chooser
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.server.held_scores import HeldScores
from switchkd.runtime.server.limits import RequestError
from switchkd.runtime.server.request import ChatRequest
from switchkd.runtime.server.stop_texts import StopTexts


@dataclass(frozen=True)
class Piece:
    """A piece of one of a request's answers."""

    index: int  # of the answer
    text: str
    scores: tuple[TokenScore, ...] = ()  # of its tokens, where they are asked for


@dataclass(frozen=True)
class End:
    """How one of them ended."""

    index: int
    reason: str  # "stop": by an end token or a stop text; "length": by a limit
    probabilities: Mapping[str, float] | None = None  # of each choice, where the request has some


@dataclass(frozen=True)
class Outcome:
    """How the request ended."""

    timings: Timings


Answering = Generator[Piece | End, None, Outcome]


def answer(engine: Engine, request: ChatRequest, check: Callable[[], None]) -> Answering:
    """The answers' text, piece by piece as soon as it is sure; a stop text and what follows it are left out.

    Args:
        check: called between a request's steps; raises where it shouldn't go on.

    Raises:
        RequestError: 400 for a conversation that the chat template refuses or the context can't hold, a form of answer that
            can't be followed, or a choice that can't be said.
    """
    engine.new_request()
    ids = _prompt(engine, request)
    grammar = _grammar(engine, request)
    check()
    seen = []
    for pixels in request.pixels:
        seen.append(engine.encode_pixels(pixels))
        check()
    features = join_features(seen)
    if request.choices:
        yield from _chosen(engine, request, ids, features, check)
    else:
        logits = engine.prefill(ids, features)
        for index in range(request.answers):
            if index:
                engine.rewind(len(ids))
            try:
                yield from _said(engine, request, ids, logits, grammar, index, check)
            except GrammarError as error:
                raise RequestError(400, str(error), param="response_format") from error
    return Outcome(engine.timings)


def _said(
    engine: Engine,
    request: ChatRequest,
    ids: list[int],
    logits: Floats,
    grammar: Grammar | None,
    index: int,
    check: Callable[[], None],
) -> Iterator[Piece | End]:
    """One answer behind the prompt that was read."""
    choose = chooser(request.sampling.numbered(index), ids)
    if grammar is not None:
        choose = grammar.constrain(choose)
    scored = None if request.top_logprobs is None else Scored(choose, request.top_logprobs)
    tokens = engine.decode(logits, max_new_tokens=request.max_tokens, choose=scored or choose)
    stops, held = StopTexts(request.stop), HeldScores()
    for piece in engine.pieces(_checked(tokens, check, scored, held)):
        held.follow(piece)
        if text := stops.feed(piece):
            yield Piece(index, text, held.take(text))
        if stops.found:
            yield End(index, "stop")
            return
    if text := stops.rest():
        yield Piece(index, text, held.take(text))
    yield End(index, "stop" if engine.timings.ended else "length")


def _chosen(
    engine: Engine, request: ChatRequest, ids: list[int], features: Floats | None, check: Callable[[], None]
) -> Iterator[Piece | End]:
    """Answers out of the request's list."""
    try:
        top = request.top_logprobs or 0
        weighed = weigh(engine, request.messages, ids, features, request.choices, top=top, check=check)
    except DataError as error:
        raise RequestError(400, str(error), param="choices") from error
    for index in range(request.answers):
        text, followed = weighed.choose(request.sampling.numbered(index))
        if len(followed.scores) > request.max_tokens:
            message = f"The choice {text!a:.60} takes {len(followed.scores)} tokens, more than 'max_tokens' allows."
            raise RequestError(400, message, param="max_tokens")
        engine.timings.new_tokens += len(followed.scores) + 1
        yield Piece(index, text, followed.scores)
        yield End(index, "stop", weighed.probabilities)


def _grammar(engine: Engine, request: ChatRequest) -> Grammar | None:
    if request.schema is None:
        return None
    try:
        return engine.grammars.json_schema(request.schema)
    except (GrammarError, MissingDependencyError) as error:
        raise RequestError(400, str(error), param="response_format") from error


def _prompt(engine: Engine, request: ChatRequest) -> list[int]:
    """Token ids. What can't fit anyway isn't tokenized: that could take longer than any answer."""
    context = engine.language.context
    texts = [text for message in request.messages for text in _texts(message["content"])]
    longest = context * engine.prompt.longest_token
    if max(len(request.messages), len(texts)) > context or sum(map(len, texts)) > longest:
        message = f"The messages are longer than the context of {context} tokens."
        raise RequestError(400, message, param="messages", code="context_length_exceeded")
    try:
        return engine.encode_prompt(request.messages)
    except (DataError, CheckpointError) as error:  # the latter: a template that refuses these roles
        raise RequestError(400, str(error), param="messages") from error


def _texts(content: str | list[dict[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def _checked(
    tokens: Iterable[int], check: Callable[[], None], scored: Scored | None, held: HeldScores
) -> Iterator[int]:
    for token in tokens:
        check()
        if scored is not None:
            held.add(scored.last)
        yield token
