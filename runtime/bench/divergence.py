"""How far apart two models' next-token distributions are: one measure and one summary, for exports' proofs and benches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from switchkd.runtime.bench.statistics import percentile

Floats = NDArray[np.float32]
_ROWS = 16  # computed at once: at a vocabulary of 152,000, 20 MB a copy


def divergence(reference: Floats, other: Floats) -> NDArray[np.float64]:
    """KL(reference ‖ other) in nats of softmax distributions: logits [A, V], [A, V] → [A]."""
    blocks = [
        _divergence(reference[start : start + _ROWS], other[start : start + _ROWS])
        for start in range(0, len(reference), _ROWS)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0)


def entropy(logits: Floats) -> NDArray[np.float64]:
    """A distribution's own uncertainty in nats: logits [A, V] → [A]."""
    blocks = [log_softmax(logits[start : start + _ROWS]) for start in range(0, len(logits), _ROWS)]
    return np.concatenate([-(np.exp(logs) * logs).sum(-1) for logs in blocks]) if blocks else np.empty(0)


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Logarithms of softmax's probabilities: [A, V] → [A, V]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def summarise_divergence(kl: Sequence[float], same: Sequence[bool]) -> dict[str, Any]:
    """What is told of many positions.

    Args:
        kl: nats, at least one.
        same: whether the first choices are equal, as many.

    Returns:
        "kl_mean", "kl_p99" (None with fewer positions than a p99 needs), "kl_max", "top1" (share of equal first choices) and
        "positions".
    """
    return {
        "kl_mean": float(np.mean(kl)),
        "kl_p99": percentile(kl, "p99"),
        "kl_max": float(np.max(kl)),
        "top1": float(np.mean(same)),
        "positions": len(kl),
    }


def _divergence(reference: Floats, other: Floats) -> NDArray[np.float64]:
    p, q = log_softmax(reference), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(-1)
