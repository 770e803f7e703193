"""From logits to a token: the best one, or one drawn by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from switchkd.runtime.engines.sampling import Sampling

Floats = NDArray[np.float32]
Chooser = Callable[[Floats], int]  # logits [V], which it leaves as they are → the token that is said next
_FIRST_LOOK = 128  # tokens that `top_p` is looked for among at first
_COLDEST = 1e-20  # temperature that float32 still divides by
_BLOCK = 512  # weights that are summed up as one


def best(logits: Floats) -> int:
    """The most probable token; the first of equals."""
    return int(logits.argmax())


def chooser(sampling: Sampling, prompt: Iterable[int]) -> Chooser:
    """What chooses one answer's tokens; arguments as of `Sampler`."""
    return best if sampling.greedy else Sampler(sampling, prompt)


class Sampler:
    """Chooses one answer's tokens.

    The order is that of transformers: repetition penalty (of prompt and answer), frequency and presence penalty (of the
    answer alone, as OpenAI has them), temperature, top_k, top_p, min_p.

    Args:
        sampling: the settings.
        prompt: token ids that were read; those that the model has no logit of are left out.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self._sampling = sampling
        self._read = frozenset(prompt)
        self._said: Counter[int] = Counter()
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % (1 << 128))

    def __call__(self, logits: Floats) -> int:
        """The next token for logits [V]; −inf stands for one that can't be said."""
        if self._sampling.penalizes:
            logits = self._penalized(logits)
        token = self._drawn(logits) if self._sampling.temperature else best(logits)
        self._said[token] += 1
        return token

    def _penalized(self, logits: Floats) -> Floats:
        sampling, logits = self._sampling, logits.copy()
        known = np.array([token for token in self._read | self._said.keys() if token < len(logits)], np.int64)
        scores = logits[known]
        penalty = np.float32(sampling.repetition_penalty)
        logits[known] = np.where(scores < 0, scores * penalty, scores / penalty)
        if self._said:
            said = np.fromiter(self._said, np.int64)
            counts = np.fromiter(self._said.values(), np.float32)
            logits[said] -= counts * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
        return logits

    def _drawn(self, logits: Floats) -> int:
        tokens, weights = candidates(logits, self._sampling)
        place = _place(weights, self._random.random())
        return place if tokens is None else int(tokens[place])


def candidates(logits: Floats, sampling: Sampling) -> tuple[NDArray[np.int64] | None, Floats]:
    """What may be drawn: (token ids, or None for all in their order; their probabilities, not normalized).

    Args:
        logits: [V], penalties applied.
        sampling: temperature, top_k, top_p, min_p.
    """
    scores: Floats = (logits - logits.max()) / np.float32(max(sampling.temperature, _COLDEST))
    tokens: NDArray[np.int64] | None = None
    if 0 < sampling.top_k < len(scores):
        # No sort of the whole: the k-th largest is found, and equals of it stay.
        least = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        tokens = np.flatnonzero(scores >= least)
        scores = scores[tokens]
    weights = np.exp(scores)
    if sampling.top_p < 1:
        kept = _nucleus(weights, sampling.top_p)
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    if sampling.min_p > 0:
        kept = np.flatnonzero(weights >= sampling.min_p)  # the best one's weight is 1
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    return tokens, weights


def _nucleus(weights: Floats, top_p: float) -> NDArray[np.int64]:
    """Places of the largest weights that together reach a part of the sum; equals of the least stay.

    Few tokens have nearly all of it as a rule, so the largest few are looked at first, and all where they don't reach.
    """
    wanted = top_p * float(weights.sum())
    for count in (_FIRST_LOOK, len(weights)):
        some = np.partition(weights, -count)[-count:] if count < len(weights) else weights
        largest = np.sort(some)[::-1]
        sums = largest.cumsum(dtype=np.float64)
        if sums[-1] >= wanted:
            break
    least = largest[min(int(sums.searchsorted(wanted, side="left")), len(largest) - 1)]
    return np.flatnonzero(weights >= least)


def _place(weights: Floats, chance: float) -> int:
    """Where a part of the sum is reached, counted from the first weight: first which block, then where in it.

    Args:
        weights: at least 0, not all of them 0.
        chance: from 0 to below 1.
    """
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum(dtype=np.float64)
    wanted = min(chance * blocks[-1], np.nextafter(blocks[-1], 0))  # the product may be rounded up
    block = int(blocks.searchsorted(wanted, side="right"))
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    before = blocks[block - 1] if block else 0.0
    place = int(inside.searchsorted(wanted - before, side="right"))
    if place == len(inside):  # by rounding: the last that has any chance
        place = int(np.flatnonzero(weights[block * _BLOCK : (block + 1) * _BLOCK])[-1])
    return block * _BLOCK + place
