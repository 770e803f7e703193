"""Memory of a process and its children, and whether it grows without end. Read from /proc; None where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PROC = Path("/proc")
_LEAST_SAMPLES, _LEAST_SECONDS = 20, 20.0
_NEARLY = 0.9
_LEAST_GROWTH, _LEAST_SHARE = 1 << 20, 0.005  # growth below one of these may be chance


def resident(pid: int, proc: Path = PROC) -> int | None:
    """Bytes in memory of a process tree now."""
    return _sum_of("VmRSS", pid, proc)


def peak_resident(pid: int, proc: Path = PROC) -> int | None:
    """Most bytes a process tree has had in memory: the sum of its processes' peaks, exact where there is but one."""
    return _sum_of("VmHWM", pid, proc)


def process_tree(pid: int, proc: Path = PROC) -> list[int]:
    """A process and all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        for path in (proc / str(current)).glob("task/*/children"):
            try:
                waiting += [int(word) for word in path.read_text().split()]
            except OSError:  # it has just ended
                continue
    return found


def _sum_of(name: str, pid: int, proc: Path) -> int | None:
    sizes = [_status_bytes(name, each, proc) for each in process_tree(pid, proc)]
    return None if sizes[0] is None else sum(size for size in sizes if size is not None)


def _status_bytes(name: str, pid: int, proc: Path) -> int | None:
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def judge_growth(samples: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Whether a process that repeats the same work keeps taking memory.

    Args:
        samples: (seconds, bytes), in the order of time.

    Returns:
        "verdict": "steady", "leak", "too short to tell" or "unknown"; "start" and "end", bytes; "growth", bytes over the time that
        counts, and "growth_per_hour", both by Theil and Sen's slope, the median of all pairs' slopes; "seconds" of that
        time. The first quarter doesn't count: caches fill. A leak grows by more than a MiB and half a percent, and nearly
        all of the last third (nine tenths) lies above nearly all of the first: what goes up and down is none.
    """
    if not samples:
        return {"verdict": "unknown", **_ends(samples)}
    if len(samples) < _LEAST_SAMPLES or samples[-1][0] - samples[0][0] < _LEAST_SECONDS:
        return {"verdict": "too short to tell", **_ends(samples)}
    counted = [sample for sample in samples if sample[0] >= samples[0][0] + (samples[-1][0] - samples[0][0]) / 4]
    times, sizes = np.array(counted, float).T
    seconds = float(times[-1] - times[0])
    slope = _slope(times, sizes)
    third = max(1, len(sizes) // 3)
    large = slope * seconds > max(_LEAST_GROWTH, _LEAST_SHARE * float(np.median(sizes)))
    leak = large and np.quantile(sizes[-third:], 1 - _NEARLY) > np.quantile(sizes[:third], _NEARLY)
    return {
        "verdict": "leak" if leak else "steady",
        **_ends(samples),
        "growth": round(slope * seconds),
        "growth_per_hour": round(slope * 3600),
        "seconds": seconds,
    }


def _slope(times: np.ndarray, sizes: np.ndarray) -> float:
    """Theil and Sen's slope; long rows are thinned, as their pairs are many."""
    step = -(-len(times) // 400)
    times, sizes = times[::step], sizes[::step]
    first, second = np.triu_indices(len(times), 1)
    return float(np.median((sizes[second] - sizes[first]) / (times[second] - times[first])))


def _ends(samples: Sequence[tuple[float, int]]) -> dict[str, Any]:
    return {"start": samples[0][1], "end": samples[-1][1]} if samples else {"start": None, "end": None}
