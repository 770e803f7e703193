"""Where runs lie and what they wrote down of themselves. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from switchkd.errors import SkdError

RUNS = Path("runs")
RECIPE = "recipe.yaml"  # in a run's folder
STAGE_RECORD = "stage.json"  # in a finished stage's folder
MODELS = ("student", "baseline", "teacher")  # links in it


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


def find_in_runs(name: str | Path, run: Path | None = None) -> str:
    """The folder that a person's name of an export or a model means among runs; other names (a folder, `asset:NAME`, a name on
    the hub) as they are.

    Args:
        name: `RUN/NAME`, or the bare name of an export, `student`, `baseline` or `teacher` in `run`.
        run: by default the newest.

    Raises:
        SkdError: a run was named, and has nothing of this name.
    """
    name = str(name)
    if Path(name).expanduser().is_dir():
        return name
    first, separator, rest = name.partition("/")
    there = run
    if separator:
        there = RUNS / first if first and rest and "/" not in rest and (RUNS / first).is_dir() else None
    bare = rest if separator else name
    folder = _in_run(there or RUNS / "latest", bare) if there or not separator else None
    if folder is None and there is not None and not name.startswith("asset:"):
        held = [path.name for path in sorted((there / "exports").glob("[!.]*"))]
        held = [link for link in MODELS if (there / link).exists()] + held
        raise SkdError(f"The run {there} has no {bare}; it has {', '.join(held) or 'no model and no export yet'}.")
    return name if folder is None else str(folder)


def _in_run(run: Path, name: str) -> Path | None:
    exported = run / "exports" / name
    if exported.is_dir():
        return exported
    return run / name if name in MODELS and (run / name).is_dir() else None


def run_of(folders: Iterable[str | Path]) -> Path | None:
    """The one run in which all these folders lie, as their paths `runs/NAME/…` tell; None where there is no such run."""
    named = {Path(*parts[:2]) for parts in (Path(folder).parts for folder in folders) if len(parts) > 2}
    runs = {RUNS / run.resolve().name if run.name == "latest" else run for run in named}
    one = runs.pop() if len(runs) == 1 else None
    return one if one is not None and one.parent == RUNS else None


def find_model(name: str) -> str:
    """`find_in_runs`, local folders as absolute paths, for recipes; a run's link as the folder that it shows now."""
    found = find_in_runs(name)
    folder = Path(found).expanduser()
    if not folder.is_dir():
        return found
    return str(folder.resolve() if folder.is_symlink() and (folder.parent / RECIPE).exists() else folder.absolute())


def existing_run(name: str | None) -> Path | None:
    """The run that `--run NAME` names; None where it isn't given. Raises SkdError where there is no such run."""
    if name is None:
        return None
    if not run_folder(name).is_dir():
        raise SkdError(f"There is no run {run_folder(name)}.")
    return run_folder(name)


def trained_pictures(model: Path) -> int | None:
    """Most pictures in a record that a model was trained on, over all its stages here; None for models trained elsewhere."""
    try:
        record = json.loads((model.resolve().parent / STAGE_RECORD).read_text(encoding="utf-8"))
        return int(record.get("pictures", 1))  # versions that didn't write it took one
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def recorded_recipe(run_folder: Path) -> dict[str, Any]:
    """The settings that a run wrote down.

    Raises:
        SkdError: it has written none, or they can't be read.
    """
    path = run_folder / RECIPE
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
