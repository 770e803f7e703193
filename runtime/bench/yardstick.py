"""How fast this computer is from moment to moment: one fixed calculation, again and again between the requests.

Two benches differ because the variants do, or because the computer does: its clock, its heat, a neighbour on the same core. The
yardstick tells the second, as no variant's change touches it.
"""

from __future__ import annotations

import time

import numpy as np

_FLOATS, _PASSES = 1 << 15, 8  # 128 KiB: within a core's own cache
_INTEGERS = 1 << 13


class Yardstick:
    """One core's work of about half a millisecond: vector arithmetic within the cache, and branches (a sort)."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._left, self._right = random.random((2, _FLOATS), np.float32)
        self._out = np.empty_like(self._left)
        self._shuffled = random.permutation(_INTEGERS)
        self.seconds: list[float] = []  # in the order of time

    def lap(self, count: int = 1) -> None:
        """Does and times the calculation."""
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(_PASSES):
                np.multiply(self._left, self._right, out=self._out)
                np.sqrt(self._out, out=self._out)
            np.sort(self._shuffled, kind="heapsort")
            self.seconds.append(time.perf_counter() - start)
