"""A request's way through the engine: prompt, picture, tokens, text, and why it ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from switchkd.errors import CheckpointError, DataError
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.server.limits import RequestError
from switchkd.runtime.server.protocol import ChatRequest


@dataclass(frozen=True)
class Outcome:
    """How an answer ended."""

    reason: str  # "stop": by an end token or a stop text; "length": by a limit
    timings: Timings


def answer(engine: Engine, request: ChatRequest, check: Callable[[], None]) -> Generator[str, None, Outcome]:
    """The answer's text, piece by piece as soon as it is sure; a stop text and what follows it are left out.

    Args:
        check: called between a request's steps; raises where it shouldn't go on.

    Raises:
        RequestError: 400 for a conversation that the chat template refuses or the context can't hold.
    """
    engine.new_request()
    ids = _prompt(engine, request)
    check()
    features = None if request.pixels is None else engine.encode_pixels(request.pixels)
    check()
    stops = StopTexts(request.stop)
    tokens = engine.tokens(ids, features, max_new_tokens=request.max_tokens)
    for piece in engine.pieces(_checked(tokens, check)):
        if text := stops.feed(piece):
            yield text
        if stops.found:
            return Outcome("stop", engine.timings)
    if text := stops.rest():
        yield text
    return Outcome("stop" if engine.timings.ended else "length", engine.timings)


class StopTexts:
    """Cuts a text that comes in pieces before the first stop text; what may be the beginning of one is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What of the text so far is sure and new."""
        self._held += piece
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        sure = len(self._held) - keep
        text, self._held = self._held[:sure], self._held[sure:]
        return text

    def rest(self) -> str:
        """What was held back, at the answer's end."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that `stop` begins with, in characters."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)


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


def _checked(tokens: Iterable[int], check: Callable[[], None]) -> Iterator[int]:
    for token in tokens:
        check()
        yield token
