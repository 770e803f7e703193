"""How far apart two models' next-token distributions are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def divergence(reference: Floats, other: Floats) -> NDArray[np.float64]:
    """KL(reference ‖ other) in nats of softmax distributions: logits [A, V], [A, V] → [A]."""
    p, q = _log_softmax(reference), _log_softmax(other)
    return (np.exp(p) * (p - q)).sum(-1)


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
