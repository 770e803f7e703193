"""Where runs lie and what they wrote down of themselves. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

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


def recorded_recipe(run_folder: Path) -> dict[str, Any]:
    """The settings that a run wrote down.

    Raises:
        SkdError: it has written none, or they can't be read.
    """
    path = run_folder / "recipe.yaml"
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SkdError(f"{path} can't be read: {' '.join(str(error).split())}.") from error
    if not isinstance(recipe, dict):
        raise SkdError(f"{path} is no recipe.")
    return recipe


def data_folder(run_folder: Path, data: Mapping[str, Any]) -> Path:
    """Where a run's data lies, by the recipe's settings `data`."""
    return run_folder / "data" if data["source"] == "roadscenes" else Path(data["folder"] or ".")


def recorded_questions(run_folder: Path, split: str) -> tuple[Path, Path]:
    """Question file and picture folder of a run's split, as its recipe recorded them.

    Raises:
        SkdError: the run has no such split.
    """
    data = recorded_recipe(run_folder)["data"]
    folder = data_folder(run_folder, data)
    file = folder / data[split]
    if not file.is_file():
        raise SkdError(f"The run {run_folder} has no {split} questions; name a file with --data.")
    return file, folder / data["test_images"]
