"""Energy counters of the machine: RAPL on Intel and AMD, the power rails of Jetson modules.

Sources: Linux' Documentation/power/powercap/powercap.rst; NVIDIA's Jetson developer guide, "Software-Based Power
Consumption Modeling" (INA3221: millivolts and milliamperes of each rail under hwmon).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Protocol

SYS = Path("/sys")
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")  # what the whole module draws; else all rails are added
_PERIOD = 0.05  # seconds between two looks at a rail


class EnergyMeter(Protocol):
    """A counter of joules that only goes up."""

    name: str

    def joules(self) -> float:
        """Energy since the meter was opened."""
        ...

    def close(self) -> None:
        """Stops it."""
        ...


def open_meter(sys: Path = SYS) -> EnergyMeter | None:
    """The machine's meter; None where there is none that this user may read."""
    domains = [path for path in sorted((sys / "class/powercap").glob("intel-rapl:*")) if _is_package(path)]
    if domains and all(_number(domain / "energy_uj") is not None for domain in domains):
        return RaplMeter(domains)
    rails = _find_rails(sys)
    return RailMeter(rails) if rails else None


class RaplMeter:
    """Processor packages by RAPL; each counter wraps around at its own range."""

    name = "RAPL, processor packages"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") or 0 for domain in domains]
        self._last = self._read()
        self._total = 0  # microjoules

    def joules(self) -> float:
        """See `EnergyMeter`. To be called at least once a wrap-around, minutes even on big machines."""
        now = self._read()
        for new, old, size in zip(now, self._last, self._ranges, strict=True):
            self._total += new - old if new >= old else new - old + size
        self._last = now
        return self._total / 1e6

    def close(self) -> None:
        """Nothing to stop."""

    def _read(self) -> list[int]:
        return [_number(domain / "energy_uj") or 0 for domain in self._domains]


class RailMeter:
    """Rails that tell their power, added up over time by a thread."""

    def __init__(self, rails: dict[str, tuple[Path, Path]]) -> None:
        self.name = f"INA3221, {', '.join(rails)}"
        self._rails = list(rails.values())  # (millivolts, milliamperes)
        self._lock = threading.Lock()
        self._joules, self._time, self._power = 0.0, time.monotonic(), self._watts()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """See `EnergyMeter`."""
        with self._lock:
            now, power = time.monotonic(), self._watts()
            self._joules += (now - self._time) * (power + self._power) / 2
            self._time, self._power = now, power
            return self._joules

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(_PERIOD):
            self.joules()

    def _watts(self) -> float:
        return sum((_number(volts) or 0) * (_number(amperes) or 0) for volts, amperes in self._rails) / 1e6


def _find_rails(sys: Path) -> dict[str, tuple[Path, Path]]:
    """Rail name → its files of millivolts and milliamperes."""
    rails = {}
    for label in sorted((sys / "bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        files = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")
        if all(_number(file) is not None for file in files):
            rails[label.read_text().strip()] = files
    whole = {name: files for name, files in rails.items() if name in _INPUT_RAILS}
    return whole or rails


def _is_package(domain: Path) -> bool:
    """Whether it is a processor package: not a part of one, nor the whole platform ("psys"), which holds them all."""
    try:
        return (domain / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
