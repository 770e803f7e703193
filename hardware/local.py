"""This computer, as far as the operating system tells: cores, instructions, memory. Linux's files, else what Python knows."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

# Linux's flags in /proc/cpuinfo (x86 and Arm) → the names that profiles use.
_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
}


def fingerprint() -> str:
    """Twelve hexadecimal digits that change with the computer: processor, usable cores, memory."""
    facts = (platform.machine(), processor_name(), usable_cores(), round((memory_bytes() or 0) / 1e8))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def usable_cores() -> int:
    """How many cores this process may use: its affinity, and a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return allowed


def processor_name() -> str:
    """The processor's name as the system gives it, or the architecture."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Memory of this computer, or of the container where that has less; None where the system doesn't tell."""
    total = _meminfo().get("MemTotal")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        return min(int(limit), total or int(limit))
    return total


def facts() -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of a profile that need no measuring: what is known, and why the rest isn't."""
    known: dict[str, Any] = {
        "architecture": {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine()),
        "cores": {processor_name(): usable_cores()},
        "os": platform.system(),
    }
    unknown = {
        "clock_ghz": "the clock changes with load; rates are measured instead",
        "memory_gbps": "the bus isn't readable; what the cores reach is measured instead",
        "accelerator": "not probed: engines run on the processor",
        "accelerator_int8_tops": "not probed: engines run on the processor",
        "watts": "not readable",
    }
    flags = _flags()
    if flags:
        known["instructions"] = flags
    else:
        unknown["instructions"] = "the system lists none that matter"
    memory, free = memory_bytes(), _meminfo().get("MemAvailable")
    if memory:
        known["ram_gb"] = round(memory / 1e9, 3)
    else:
        unknown["ram_gb"] = "the system doesn't tell"
    if memory and free and memory - free > 0:
        known["system_gb"] = round(max(memory - free, 1e6) / 1e9, 3)
    else:
        unknown["system_gb"] = "the system doesn't tell what is free"
    return known, unknown


def _flags() -> list[str]:
    lines = _read("/proc/cpuinfo").splitlines()
    words = {
        word for line in lines if line.startswith(("flags", "Features")) for word in line.partition(":")[2].split()
    }
    return [name for flag, name in _FLAGS.items() if flag in words]


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    entries = (line.split() for line in _read("/proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in entries if len(words) == 3 and words[1].isdigit()}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
