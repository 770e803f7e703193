"""This computer, as far as the operating system tells: cores, instructions, memory. Linux's files, else what Python knows."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

from switchkd.computer import ROOT, free_bytes, memory_bytes, read_text, usable_processors
from switchkd.processor import instructions

# Linux's names (x86 and Arm) → the names that profiles use.
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
MEMORY = ("ram_gb", "system_gb")  # what changes from hour to hour
_LEAST = 1e6  # bytes: a thousandth of a GB, to which figures are rounded


def fingerprint() -> str:
    """Twelve hexadecimal digits that change with the computer: processor, usable cores, memory."""
    facts = (platform.machine(), processor_name(), usable_processors(), round((memory_bytes() or 0) / 1e8))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def processor_name(root: Path = ROOT) -> str:
    """The processor's name as the system gives it, or the architecture."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts() -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of a profile that need no measuring: what is known, and why the rest isn't."""
    known, unknown = memory_facts()
    known |= {
        "architecture": {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine()),
        "cores": {processor_name(): usable_processors()},
        "os": platform.system(),
    }
    unknown |= {
        "clock_ghz": "the clock changes with load; rates are measured instead",
        "memory_gbps": "the bus isn't readable; what the cores reach is measured instead",
        "accelerator": "not probed: engines run on the processor",
        "accelerator_int8_tops": "not probed: engines run on the processor",
        "watts": "not readable",
    }
    has = instructions()
    flags = [name for flag, name in _FLAGS.items() if flag in has]
    if flags:
        known["instructions"] = flags
    else:
        unknown["instructions"] = "the system lists none that matter"
    return known, unknown


def memory_facts(root: Path = ROOT) -> tuple[dict[str, Any], dict[str, str]]:
    """MEMORY alone: how much there is, and how much of it is taken now."""
    memory, free = memory_bytes(root), free_bytes(root)
    if memory is None:
        return {}, dict.fromkeys(MEMORY, "the system doesn't tell")
    known = {"ram_gb": round(memory / 1e9, 3)}
    if free is None:
        return known, {"system_gb": "the system doesn't tell what is free"}
    taken = min(max(memory - free, _LEAST), memory - _LEAST)
    return known | {"system_gb": round(taken / 1e9, 3)}, {}
