"""This computer as a profile: what the system tells and what `measure` measures, kept under the user's cache folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.computer import usable_processors
from switchkd.errors import SkdError
from switchkd.files import write_text
from switchkd.hardware.profile import LOCAL, Profile, ProfileError, load_profile, read_profile, shipped_profile
from switchkd.runtime.computer import local
from switchkd.runtime.engines.formats import known_runtimes

_TIMEOUT = 300.0  # seconds; measuring takes about ten


def find_profile(name: str) -> Profile:
    """A target by name or .toml path; `local` is measured now where it wasn't yet.

    Raises:
        SkdError: there is no such target, its file breaks a rule, or measuring failed.
    """
    try:
        return (kept_local() or probe_local()) if name == LOCAL else load_profile(name)
    except ProfileError as error:
        raise SkdError(str(error)) from error


def kept_local() -> Profile | None:
    """This computer as it was last measured, with the memory that is taken now; None where it wasn't measured yet.

    Raises:
        ProfileError: what was kept can't be used.
    """
    path = cache_file()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ProfileError(f"{path} can't be read: {error}; measure again with `skd hardware probe`.") from error
    if not isinstance(value, dict) or not isinstance(value.get("unknown"), dict):
        raise ProfileError(f"{path} is no profile; measure again with `skd hardware probe`.")
    known, unknown = local.memory_facts()
    kept = {name: figure for name, figure in value.items() if name not in local.MEMORY}
    why = {name: reason for name, reason in value["unknown"].items() if name not in local.MEMORY}
    return read_profile({**kept, **_figures(known), "unknown": why | unknown}, str(path))


def cache_file() -> Path:
    """This computer's own measurement, so that a home folder on several machines keeps one for each: under $XDG_CACHE_HOME,
    by default ~/.cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "switchkd" / "hardware" / f"local-{local.fingerprint()}.json"


def probe_local(*, threads: int | None = None, seconds: float = 2.0, keep: bool = True) -> Profile:
    """Measures this computer.

    Args:
        threads: that measure together; by default all cores that this process may use.
        seconds: for each of four figures.
        keep: store the result for `kept_local`.

    Raises:
        SkdError: measuring failed, or the cache can't be written.
    """
    profile = describe(_measure(threads or usable_processors(), seconds))
    if keep:
        write_text(cache_file(), json.dumps(profile.to_json(), indent=2, ensure_ascii=False) + "\n")
    return profile


def describe(measured: Mapping[str, Any]) -> Profile:
    """This computer's profile with these rates, which are as `measure.measure` gives them.

    Raises:
        SkdError: what the system tells of itself makes no sense.
    """
    known, unknown = local.facts()
    busy = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    figures = _figures(known)
    reasons = {**unknown, **measured["unknown"]}
    for name, figure in measured.items():
        if name != "unknown":
            figures[name] = {**figure, "source": f"{figure['source']}{busy}", "confidence": "measured"}
    runtimes = [
        f"{each.title} (CPU)"
        for each in known_runtimes().values()
        if all(map(importlib.util.find_spec, each.packages.values()))
    ]
    if runtimes:
        figures["runtimes"] = {"value": runtimes, "source": "installed packages", "confidence": "measured"}
    else:
        extras = " or ".join(
            f"'switchkd[{extra.name}]'" for each in known_runtimes().values() for extra in each.extras[:1]
        )
        reasons["runtimes"] = f"none is installed: pip install {extras}"
    base = shipped_profile(LOCAL)
    value = {"name": LOCAL, "title": base.title, "note": base.note, **figures, "unknown": reasons}
    try:
        return read_profile(value, "this computer's profile")
    except ProfileError as error:
        raise SkdError(f"This computer can't be described: {error}") from error


def _figures(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the system tells, as a profile has it."""
    return {
        name: {"value": value, "source": "the operating system", "confidence": "measured"}
        for name, value in known.items()
    }


def _measure(threads: int, seconds: float) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "switchkd.runtime.computer.measure",
        "--threads",
        str(threads),
        "--seconds",
        str(seconds),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        if result.returncode == 0:
            return json.loads(result.stdout)
        why = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise SkdError(f"Measuring this computer failed: {why}.")
