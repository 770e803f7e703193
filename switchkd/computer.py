"""How much of this computer a process may use: processors and memory, the limits of containers and services included. Linux's
files, else what Python knows. Standard library only."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from switchkd.cgroups import groups
from switchkd.cgroups import read_text as read_text

ROOT = Path("/")
_Number = TypeVar("_Number", int, float)


def usable_processors(root: Path = ROOT) -> int:
    """How many processors this process may use: its affinity, and the smallest quota of the groups that it is in."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _least(group.processors for group in groups("cpu", root))
    return allowed if quota is None else min(allowed, max(1, round(quota)))


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory of this computer, or of the container where that has less; None where the system doesn't tell."""
    return _least([_meminfo(root).get("MemTotal"), *(group.memory_bytes for group in groups("memory", root))])


def free_bytes(root: Path = ROOT) -> int | None:
    """Memory that processes can still have, now; None where the system doesn't tell.

    Under a container's limit that is what the container leaves of it, pages of files that nobody uses not counted.
    """
    return _least([_meminfo(root).get("MemAvailable"), *(group.free_bytes for group in groups("memory", root))])


def times_stopped(root: Path = ROOT) -> int | None:
    """How often quotas of processor time have run out, of the groups that this process is in; None where there is none."""
    counts = [count for group in groups("cpu", root) if (count := group.times_stopped) is not None]
    return sum(counts) if counts else None


def return_freed_memory() -> None:
    """Gives the system back what this process has freed and its allocator still holds. Elsewhere than on glibc nothing happens."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _least(values: Iterable[_Number | None]) -> _Number | None:
    return min((value for value in values if value is not None), default=None)


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    entries = (line.split() for line in read_text(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in entries if len(words) == 3 and words[1].isdigit()}
