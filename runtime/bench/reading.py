"""How well a model reads a text, and how far from a reference: every position's distribution, passage by passage.

The reference's distributions lie in files meanwhile, at a vocabulary of 152,000 and 192 tokens 60 MB a passage, so that
neither two models nor a whole text have to be in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.passages import CALIBRATION, PROVING, passages
from switchkd.prompt import ChatPrompt
from switchkd.runtime.bench.divergence import divergence, log_softmax, summarise_divergence
from switchkd.runtime.engines.engine import Engine, Floats

_ROWS = 16  # computed at once


def keep_reading(engine: Engine, ids: Sequence[int], file: Path) -> list[float]:
    """Reads a passage and keeps its distributions in a file, for `compare_reading`.

    Args:
        ids: tokens [T] of a text without a picture.
        file: a new .npy file. It holds logarithms of probabilities [T, V] in float16, whose error is smallest where
            a probability counts: what that adds to a divergence is below 1e-6.

    Returns:
        Nats of surprise at each token but the first, T − 1.
    """
    logits = engine.language.prefill(ids, every=True)
    kept = np.lib.format.open_memmap(file, "w+", np.float16, logits.shape)
    for start in range(0, len(logits), _ROWS):
        kept[start : start + _ROWS] = log_softmax(logits[start : start + _ROWS])
    kept.flush()
    return _surprises(logits, ids)


def compare_reading(engine: Engine, ids: Sequence[int], file: Path) -> dict[str, Any]:
    """Reads a passage that the reference has read.

    Returns:
        "kl": nats from the reference at each position, "same": whether its first choice is the reference's, "surprises": as
        from `keep_reading`. "kl" and "same" are None where the vocabularies differ.
    """
    logits = engine.language.prefill(ids, every=True)
    kept = np.load(file, mmap_mode="r", allow_pickle=False)
    kl, same = None, None
    if kept.shape == logits.shape:
        blocks = [slice(start, start + _ROWS) for start in range(0, len(ids), _ROWS)]
        kl = [float(nats) for rows in blocks for nats in divergence(kept[rows], logits[rows])]
        same = [bool(equal) for rows in blocks for equal in _same_choice(kept[rows], logits[rows])]
    return {"kl": kl, "same": same, "surprises": _surprises(logits, ids)}


@dataclass(frozen=True)
class Page:
    """The package's text to prove on, as a checkpoint's tokenizer cuts it."""

    passages: list[list[int]]
    counting_perplexity: float  # see `counting_perplexity`; by the package's other text

    @classmethod
    def load(cls, prompt: ChatPrompt, *, context: int) -> Page:
        """For a model that holds so many tokens. Raises CheckpointError as `passages`."""
        known, text = (passages(prompt, split, context=context) for split in (CALIBRATION, PROVING))
        return cls(text, counting_perplexity(known, text, prompt.length))


@dataclass(frozen=True)
class TextReference:
    """What a reference made of a page: whether it can read it at all, which decides whether a comparison says anything.

    It can if it predicts the page better than counting the tokens of another text would. A model that was never shown such
    text is far worse than that, and where it guesses, guesses drift.
    """

    page: Page
    surprises: list[list[float]]  # of each passage, as from `keep_reading`

    @property
    def perplexity(self) -> float:
        """Of the page for the reference."""
        return perplexity([nats for each in self.surprises for nats in each])

    @property
    def can_read(self) -> bool:
        """Whether what others make of the page says something of them."""
        return self.perplexity < self.page.counting_perplexity


@dataclass
class Readings:
    """A text as a model read it beside a reference, passage by passage."""

    reference: TextReference
    kl: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    surprises: list[float] = field(default_factory=list)

    def add(self, comparison: Mapping[str, Any]) -> None:
        """What `compare_reading` returned of a passage."""
        self.kl += comparison["kl"] or []
        self.same += comparison["same"] or []
        self.surprises += comparison["surprises"]

    def summary(self) -> dict[str, Any]:
        """As `summarise_divergence` (all None but "positions" where nothing was compared), "perplexity" of this model and
        "reference_perplexity", and "counting_perplexity", below which the reference's has to be."""
        compared = summarise_divergence(self.kl, self.same) if self.kl else _NOTHING
        return compared | {
            "perplexity": perplexity(self.surprises) if self.surprises else None,
            "reference_perplexity": self.reference.perplexity,
            "counting_perplexity": self.reference.page.counting_perplexity,
        }


_NOTHING = {"kl_mean": None, "kl_p99": None, "kl_max": None, "top1": None, "positions": 0}


def perplexity(surprises: Sequence[float]) -> float:
    """e to the mean of surprises in nats; infinite beyond what a float holds."""
    with np.errstate(over="ignore"):
        return float(np.exp(np.mean(surprises)))


def counting_perplexity(known: Sequence[Sequence[int]], text: Sequence[Sequence[int]], rows: int) -> float:
    """What a text's perplexity would be for one who has counted the tokens of another text and knows nothing of order.

    Args:
        known: passages whose tokens are counted, every token of the vocabulary once more.
        text: passages to predict.
        rows: size of the vocabulary.
    """
    counts = np.ones(rows)
    for ids in known:
        np.add.at(counts, ids, 1)
    chosen = np.concatenate([np.asarray(ids[1:], int) for ids in text])
    return perplexity(np.log(counts.sum()) - np.log(counts[chosen]))


def _surprises(logits: Floats, ids: Sequence[int]) -> list[float]:
    """Nats at each token but the first: logits [T, V] → T − 1 figures."""
    found: list[float] = []
    for start in range(0, len(ids) - 1, _ROWS):
        chosen = np.asarray(ids[start + 1 : start + 1 + _ROWS])
        found += (-log_softmax(logits[start : start + len(chosen)])[np.arange(len(chosen)), chosen]).tolist()
    return found


def _same_choice(kept: NDArray[np.float16], logits: Floats) -> NDArray[np.bool_]:
    """Whether what is likeliest by `logits` is so by what was kept, where rounding may have made equals: [A]."""
    chosen = logits.argmax(-1)
    return kept[np.arange(len(kept)), chosen] == kept.max(-1)
