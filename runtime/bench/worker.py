"""The process of one variant: it reads requests as lines of JSON, carries them out and answers with lines of JSON.

    {"operation": NAME, ARGUMENT: …}  →  {"result": {…}}  or  {"error": SENTENCE, "question": whether the question is at fault}

It ends when its input does. What libraries print goes to the standard error, so that it can't mix with the answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from switchkd.errors import DataError, SkdError
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.pictures import open_image
from switchkd.prompt import Message
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.bench.reading import compare_reading, keep_reading
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.idling import wait_until_idle
from switchkd.runtime.engines.opening import open_engine


class Worker:
    """One open variant and what can be asked of it; every method is an operation.

    Args:
        folder: an export or a checkpoint.
        threads, context, device: see `open_engine`.
        frames: decoded pictures to keep in memory, for a camera's frames; files are read anew with 0.
    """

    def __init__(self, folder: str, *, threads: int, context: int, device: str, frames: int) -> None:
        start = time.perf_counter()
        if (Path(folder) / FILE_NAME).exists():
            Manifest.load(Path(folder))  # every hash; not a part of loading
        verified = time.perf_counter()
        self.engine: Engine = open_engine(folder, threads=threads, context=context, device=device, verify=False)
        self.opened = {
            "verify": verified - start,
            "load": self.engine.load_seconds,
            "tokenizer": file_sha256(Path(folder) / "tokenizer.json"),
            "context": self.engine.language.context,
        }
        self._picture = lru_cache(maxsize=frames)(open_image)

    def ask(self, images: Sequence[str], messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        """One request as a user makes it: pictures in memory and a question, to the answer's last token.

        Returns:
            "answer"; "seconds" by phase: "preprocess", "encode", "prefill", "first_token" (from the request's start),
            "decode" (all later tokens), "answer" (the whole); "prompt_tokens", "reused_tokens", "new_tokens".
        """
        pictures = [self._picture(path) for path in images]
        engine = self.engine
        start = time.perf_counter()
        features = engine.encode_images(pictures)
        ids = engine.encode_prompt(messages)
        prepared = time.perf_counter()
        tokens = list(engine.tokens(ids, features, max_new_tokens=max_tokens))
        answer = engine.prompt.decode(tokens).strip()
        end = time.perf_counter()
        timings = engine.timings
        return {
            "answer": answer,
            "seconds": {
                **{phase: getattr(timings, phase) for phase in ("preprocess", "encode", "prefill", "decode")},
                "first_token": prepared - start + timings.prefill,
                "answer": end - start,
            },
            **{name: getattr(timings, name) for name in ("prompt_tokens", "reused_tokens", "new_tokens")},
        }

    def refer(self, images: Sequence[str], messages: Sequence[Message], max_tokens: int, file: str) -> dict[str, Any]:
        """Answers greedily and keeps the logits [A, V] that the tokens were chosen from in a .npy file.

        Returns:
            "tokens": the answer's, the end token included.
        """
        features = self.engine.encode_images([self._picture(path) for path in images])
        ids = self.engine.encode_prompt(messages)
        limit = min(max_tokens, self._room(ids))
        rows = [self.engine.prefill(ids, features)]
        tokens = [int(rows[-1].argmax())]
        while tokens[-1] not in self.engine.end_tokens and len(tokens) < limit:
            rows.append(self.engine.next_token(tokens[-1]))
            tokens.append(int(rows[-1].argmax()))
        np.save(file, np.stack(rows), allow_pickle=False)
        return {"tokens": tokens}

    def compare(
        self, images: Sequence[str], messages: Sequence[Message], tokens: Sequence[int], file: str
    ) -> dict[str, Any]:
        """This variant's distributions along the reference's answer, with the pictures, against the reference's.

        Returns:
            "kl": nats a position; "same": whether the first choice is the reference's. Both None where the vocabularies
            differ, and shorter than the answer where this variant's context is.
        """
        features = self.engine.encode_images([self._picture(path) for path in images])
        ids = self.engine.encode_prompt(messages)
        tokens = tokens[: self._room(ids)]
        reference = np.load(file, allow_pickle=False)[: len(tokens)]
        own = np.stack(list(self.engine.follow(ids, tokens, features)))
        if own.shape != reference.shape:
            return {"kl": None, "same": None}
        return {"kl": divergence(reference, own).tolist(), "same": (own.argmax(-1) == np.array(tokens)).tolist()}

    def read(self, ids: Sequence[int], file: str) -> dict[str, Any]:
        """Reads a passage and keeps what it finds likely in a file. Returns "surprises" as `keep_reading`."""
        return {"surprises": keep_reading(self.engine, ids, Path(file))}

    def compare_reading(self, ids: Sequence[int], file: str) -> dict[str, Any]:
        """Reads a passage that the reference has read; see `reading.compare_reading`. One that it has no room for is left out."""
        if len(ids) > self.engine.language.context:
            return {"kl": None, "same": None, "surprises": []}
        return compare_reading(self.engine, ids, Path(file))

    def wait_until_idle(self) -> dict[str, Any]:
        """Returns when the engine's threads sleep, so that they aren't beside whoever is asked next."""
        wait_until_idle()
        return {}

    def _room(self, ids: Sequence[int]) -> int:
        """Most tokens of an answer to this prompt."""
        return self.engine.language.context - len(ids)


_OPERATIONS = ("ask", "refer", "compare", "read", "compare_reading", "wait_until_idle")


def main() -> None:
    """Serves requests until the input ends; the first is "open" with `Worker`'s arguments."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        arguments = json.loads(line)
        operation = arguments.pop("operation")
        try:
            if operation == "open":
                worker = Worker(**arguments)
                result = worker.opened
            elif operation in _OPERATIONS:
                result = getattr(worker, operation)(**arguments)
            else:
                raise ValueError(f"no operation {operation!r}")
            reply: dict[str, object] = {"result": result}
        except Exception as error:
            if not isinstance(error, SkdError):
                traceback.print_exc()
            text = str(error) if isinstance(error, SkdError) else f"{type(error).__name__}: {error}"
            reply = {"error": " ".join(text.split()), "question": _blames_question(error, operation)}
        print(json.dumps(reply), file=channel, flush=True)


def _blames_question(error: Exception, operation: str) -> bool:
    """Whether another question could go well."""
    return operation in _OPERATIONS and isinstance(error, DataError)


if __name__ == "__main__":
    main()
