"""Where runs lie. Standard library only."""

from __future__ import annotations

from pathlib import Path

from switchkd.errors import SkdError

RUNS = Path("runs")


def run_folder(name: str) -> Path:
    """Where a run of this name lies: `runs/NAME`, or the path itself where one is given."""
    return Path(name) if "/" in name else RUNS / name


def latest_run() -> Path:
    """The newest run's folder.

    Raises:
        SkdError: there is none yet.
    """
    latest = RUNS / "latest"
    if not latest.exists():
        raise SkdError("There is no run yet: start with `skd distill`, or name a checkpoint.")
    return RUNS / latest.resolve().name
