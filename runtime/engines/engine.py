"""What every engine is: a vision encoder and a language model put together, decoding, time by phase.

An engine is put together from two parts, so that formats mix: a tower in one format may feed a language model in another.
Text becomes token ids by `ChatPrompt` and pictures become bytes by `Preprocess`, the same in every engine and in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from switchkd.computer import return_freed_memory
from switchkd.errors import DataError, SkdError
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt, Message
from switchkd.runtime.engines.grammar import Grammar, Grammars
from switchkd.runtime.engines.interfaces import LanguageModel, VisionEncoder
from switchkd.runtime.engines.picture_places import join_features
from switchkd.runtime.engines.sampler import Chooser, Floats, best, chooser
from switchkd.runtime.engines.sampling import GREEDY, Sampling
from switchkd.runtime.engines.timings import Timings
from switchkd.runtime.packages.usage import Usage

_Result = TypeVar("_Result")


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
        self.trained_pictures: int | None = None  # most of a record that it was trained on; None: not known
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
        """Starts a new request's timings, where none begins with pictures."""
        self.timings = Timings()

    def encode_image(self, image: Image) -> Floats:
        """A picture's projected tokens [P, W]; starts a new request's timings.

        Raises:
            DataError: a picture that can't be prepared.
        """
        self.new_request()
        return self.encode_pixels(self._timed("preprocess", self.preprocess.resize, image))

    def encode_images(self, images: Sequence[Image]) -> Floats | None:
        """The same for any number of pictures: [I·P, W], one behind the other; None for none."""
        self.new_request()
        prepared = [self._timed("preprocess", self.preprocess.resize, image) for image in images]
        return join_features([self.encode_pixels(pixels) for pixels in prepared])

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Floats:
        """The same for a picture that was prepared by `preprocess.resize`: bytes [H, W, 3] → [P, W]."""
        return self._timed("encode", self.vision.encode, pixels)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn. Raises DataError where it doesn't fit."""
        ids = self.prompt.encode(messages, image_tokens=self.image_tokens, add_generation_prompt=True).ids
        if len(ids) >= (context := self.language.context):
            pictures = self._count_pictures(ids)
            theirs = f", {pictures * self.image_tokens} of them for {pictures} pictures" if pictures > 1 else ""
            raise DataError(f"The prompt takes {len(ids)} tokens{theirs}, more than the context of {context}.")
        return ids

    def require_room(self, pictures: int) -> None:
        """Raises DataError where so many pictures don't fit, whatever is asked about them; nothing is looked at for it."""
        if pictures * self.image_tokens >= (context := self.language.context):
            taken = f"{pictures} pictures take {pictures * self.image_tokens} tokens"
            raise DataError(f"{taken}, more than the context of {context}.")

    def unfamiliar(self, pictures: int) -> str | None:
        """What to say of a conversation with more pictures than the model ever learned from at once; None where there are not."""
        if self.trained_pictures is None or pictures <= self.trained_pictures:
            return None
        most = {0: "no picture", 1: "one picture"}.get(self.trained_pictures, f"{self.trained_pictures} pictures")
        return f"{self.name} was trained on conversations with at most {most}; what it says of more is a guess."

    def _count_pictures(self, ids: Sequence[int]) -> int:
        return list(ids).count(self.prompt.image_token_id) // self.image_tokens

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
            features: the pictures', from `encode_image` or `encode_images`.
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
            features: the pictures', from `encode_image` or `encode_images`.
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
            messages: the conversation.
            features: its pictures', in their order, from `encode_image` or `encode_images`.
            sampling: how tokens are drawn; greedy unless told otherwise.
            grammar: what the answer fits, of `grammars`.

        Raises:
            DataError: messages of a wrong form, a picture without features or the reverse, or too long a prompt.
        """
        ids = self.encode_prompt(messages)
        self._require_match(ids, 0 if features is None else len(features))
        choose = chooser(sampling, ids)
        if grammar is not None:
            choose = grammar.constrain(choose)
        return self.pieces(self.tokens(ids, features, max_new_tokens=max_new_tokens, choose=choose))

    def _require_match(self, ids: Sequence[int], image_tokens: int) -> None:
        if list(ids).count(self.prompt.image_token_id) != image_tokens:
            given, places = image_tokens // self.image_tokens, self._count_pictures(ids)
            raise DataError(
                f"The messages and the pictures given with them don't match: {places} image parts, {given} pictures."
            )

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

    def answer(self, messages: Sequence[Message], *images: Image, max_new_tokens: int = 256) -> str:
        """The whole greedy answer about any number of pictures, without surrounding white space. Raises as `generate` and
        `encode_image`, and before any picture is looked at where they don't fit."""
        ids = self.encode_prompt(messages)
        self._require_match(ids, len(images) * self.image_tokens)
        features = self.encode_images(images)
        return "".join(self.pieces(self.tokens(ids, features, max_new_tokens=max_new_tokens))).strip()

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
