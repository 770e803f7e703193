"""How probable a model held a token that was said, and which it held most probable: of its own logits, before any setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from switchkd.runtime.engines.sampler import Chooser, Floats


@dataclass(frozen=True)
class TokenScore:
    """A token's place among all."""

    token: int
    logprob: float  # natural logarithm of its probability
    top: tuple[tuple[int, float], ...] = ()  # the most probable tokens with theirs, best first


def log_total(logits: Floats) -> float:
    """The logarithm of the sum of exponentials [V] → a number, which a logit is compared with."""
    most = float(logits.max())
    return most + float(np.log(np.exp(logits - np.float32(most)).sum(dtype=np.float64)))


def score(logits: Floats, token: int, top: int = 0) -> TokenScore:
    """A token's score from logits [V], with the `top` most probable ones."""
    total = log_total(logits)
    best = np.argpartition(logits, -top)[-top:] if 0 < top < len(logits) else np.arange(len(logits))[: top and None]
    ranked = sorted(((int(each), float(logits[each]) - total) for each in best), key=lambda pair: (-pair[1], pair[0]))
    return TokenScore(token, float(logits[token]) - total, tuple(ranked))


class Scored:
    """A chooser that keeps the score of what it chose last.

    Args:
        choose: chooses.
        top: how many of the most probable tokens are kept with each.
    """

    def __init__(self, choose: Chooser, top: int) -> None:
        self._choose, self._top = choose, top

    def __call__(self, logits: Floats) -> int:
        """The next token for logits [V]."""
        token = self._choose(logits)
        self.last = score(logits, token, self._top)
        return token
