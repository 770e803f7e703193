"""Waiting until an engine's threads idle: PyTorch's and llama.cpp's spin for 10 ms after their work, on a processor that
whoever comes next needs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from switchkd.computer import read_text

LONGEST = 0.1  # seconds; a thread that runs longer isn't waiting but working
_TASKS = Path("/proc/self/task")


def wait_until_idle() -> None:
    """Returns when no other thread of this process runs (Linux; at once elsewhere)."""
    end = time.monotonic() + LONGEST
    while other_threads_run() and time.monotonic() < end:
        pass  # awake itself: a virtual machine's processor that sleeps may come back late


def other_threads_run(tasks: Path = _TASKS) -> bool:
    """Whether a thread of this process but the calling one is on a processor, or wants one (proc(5): state R)."""
    own = str(threading.get_native_id())
    others = (path for path in tasks.glob("*/stat") if path.parent.name != own)
    # "number (name) state …", and a name may hold anything
    return any(read_text(path).rpartition(")")[2].split()[:1] == ["R"] for path in others)
