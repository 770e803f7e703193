"""What quantized builds are judged by: how far their distributions drift from the checkpoint's, on evidence that it knows.

A divergence says something only where the checkpoint knows what it reads: on what it never saw in training its distributions
are noise, and so is their drift (hundreds of times that on its own task). The evidence is

    text      the package's page of plain English, code and chats, if the checkpoint can read it (`TextReference.can_read`)
    pictures  questions that were given; without any, what the checkpoint itself writes about made-up pictures. The mean
              divergence along a model's own draws is that of the two models as distributions of texts.

How far is too far stands with each format's writers: `TOLERANCE` and `MAX_DIVERGENCE` in `gguf/limits.py` and `onnx/limits.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.parity import Reference, measure_loss, refer_all, write_freely
from switchkd.export.samples import Sample, synthetic_samples
from switchkd.runtime.bench.divergence import entropy
from switchkd.runtime.bench.reading import Page, Readings, TextReference, compare_reading, keep_reading
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.interfaces import DEFAULT_CONTEXT
from switchkd.runtime.engines.opening import open_checkpoint

# Samples whose logits are compared at every position, which at a vocabulary of 152,000 takes half a gigabyte each.
WHOLE_SAMPLES = 2
_SYNTHETIC_SAMPLES = 4
_OWN_WORDS = 64  # tokens that the checkpoint writes about each made-up picture
# Nats of a real model's own uncertainty about the next token, with which the limits were set. A model that hardly knows what to say
# (random weights: 6) has distributions so flat that the same relative errors of its logits move them further.
_SURE = 2.5
# What made-up pictures may cost a model that reads the page, which then speaks for its language model: a real one's tower knows
# no such pictures, and its own words about them are few. Sound precisions lose 1.3 to 2.5 times as much there as on text.
_UNSEEN = 3.0
TEXT, QUESTIONS, OWN_WORDS = "text", "questions", "own words"


@dataclass(frozen=True)
class Verdict:
    """What a build is judged by on one evidence."""

    kl_mean: float  # nats
    allowed: float

    @property
    def share(self) -> float:
        """Of what is allowed; more than 1 is too far."""
        return self.kl_mean / self.allowed


@dataclass(frozen=True)
class Loss:
    """How far a build is from its checkpoint."""

    pictures: dict[str, Any]  # see `measure_loss`
    text: dict[str, Any]  # see `Readings.summary`
    judged: dict[str, Verdict]  # by evidence, of what the checkpoint knows

    @property
    def share(self) -> float:
        """The largest share of what is allowed."""
        return max(verdict.share for verdict in self.judged.values())

    @property
    def worst(self) -> str:
        """The evidence of that."""
        return max(self.judged, key=lambda name: self.judged[name].share)


class Proof:
    """A checkpoint's own doing with pictures and text, kept to measure builds against.

    Args:
        samples: questions that were given, those with pictures first; each fits the context.
        folder: takes the distributions on the text, until it is removed.
        threads: processor threads.

    Raises:
        MissingDependencyError: torch or transformers isn't installed.
    """

    def __init__(self, checkpoint: Checkpoint, samples: Sequence[Sample], folder: Path, *, threads: int) -> None:
        self._folder = folder
        context = min(DEFAULT_CONTEXT, checkpoint.text["max_position_embeddings"])
        self._page = Page.load(checkpoint.prompt, context=context)
        seeing = [sample for sample in samples if sample.pictures]
        made_up = synthetic_samples(_SYNTHETIC_SAMPLES if not samples else max(0, WHOLE_SAMPLES - len(seeing)))
        asked = [*seeing, *made_up, *(sample for sample in samples if not sample.pictures)]
        # Not `open_engine`: a folder that holds an export as well would be compared with itself.
        with open_checkpoint(checkpoint.folder, threads=threads) as engine:
            self.references = refer_all(engine, checkpoint.folder, asked, every=WHOLE_SAMPLES)
            after = len(seeing) + len(made_up)
            given = [*self.references[: len(seeing)], *self.references[after:]]
            self.pictures: list[Reference] = given or [
                write_freely(engine, sample, _OWN_WORDS, seed) for seed, sample in enumerate(made_up)
            ]
            surprises = [keep_reading(engine, ids, self._file(place)) for place, ids in enumerate(self._page.passages)]
        self._kind = QUESTIONS if given else OWN_WORDS
        self._entropy = float(np.mean(entropy(np.concatenate([reference.rows for reference in self.pictures]))))
        self._reading = TextReference(self._page, surprises)

    def measure(self, engine: Engine, limit: float) -> Loss:
        """How far a build, opened, is from the checkpoint.

        Args:
            limit: mean KL in nats that its precision may cost; more where the checkpoint is less sure than `_SURE` itself.
        """
        pictures = measure_loss(engine, self.pictures)
        readings = Readings(self._reading)
        for place, ids in enumerate(self._page.passages if self._reading.can_read else ()):
            readings.add(compare_reading(engine, ids, self._file(place)))
        text = readings.summary()
        allowed = limit * max(1.0, self._entropy / _SURE)
        if self._kind == OWN_WORDS and self._reading.can_read:
            allowed *= _UNSEEN
        judged = {self._kind: Verdict(pictures["kl_mean"], allowed)}
        if self._reading.can_read:
            judged[TEXT] = Verdict(text["kl_mean"], limit)
        return Loss(pictures, text, judged)

    def _file(self, place: int) -> Path:
        return self._folder / f"{place}.npy"
