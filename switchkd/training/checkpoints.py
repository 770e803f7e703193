"""What an interrupted stage leaves: whole checkpoints, by how many processes, and those that nothing goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.files import write_text

# Written last into a checkpoint; one without it was cut short and is never resumed from.
COMPLETE = "complete"
INPUTS = "inputs.json"  # in a stage's folder: all that its result depends on
_NAME = "checkpoint-"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    return max((path for path in folder.glob(f"{_NAME}*") if (path / COMPLETE).exists()), key=step_of, default=None)


def remove_torn(folder: Path) -> None:
    """Removes checkpoints that were cut short; for whoever holds the stage's lock, as others may be writing one."""
    for path in folder.glob(f"{_NAME}*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written."""
    return int(checkpoint.name.removeprefix(_NAME))


def mark_complete(checkpoint: Path, *, processes: int, deepspeed: bool) -> None:
    """Says that a checkpoint is whole, and who can read it."""
    write_text(checkpoint / COMPLETE, json.dumps({"processes": processes, "deepspeed": deepspeed}) + "\n")


def require_readable(checkpoint: Path, title: str, *, processes: int, deepspeed: bool) -> None:
    """Raises SkdError where a checkpoint is of another number of processes: each wrote its own share of the optimizer's state,
    in DeepSpeed's form or in torch's."""
    wrote, with_deepspeed = _writers(checkpoint)
    if (wrote, with_deepspeed) == (processes, deepspeed):
        return
    cure = f"with --nproc {wrote}" if with_deepspeed else "without --nproc"
    raise SkdError(
        f"{title} was interrupted after step {step_of(checkpoint)}, which was saved {_told(wrote, with_deepspeed)}, and can't go "
        f"on {_told(processes, deepspeed)}: start it {cure}, or from its beginning with --restart."
    )


def tell_orphans(stages: Path, prefix: str, inputs: Mapping[str, Any]) -> list[str]:
    """A line for each interrupted stage of this name whose checkpoints nothing goes on from, because its settings differ."""
    lines = []
    for folder in sorted(stages.glob(f"{prefix}-*")):
        checkpoints = [path for path in (folder / "checkpoints").glob(f"{_NAME}*") if (path / COMPLETE).exists()]
        if not checkpoints or len(folder.name) != len(prefix) + 1 + len(_fingerprint_of(folder)):
            continue
        try:
            theirs = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            theirs = None
        names = ", ".join(_differing(theirs, inputs)) if isinstance(theirs, dict) else "unknown ones"
        if names:
            step = max(map(step_of, checkpoints))
            lines.append(f"{folder} stopped after step {step} with other settings ({names}); it is left as it is")
    return lines


def _fingerprint_of(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: str = "") -> list[str]:
    """Names of the settings that differ, nested ones with their path."""
    names = []
    for key in {**ours, **theirs}:
        one, other = theirs.get(key), ours.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differing(one, other, f"{place}{key}.")
        elif one != other:
            names.append(f"{place}{key}")
    return names


def _writers(checkpoint: Path) -> tuple[int, bool]:
    """(processes, whether by DeepSpeed); versions before this one left an empty mark, so their files have to tell."""
    try:
        told = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return int(told["processes"]), bool(told["deepspeed"])
    except (OSError, ValueError, KeyError, TypeError):
        states = len([*checkpoint.glob("rng_state_*.pth")])
        return max(1, states), any(checkpoint.glob("global_step*"))


def _told(processes: int, deepspeed: bool) -> str:
    return f"in {processes} processes with DeepSpeed" if deepspeed else "in one process"
