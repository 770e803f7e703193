"""What every engine is: a vision encoder and a language model behind one interface, decoding, time by phase.

An engine is put together from two parts, so that formats mix: a tower in one format may feed a language model in another.
Text becomes token ids by `ChatPrompt` and pictures become bytes by `Preprocess`, the same in every engine and in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from switchkd.computer import return_freed_memory
from switchkd.errors import DataError, SkdError
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt, Message
from switchkd.runtime.engines.grammar import Grammar, Grammars
from switchkd.runtime.engines.sampler import Chooser, Floats, best, chooser
from switchkd.runtime.engines.sampling import GREEDY, Sampling
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.packages.usage import Usage

_Result = TypeVar("_Result")
DEFAULT_CONTEXT = 4096  # tokens of a prompt and its answer together
CPU = "cpu"  # the device that every engine runs on


class VisionEncoder(Protocol):
    """Pictures to the embeddings that stand for them in a prompt."""

    def encode(self, pixels: NDArray[np.uint8]) -> Floats:
        """Bytes [H, W, 3] of exactly the tower's size → projected tokens [P, W]."""
        ...

    def trace(self, pixels: NDArray[np.uint8]) -> dict[str, Floats]:
        """The same, with every stage the format shows: some of "pixels" [3, H, W], "features" [P, W_v], always
        "projected" [P, W]. For checking, not for speed."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


class LanguageModel(Protocol):
    """A language model with its memory of one conversation."""

    context: int  # the most tokens it can hold

    def prefill(self, ids: Sequence[int], features: Floats | None = None, *, every: bool = False) -> Floats:
        """Forgets the last request, reads a prompt, returns next-token logits.

        Args:
            ids: token ids [T]; the image token stands P times where the picture is.
            features: the picture's embeddings [P, W], or None for text alone.
            every: logits after each position instead of after the last.

        Returns:
            [V], or [T, V] with `every`.
        """
        ...

    def step(self, token: int) -> Floats:
        """Appends one token; next-token logits [V], which the next use of this part may overwrite."""
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first tokens of prompt and answer, as many as are given here; at most those in memory."""
        ...

    @property
    def reused(self) -> int:
        """How many of the last prompt's tokens were still in memory and not read again."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


class Engine:
    """Answers questions about pictures. Use as a context manager, or `close` it.

    Args:
        name: what to call it in tables.
        prompt: chat template and tokenizer.
        preprocess: picture to bytes.
        vision, language: the two parts, which the engine owns and closes.
        image_tokens: tokens that one picture takes.
        end_tokens: ids that end an answer.
        load_seconds: how long loading took.
    """

    def __init__(
        self,
        name: str,
        prompt: ChatPrompt,
        preprocess: Preprocess,
        vision: VisionEncoder,
        language: LanguageModel,
        *,
        image_tokens: int,
        end_tokens: frozenset[int],
        load_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.prompt, self.preprocess = prompt, preprocess
        self.vision, self.language = vision, language
        self.image_tokens, self.end_tokens = image_tokens, end_tokens
        self.load_seconds = load_seconds
        self.timings = Timings()  # of the request under way or last finished
        self.usage: Usage | None = None  # of the installed release that it was opened from
        self._open = True

    @cached_property
    def grammars(self) -> Grammars:
        """Forms of answers in this model's tokens."""
        return Grammars(self.prompt, self.end_tokens)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Frees both parts."""
        self._open = False
        self.language.close()
        self.vision.close()
        if self.usage is not None:
            self.usage.close()
        return_freed_memory()

    def new_request(self) -> None:
        """Starts a new request's timings, where none begins with `encode_image`."""
        self.timings = Timings()

    def encode_image(self, image: Image) -> Floats:
        """A picture's projected tokens [P, W]; starts a new request's timings.

        Raises:
            DataError: a picture that can't be prepared.
        """
        self.new_request()
        return self.encode_pixels(self._timed("preprocess", self.preprocess.resize, image))

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """The same for a picture that was prepared by `preprocess.resize`: bytes [H, W, 3] → [P, W]."""
        return self._timed("encode", self.vision.encode, pixels)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn. Raises DataError where it doesn't fit."""
        ids = self.prompt.encode(messages, image_tokens=self.image_tokens, add_generation_prompt=True).ids
        if len(ids) >= self.language.context:
            raise DataError(f"The prompt takes {len(ids)} tokens, more than the context of {self.language.context}.")
        return ids

    def prefill(self, ids: Sequence[int], features: Floats | None = None) -> Floats:
        """Reads a prompt; logits [V] of the answer's first token."""
        logits = self._timed("prefill", self.language.prefill, ids, features)
        self.timings.prompt_tokens, self.timings.reused_tokens = len(ids), self.language.reused
        self.timings.new_tokens = 0
        return logits

    def rewind(self, length: int) -> None:
        """Forgets all but the first `length` tokens of prompt and answer, so that another answer can follow them."""
        self._timed("decode", self.language.rewind, length)

    def next_token(self, token: int) -> Floats:
        """Appends a token; logits [V] of the one after it."""
        return self._step(token).copy()

    def tokens(
        self,
        ids: Sequence[int],
        features: Floats | None = None,
        *,
        max_new_tokens: int = 256,
        choose: Chooser = best,
    ) -> Iterator[int]:
        """The answer's token ids, the end token left out, at most `max_new_tokens` or the context's end.

        Args:
            ids: the prompt [T].
            features: the picture's, from `encode_image`.
            choose: takes each token; the most probable one unless told otherwise.
        """
        yield from self.decode(self.prefill(ids, features), max_new_tokens=max_new_tokens, choose=choose)

    def decode(self, logits: Floats, *, max_new_tokens: int, choose: Chooser = best) -> Iterator[int]:
        """The same behind a prompt that was read: one answer of several, the others after `rewind`.

        Args:
            logits: [V], what `prefill` returned.
        """
        self.timings.ended = False
        room = min(max_new_tokens, self.language.context - self.timings.prompt_tokens)
        for count in range(1, room + 1):
            token = choose(logits)
            self.timings.new_tokens += 1
            if token in self.end_tokens:
                self.timings.ended = True
                return
            yield token
            if count < room:
                logits = self._step(token)  # not kept, so not copied: a percent of the time with a large vocabulary

    def follow(self, ids: Sequence[int], answer: Sequence[int], features: Floats | None = None) -> Iterator[Floats]:
        """Logits [V] from which each token of a given answer would be chosen.

        Args:
            ids: the prompt [T].
            answer: the tokens that are said, whatever this engine would say.
            features: the picture's, from `encode_image`.
        """
        logits = self.prefill(ids, features)
        for place, token in enumerate(answer):
            yield logits
            if place + 1 < len(answer):
                logits = self.next_token(token)

    def generate(
        self,
        messages: Sequence[Message],
        features: Floats | None = None,
        *,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        grammar: Grammar | None = None,
    ) -> Iterator[str]:
        """The answer, piece by piece as it is decoded; a piece is never half a character.

        Args:
            messages: the conversation, at most one of them with a picture.
            features: that picture's, from `encode_image`.
            sampling: how tokens are drawn; greedy unless told otherwise.
            grammar: what the answer fits, of `grammars`.

        Raises:
            DataError: messages of a wrong form, a picture without features or the reverse, or too long a prompt.
        """
        ids = self.encode_prompt(messages)
        expected = 0 if features is None else len(features)
        if ids.count(self.prompt.image_token_id) != expected:
            raise DataError("The messages and the pictures given with them don't match: one picture, one image part.")
        choose = chooser(sampling, ids)
        if grammar is not None:
            choose = grammar.constrain(choose)
        return self.pieces(self.tokens(ids, features, max_new_tokens=max_new_tokens, choose=choose))

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Text of token ids as they come; a piece is never half a character, but for a last one that stays half."""
        before: list[int] = []  # of the last piece: SentencePiece leaves out the space that a text begins with
        pending: list[int] = []
        for token in tokens:
            pending.append(token)
            text = self._decode_after(before, pending)
            if not text.endswith("\ufffd"):  # otherwise the rest of a character is still to come
                before, pending = pending if text else before + pending, []
                yield text
        if pending:
            yield self._decode_after(before, pending)

    def _decode_after(self, before: list[int], ids: list[int]) -> str:
        return self.prompt.decode(before + ids)[len(self.prompt.decode(before)) :]

    def answer(self, messages: Sequence[Message], image: Image | None = None, *, max_new_tokens: int = 256) -> str:
        """The whole greedy answer, without surrounding white space. Raises as `generate` and `encode_image`."""
        if image is None:
            self.new_request()
        features = None if image is None else self.encode_image(image)
        return "".join(self.generate(messages, features, max_new_tokens=max_new_tokens)).strip()

    def _step(self, token: int) -> Floats:
        return self._timed("decode", self.language.step, token)

    def _timed(self, phase: str, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Every use of a part goes through here; one that was freed would end the process."""
        if not self._open:
            raise SkdError(f"The engine of {self.name} is closed: read an answer to its end before.")
        start = time.perf_counter()
        result = work(*arguments)
        setattr(self.timings, phase, getattr(self.timings, phase) + time.perf_counter() - start)
        return result


def picture_span(ids: Sequence[int], image_token_id: int, features: Floats | None) -> tuple[int, int]:
    """Where the picture stands in `ids`, as [start, end); an empty range at the front for text alone.

    Raises:
        ValueError: the image tokens aren't one unbroken run of as many as there are features.
    """
    count = 0 if features is None else len(features)
    start = list(ids).index(image_token_id) if image_token_id in ids else 0
    if list(ids).count(image_token_id) != count or any(token != image_token_id for token in ids[start : start + count]):
        raise ValueError(f"{count} features need as many image tokens in one run")
    return start, start + count
