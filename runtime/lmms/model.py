"""An exported student as a model of lmms-eval (written against its version 0.7.3): `lmms-eval --model skd`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image
from tqdm import tqdm

from switchkd.data.talks import MARKER, parts_at
from switchkd.errors import DataError, SkdError
from switchkd.files import write_text
from switchkd.pictures import side_by_side, to_rgb
from switchkd.prompt import Message
from switchkd.runtime.bench.divergence import log_softmax
from switchkd.runtime.engines.engine import Floats
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.server.answer import StopTexts

Seen = tuple[int, Floats | None]  # pictures, and their features
_Visuals = Callable[[Any], Sequence[Any] | None]


class ExportedStudent(lmms):
    """Answers greedily, one request after the other, on the processor.

    Args:
        variant: an export folder or checkpoint, or the name of one of the newest run's exports.
        threads: processor threads; by default as many as this process may use.
        context: most tokens of a prompt and its answer.
        max_new_tokens: of an answer, for tasks that set no limit.
        apart: show several pictures each by itself, at the text's markers or in front of it; by default where the student was
            trained on several, and otherwise side by side as one picture.
        counts: a file to write the numbers of requests to, by "unanswered" and "joined" (several pictures side by side).
        device, batch_size, max_batch_size: lmms-eval always passes them; the engine has no use for them.

    Raises:
        SkdError: as `open_engine`, or `counts` can't be written.
    """

    is_simple = True

    def __init__(
        self,
        variant: str,
        threads: int | None = None,
        context: int = 4096,
        max_new_tokens: int = 1024,
        counts: str | None = None,
        apart: bool | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._engine = open_engine(str(variant), threads=threads, context=context)
        self._max_new_tokens = max_new_tokens
        self._apart = (self._engine.trained_pictures or 1) > 1 if apart is None else bool(apart)
        self._encoded: tuple[Any, Seen] = (None, (0, None))  # of the document asked last
        self._counts = {"unanswered": 0, "joined": 0}
        self._counts_file = Path(counts) if counts else None

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers to requests of (text, settings, doc_to_visual, document, task, split), in their order.

        A request that the model can't take (too long for its context, an unusable picture) gets an empty answer, and is
        counted in a warning.

        Raises:
            SkdError: a task that wants sampling, beams, or something else than still pictures.
        """

        def answer(text: str, settings: Mapping[str, Any], *about: Any) -> GenerationResult:
            return self._answer(text, about, *_read_settings(settings, self._max_new_tokens))

        return self._each(requests, answer, otherwise="")

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """(loss, whether greedy decoding says it) of each request's continuation, as the answer to its text.

        The loss is the mean of -ln p over the continuation's tokens and the one that ends the answer. That is what
        lmms-eval's own models return, and what its multiple choice takes the lowest of, though its documentation says
        log-likelihood. Requests: (text, continuation, doc_to_visual, document, task, split), or the first two alone. One that
        the model can't take gets an infinite loss, and is counted in a warning.
        """

        def loss(text: str, continuation: Any, *about: Any) -> GenerationResult:
            if callable(continuation):
                continuation = continuation(self._document(about))
            # Wrapped, because lmms-eval 0.7.3 makes a string of a bare tuple.
            return GenerationResult(self._loss(text, continuation, about))

        return self._each(requests, loss, otherwise=(math.inf, False))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises SkdError: questions are asked one by one."""
        raise SkdError("The model skd answers single questions; this task asks in several rounds.")

    def clean(self) -> None:
        """Frees the engine; lmms-eval calls it after the last request."""
        self._engine.close()
        super().clean()

    def _each(
        self, requests: Sequence[Instance], result: Callable[..., GenerationResult], *, otherwise: Any
    ) -> list[GenerationResult]:
        """Results of requests in their order; those that the model can't take get `otherwise` and are counted in a warning."""
        results, failures, before = [], [], self._counts["joined"]
        for request in tqdm(requests, desc="skd"):
            try:
                results.append(result(*request.args))
            except DataError as error:
                asked = " ".join(map(str, reversed(request.args[3:5])))  # task and document, where there are such
                failures.append(f"{asked}: {error}" if asked else str(error))
                results.append(GenerationResult(otherwise))
        self._counts["unanswered"] += len(failures)
        if failures:
            logger.warning(f"skd couldn't answer {len(failures)} of {len(requests)} requests; the first: {failures[0]}")
        if joined := self._counts["joined"] - before:
            logger.warning(f"{joined} questions have several pictures; skd saw them side by side as one.")
        if self._counts_file is not None:
            write_text(self._counts_file, json.dumps(self._counts) + "\n")
        return results

    def _answer(self, text: str, about: Sequence[Any], limit: int, stops: tuple[str, ...]) -> GenerationResult:
        engine, cut = self._engine, StopTexts(stops)
        pictures, features = self._encode(about)
        engine.new_request()
        pieces = []
        for piece in engine.generate([_message(text, pictures)], features, max_new_tokens=limit):
            pieces.append(cut.feed(piece))
            if cut.found:
                break
        counts = TokenCounts(input_tokens=engine.timings.prompt_tokens, output_tokens=engine.timings.new_tokens)
        return GenerationResult("".join([*pieces, cut.rest()]).strip(), counts)

    def _loss(self, text: str, continuation: str, about: Sequence[Any]) -> tuple[float, bool]:
        engine, (pictures, features) = self._engine, self._encode(about)
        asked = [_message(text, pictures)]
        continuation = continuation.lstrip()  # a turn of its own, which the template sets apart; tasks do so by a space
        prompt = engine.encode_prompt(asked)
        whole = engine.prompt.encode(
            [*asked, {"role": "assistant", "content": continuation}], image_tokens=engine.image_tokens
        ).ids
        if whole[: len(prompt)] != prompt:
            raise SkdError("The chat template writes an answer's beginning differently from what it asks answers with.")
        answer = whole[len(prompt) :]
        end = next((place for place, token in enumerate(answer) if token in engine.end_tokens), len(answer) - 1)
        answer = answer[: end + 1]
        if len(prompt) + len(answer) > engine.language.context:
            raise DataError(f"A prompt and answer of {len(prompt) + len(answer)} tokens are longer than the context.")
        losses, greedy = [], True
        for logits, token in zip(engine.follow(prompt, answer, features), answer, strict=True):
            losses.append(_surprise(logits, token))
            greedy &= int(logits.argmax()) == token
        return float(np.mean(losses)), greedy

    def _encode(self, about: Sequence[Any]) -> Seen:
        """(how many pictures the model sees, their features); those of the document asked last are kept, for its other choices.

        A task of several rounds asks each with a function of its own for the pictures, which is why that is compared too.
        """
        if not about:
            return 0, None
        key = tuple(about)
        if self._encoded[0] != key:
            pictures = [_picture(visual) for visual in about[0](self._document(about)) or ()]
            if len(pictures) > 1 and not self._apart:
                self._counts["joined"] += 1
                pictures = [side_by_side(pictures)]
            self._engine.require_room(len(pictures))
            self._encoded = key, (len(pictures), self._engine.encode_images(pictures))
        return self._encoded[1]

    def _document(self, about: Sequence[Any]) -> Any:
        _, document, task, split = about
        return self.task_dict[task][split][document]


def _message(text: str, pictures: int) -> Message:
    """The user's turn: pictures stand at the text's first markers, or in front of it where it has too few; further markers go.
    Without a picture the text stays as it is."""
    if not pictures:
        return {"role": "user", "content": text}
    starts = [found.start() for found in re.finditer(MARKER, text)][:pictures]
    if len(starts) < pictures:
        words = text.replace(MARKER, "")
        return {"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": words}]}
    end = starts[-1] + len(MARKER)
    return {"role": "user", "content": parts_at(text[:end] + text[end:].replace(MARKER, ""), starts)}


def _read_settings(settings: Mapping[str, Any], default: int) -> tuple[int, tuple[str, ...]]:
    """Most new tokens, and texts that end an answer."""
    temperature = settings.get("temperature", 1.0 if settings.get("do_sample") else 0.0) or 0.0
    if (temperature > 0 and settings.get("do_sample", True)) or (settings.get("num_beams") or 1) > 1:
        raise SkdError(
            "skd decodes greedily, and this task asks for sampling or beams; "
            "override it: lmms-eval --gen_kwargs do_sample=False,temperature=0,num_beams=1."
        )
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    return int(settings.get("max_new_tokens") or default), tuple(stop for stop in stops if stop)


def _picture(visual: Any) -> Image.Image:
    if not isinstance(visual, Image.Image):
        raise SkdError(
            f"skd looks at still pictures; this task shows {type(visual).__name__}, a film or a sound perhaps."
        )
    return to_rgb(visual)


def _surprise(logits: Floats, token: int) -> float:
    """-ln p of a token: logits [V]."""
    return -float(log_softmax(logits)[token])
