"""How much of this computer a process may use: processors and memory, a container's limits included. Linux's files, else what
Python knows. Standard library only."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
_CGROUP = "sys/fs/cgroup"


def usable_processors(root: Path = ROOT) -> int:
    """How many processors this process may use: its affinity, and a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_text(root / _CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return allowed


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory of this computer, or of the container where that has less; None where the system doesn't tell."""
    total, limit = _meminfo(root).get("MemTotal"), _limit(root)
    return limit if total is None else min(total, limit or total)


def free_bytes(root: Path = ROOT) -> int | None:
    """Memory that processes can still have, now; None where the system doesn't tell.

    Under a container's limit that is what the container leaves of it, pages of files that nobody uses not counted.
    """
    free, limit = _meminfo(root).get("MemAvailable"), _limit(root)
    used = read_text(root / _CGROUP / "memory.current").strip()
    if limit is None or not used.isdigit():
        return free
    left = max(0, limit - int(used) + _statistics(root, "memory.stat").get("inactive_file", 0))
    return left if free is None else min(free, left)


def times_stopped(root: Path = ROOT) -> int | None:
    """How often this container's quota of processor time has run out; None where there is none."""
    return _statistics(root, "cpu.stat").get("nr_throttled")


def return_freed_memory() -> None:
    """Gives the system back what this process has freed and its allocator still holds. Elsewhere than on glibc nothing happens."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def read_text(path: Path) -> str:
    """A file of the system; empty where it isn't there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _limit(root: Path) -> int | None:
    """A container's memory."""
    limit = read_text(root / _CGROUP / "memory.max").strip()
    return int(limit) if limit.isdigit() else None


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    entries = (line.split() for line in read_text(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in entries if len(words) == 3 and words[1].isdigit()}


def _statistics(root: Path, name: str) -> dict[str, int]:
    """The container's memory.stat (bytes), or cpu.stat."""
    entries = (line.split() for line in read_text(root / _CGROUP / name).splitlines())
    return {words[0]: int(words[1]) for words in entries if len(words) == 2 and words[1].isdigit()}
