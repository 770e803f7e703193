"""What an export was made from, as far as its run wrote it down: data sets with their hashes, checkpoints by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.files import file_sha256, folder_sha256
from switchkd.manifest import Origin
from switchkd.runs import data_folder, recorded_recipe

_MADE_HERE = "part"  # the kind of checkpoint that the recipe itself trains


@dataclass(frozen=True)
class TrainedFile:
    """A file that was trained on."""

    name: str  # in the recipe
    file: str  # its name
    sha256: str | None  # of the file as it is now, without pictures; None where it is gone


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint comes from; empty where nothing is recorded."""

    recipe: str | None = None  # its name
    role: str | None = None  # student, baseline or teacher
    data: list[TrainedFile] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)  # folders and hub names that the recipe starts from


def provenance(variant: Path, source: Origin) -> Provenance:
    """Reads the records of the run that an export folder lies in.

    They are believed only where the run's model still has the hash that the export names as its source.
    """
    run = variant.resolve().parent.parent
    role = next((role for role in ("student", "baseline", "teacher") if _is_source(run / role, source)), None)
    if role is None:
        return Provenance()
    try:
        recipe = recorded_recipe(run)
        reader = _RecipeReader(recipe)
        reader.add_model(role)
        folder = data_folder(run, recipe["data"])
        files = {name: folder / recipe["data"]["sets"][name]["file"] for name in sorted(reader.data)}
        title = str(recipe["name"])
    except (SkdError, KeyError, TypeError, AttributeError):
        return Provenance()
    data = [TrainedFile(name, path.name, file_sha256(path) if path.is_file() else None) for name, path in files.items()]
    return Provenance(title, role, data, sorted(reader.checkpoints))


def _is_source(model: Path, source: Origin) -> bool:
    return model.is_dir() and folder_sha256(model) == source.sha256


class _RecipeReader:
    """Collects what the stages of a model read, and those of the models that it starts or learns from."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self._recipe = recipe
        self._seen: set[str] = set()
        self.data: set[str] = set()
        self.checkpoints: set[str] = set()

    def add_model(self, role: str) -> None:
        """The student, its baseline or the teacher."""
        if role in self._seen:
            return
        self._seen.add(role)
        model = self._recipe["student" if role == "baseline" else role]
        starts = [model["checkpoint"]] if model["checkpoint"] else [model["vision"], model["language"]]
        for reference in starts:
            self._add_start(reference)
        ready = role == "teacher" and model["checkpoint"]
        self._add_stages([] if ready else model["baseline" if role == "baseline" else "stages"])

    def _add_start(self, reference: str) -> None:
        kind, _, name = reference.partition(":")
        if kind != _MADE_HERE:
            self.checkpoints |= {reference} - {""}
        elif reference not in self._seen:
            self._seen.add(reference)
            part = self._recipe["parts"][name]
            self._add_stages(part["stages"])
            if part["kind"] == "vision" and part["language"]:
                self._add_start(f"part:{part['language']}")

    def _add_stages(self, names: list[str]) -> None:
        for stage in self._stages(names):
            self.data.add(stage["data"])
            if stage["distill"]:
                self.add_model("teacher")

    def _stages(self, names: list[str]) -> Iterator[dict[str, Any]]:
        return (self._recipe["stages"][name] for name in names)
