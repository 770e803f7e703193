"""The machine that a bench ran on: what it is, and in which state it was. Files of Linux; what isn't there is None."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import switchkd
from switchkd.computer import ROOT, memory_bytes, times_stopped, usable_processors
from switchkd.processor import instructions
from switchkd.runtime.computer.local import processor_name
from switchkd.runtime.engines.formats import known_runtimes

# Instruction sets that engines choose their kernels by.
_ISA = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_BUSY_LOAD = 0.5  # a core, before the bench
_BUSY_SHARE, _STOLEN_SHARE = 0.05, 0.01  # of the processor, during it
_HOT = 90.0  # °C


def machine_facts(root: Path = ROOT) -> dict[str, Any]:
    """What doesn't change while a bench runs: processor, memory, system, versions, commit."""
    has = instructions(root)
    engines = [name for each in known_runtimes().values() for name in each.packages]
    packages = dict.fromkeys(("torch", "transformers", *engines, "numpy", "pillow", "tokenizers"))
    return {
        "cpu": processor_name(root),
        "architecture": platform.machine(),
        "isa": [name for name in _ISA if name in has],
        "cores": os.cpu_count(),
        "usable_cores": usable_processors(root),
        "memory_bytes": memory_bytes(root),
        "governor": _governor(root),
        "system": platform.platform(),
        "versions": {"skd": switchkd.__version__, "python": platform.python_version(), **_versions(packages)},
        "commit": _commit(Path(switchkd.__file__).parent),
    }


@dataclass(frozen=True)
class Conditions:
    """The machine's state at one moment."""

    load: float | None  # programs that ran or waited, averaged over a minute
    temperature: float | None  # of the hottest zone, °C
    throttled: int | None  # times the processor slowed down for its heat since it was started
    cooling: int | None  # devices that slow the processor down now
    stopped: int | None  # times a container's quota stopped its processes, since it was started
    busy: float  # seconds of processor time used by anyone since the start, on the cores this process may use
    stolen: float  # seconds of it that a virtual machine's host took
    total: float  # seconds of processor time there were
    own: float  # seconds of processor time used by this process and its ended children

    @classmethod
    def now(cls, root: Path = ROOT) -> Conditions:
        """Reads them."""
        times = os.times()
        return cls(
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            temperature=_hottest(root),
            throttled=_throttle_count(root),
            cooling=_active_cooling(root),
            stopped=times_stopped(root),
            **_processor_times(root),
            own=times.user + times.system + times.children_user + times.children_system,
        )


def describe_conditions(before: Conditions, after: Conditions, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Before, after and in between: "load", "temperature" as [before, after], "others" and "stolen" as shares of the
    processor, "throttled" and "stopped" as times, and "warnings", sentences."""
    total = after.total - before.total
    others = (after.busy - before.busy - (after.own - before.own)) / total if total else None
    stolen = (after.stolen - before.stolen) / total if total else None
    throttled = None if after.throttled is None else after.throttled - (before.throttled or 0)
    stopped = None if after.stopped is None else after.stopped - (before.stopped or 0)
    report = {
        "load": [before.load, after.load],
        "temperature": [before.temperature, after.temperature],
        "others": None if others is None else max(0.0, others),
        "stolen": stolen,
        "throttled": throttled,
        "stopped": stopped,
        "cooling": after.cooling,
    }
    return report | {"warnings": list(_warnings(report, facts))}


def _warnings(report: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterable[str]:
    load, cores = report["load"][0], facts["cores"]
    if load is not None and load > _BUSY_LOAD * cores:
        yield f"The machine was busy when the bench began: load {load:.1f} with {cores} processor cores."
    if (report["others"] or 0) > _BUSY_SHARE:
        yield f"Other programs used {100 * report['others']:.0f} % of the processor during the bench."
    if (report["stolen"] or 0) > _STOLEN_SHARE:
        yield f"The host of this virtual machine took {100 * report['stolen']:.0f} % of the processor during the bench."
    if report["throttled"]:
        yield f"The processor was throttled {report['throttled']} times for its heat."
    if report["stopped"]:
        yield f"The container's quota of processor time ran out {report['stopped']} times during the bench."
    if report["cooling"]:
        yield "The processor is slowed down to cool."
    if (report["temperature"][1] or 0) >= _HOT:
        yield f"The machine is hot: {report['temperature'][1]:.0f} °C."
    if facts["governor"] not in (None, "performance"):
        yield f"The frequency governor is '{facts['governor']}', so the clock changes; 'performance' keeps it steadier."


def _governor(root: Path) -> str | None:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for path in paths if (text := _text(path))})
    return ", ".join(names) or None


def _hottest(root: Path) -> float | None:
    zones = [_number(path) for path in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [zone / 1000 for zone in zones if zone is not None]
    return max(degrees, default=None)


def _throttle_count(root: Path) -> int | None:
    pattern = "cpu[0-9]*/thermal_throttle/core_throttle_count"
    counts = [_number(path) for path in (root / "sys/devices/system/cpu").glob(pattern)]
    return sum(count for count in counts if count is not None) if counts else None


def _active_cooling(root: Path) -> int | None:
    """Cooling devices that lower the processor's clock, as ARM boards have them."""
    states = [
        _number(path.with_name("cur_state"))
        for path in (root / "sys/class/thermal").glob("cooling_device*/type")
        if "cpufreq" in (_text(path) or "")
    ]
    return sum(bool(state) for state in states) if states else None


def _processor_times(root: Path) -> dict[str, float]:
    """proc(5): user, nice, system, idle, iowait, irq, softirq, steal in hundredths of a second, of the cores this process may
    use together."""
    rows = [line.split() for line in (_text(root / "proc/stat") or "").splitlines() if line.startswith("cpu")]
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    own = [row[1:9] for row in rows if row[0] in allowed and len(row) >= 9] or [row[1:9] for row in rows[:1]]
    ticks = [sum(int(word) for word in column) / os.sysconf("SC_CLK_TCK") for column in zip(*own, strict=True)]
    if len(ticks) < 8:
        return {"busy": 0.0, "stolen": 0.0, "total": 0.0}
    idle, stolen = ticks[3] + ticks[4], ticks[7]
    return {"busy": sum(ticks) - idle - stolen, "stolen": stolen, "total": sum(ticks)}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit(folder: Path) -> str | None:
    """The commit of the checkout that skd runs from, with "+" where files differ from it; None where it is installed."""
    git = ["git", "-C", str(folder)]
    try:
        run = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        top = subprocess.run([*git, "rev-parse", "--show-prefix", "HEAD"], **run).stdout.split()  # type: ignore[call-overload]
        if top[0] != "switchkd/":  # an environment that lies inside somebody's repository
            return None
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
    return top[1] + ("+" if changed else "")


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
