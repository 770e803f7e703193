"""What repeated measurements say: percentiles that have enough samples behind them, and how noisy they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from switchkd.scoring import mean_interval

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
# MLPerf Inference, early stopping at 99 % confidence; a median needs no rule.
SAMPLES_NEEDED = {"p50": 1, "p90": 64, "p99": 662, "p99.9": 6636}
_BLOCKS = 10
_BLOCK_SAMPLES = 5  # fewer make no median worth the name


def percentile(values: Sequence[float], name: str) -> float | None:
    """A percentile by its name in `QUANTILES`, interpolated linearly; None with fewer samples than it needs."""
    if len(values) < SAMPLES_NEEDED[name]:
        return None
    return float(np.quantile(values, QUANTILES[name]))


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Figures of one phase.

    Args:
        values: seconds (or anything else) in the order in which they were measured.

    Returns:
        "n", the percentiles (None where there are too few samples), "mean", "max", and "p50_noise" as in `noise`; all
        but "n" are None without samples.
    """
    there = len(values) > 0
    return {
        "n": len(values),
        **{name: percentile(values, name) for name in QUANTILES},
        "mean": math.fsum(values) / len(values) if there else None,
        "max": max(values) if there else None,
        "p50_noise": noise(values),
    }


def noise(values: Sequence[float]) -> float | None:
    """How uncertain the median is, relative to it: half of its 95 % interval.

    The measurements are cut into up to ten blocks in the order of time. Student's t over the blocks' medians sees what a
    bootstrap of single requests would not: slow changes of the machine. None with fewer than ten samples.
    """
    blocks = min(_BLOCKS, len(values) // _BLOCK_SAMPLES)
    if blocks < 2:
        return None
    medians = [float(np.median(block)) for block in np.array_split(np.asarray(values, float), blocks)]
    middle = float(np.median(values))
    return mean_interval(medians)[1] / middle if middle else None


def drift(values: Sequence[float]) -> float | None:
    """The second half's median relative to the first's, minus 1; None with fewer than ten samples."""
    if len(values) < 2 * _BLOCK_SAMPLES:
        return None
    first, second = (float(np.median(half)) for half in np.array_split(np.asarray(values, float), 2))
    return second / first - 1 if first else None


def ratio(new: float, old: float, new_noise: float | None, old_noise: float | None) -> tuple[float, float | None]:
    """(new / old, its relative uncertainty): the two noises add up as independent errors do, and are None if one is."""
    if new_noise is None or old_noise is None:
        return new / old, None
    return new / old, math.hypot(new_noise, old_noise)
