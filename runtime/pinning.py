"""One thread a processor, for libraries that leave the choice to the system.

A waiting thread that is woken on its caller's own processor runs only when the caller, which spins until that thread has
done its part, has used up its time: 2 to 4 ms. docs/results/bench.md has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def places(threads: int) -> tuple[int, ...]:
    """A processor for each thread, the caller's first; none where that is the system's to choose: it has processors to
    spare, only one, or can't be told."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return tuple(allowed) if len(allowed) == threads > 1 else ()


@contextmanager
def pinned(places: tuple[int, ...]) -> Iterator[None]:
    """Keeps the calling thread on the first of `places`, if there are any (5 microseconds)."""
    if not places:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # the processor may have been taken away since
        os.sched_setaffinity(0, places[:1])
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)
