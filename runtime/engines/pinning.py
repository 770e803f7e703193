"""One thread a processor, for libraries that leave the choice to the system.

A waiting thread that is woken on its caller's own processor runs only when the caller, which spins until that thread has
done its part, has used up its time: 2 to 4 ms. docs/results/bench.md has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from switchkd.computer import ROOT, read_text


def places(threads: int, root: Path = ROOT) -> tuple[int, ...]:
    """A processor for each thread, the caller's first and the fastest; none where that is the system's to choose: it has
    processors to spare, only one, or can't be told."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # Where large and small cores are mixed, the small ones mostly come first.
    allowed.sort(key=lambda at: -int(read_text(root / f"sys/devices/system/cpu/cpu{at}/cpu_capacity").strip() or 0))
    return tuple(allowed) if len(allowed) == threads > 1 else ()


@contextmanager
def pinned(places: tuple[int, ...]) -> Iterator[None]:
    """Keeps the calling thread on the first of `places` (5 microseconds), if there are any and it may still run there."""
    before = os.sched_getaffinity(0) if places else set()
    if not before.intersection(places[:1]):
        yield
        return
    with suppress(OSError):  # taken away meanwhile
        os.sched_setaffinity(0, places[:1])
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)
