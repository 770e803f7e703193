"""What a run holds, read from its files alone. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.runs import MODELS, RECIPE, RUNS, STAGE_RECORD, recorded_recipe


@dataclass(frozen=True)
class RunContents:
    """One run; lists are in the order of names, stages in that of their ends."""

    folder: Path
    newest: bool  # what `runs/latest` shows
    recipe: str  # its name; "" where it can't be read
    finished: list[str]  # stages, by their titles
    begun: list[str]  # stages that were interrupted, by their folders
    models: list[str]  # of `MODELS`, those that are there
    exports: list[str]
    packages: list[str]
    scores: dict[str, float]  # model → share of the test questions that it answers right


def all_runs() -> list[RunContents]:
    """Every run under runs/, in the order of names."""
    return [run_contents(path) for path in sorted(RUNS.glob("[!.]*")) if is_run(path) and not path.is_symlink()]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: a recipe alone may be anybody's."""
    return (folder / RECIPE).is_file() and any((folder / name).is_dir() for name in ("stages", *MODELS))


def run_contents(folder: Path) -> RunContents:
    """What lies in a run's folder; a torn file of it is as none."""
    records = sorted((folder / "stages").glob(f"*/{STAGE_RECORD}"), key=lambda path: path.stat().st_mtime)
    begun = sorted(path.parent for path in (folder / "stages").glob("*/checkpoints"))
    latest = RUNS / "latest"
    return RunContents(
        folder=folder,
        newest=latest.exists() and latest.resolve() == folder.resolve(),
        recipe=_recipe(folder),
        finished=[str(read_mapping(path).get("title") or path.parent.name) for path in records],
        begun=[path.name for path in begun if not (path / STAGE_RECORD).exists()],
        models=[name for name in MODELS if (folder / name).exists()],
        exports=[path.name for path in sorted((folder / "exports").glob("[!.]*")) if path.is_dir()],
        packages=[path.name for path in sorted((folder / "packages").glob("[!.]*.tar"))],
        scores=_scores(read_mapping(folder / "reports" / "accuracy.json")),
    )


def _recipe(folder: Path) -> str:
    try:
        return str(recorded_recipe(folder).get("name", ""))
    except SkdError:
        return ""


def _scores(accuracy: dict[str, Any]) -> dict[str, float]:
    """Of each model in a run's accuracy.json, and of not looking."""
    found = {}
    for name, scores in accuracy.items():
        overall = scores.get("all") if isinstance(scores, dict) else None
        if isinstance(overall, dict) and isinstance(overall.get("accuracy"), float):
            found[name] = overall["accuracy"]
    return found


def read_mapping(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where it isn't there or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
