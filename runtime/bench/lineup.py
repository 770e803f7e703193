"""Which variants a bench measures, and which of them is the reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from switchkd.architecture.references import model_name
from switchkd.errors import SkdError
from switchkd.manifest import FILE_NAME
from switchkd.runtime.engines.interfaces import CPU
from switchkd.runtime.engines.opening import find_variant


def line_up(names: Sequence[str], reference: str | None, run: Path | None) -> dict[str, Path]:
    """Variants that a person named, by names short enough for a table; the reference first.

    The reference is the one given, else the first checkpoint among the variants, else the first variant.

    Args:
        names: folders, or names among the exports of `run`.

    Raises:
        SkdError: one of them isn't there.
    """
    folders = [_find(name, run) for name in names]
    if reference is not None:
        folders.insert(0, _find(reference, run))
    else:
        folders.sort(key=lambda folder: (folder / FILE_NAME).exists() or not (folder / "config.json").exists())
    return name_all(folders)


def line_up_run(run: Path, reference: str | None) -> tuple[dict[str, Path], str]:
    """All exports of a run after the reference, which is its student unless another is given; and a note where there is no
    student that can be run.

    Raises:
        SkdError: the run has neither.
    """
    exports = [path for path in sorted((run / "exports").glob("[!.]*")) if path.is_dir()]
    student, note = run / "student", ""
    if reference is not None:
        exports.insert(0, _find(reference, run))
    elif not (student / "config.json").exists():
        note = f"{run} has no student to compare with; the first export is the reference."
    elif not has_torch():
        note = f"PyTorch isn't installed, so {student} is left out; the first export is the reference."
    else:
        exports.insert(0, student)
    if not exports:
        raise SkdError(f"The run {run} has nothing to measure: make an export with `skd export`, or name one.")
    return name_all(exports), note


def has_torch() -> bool:
    """Whether checkpoints can be run here."""
    try:
        return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    except ModuleNotFoundError:
        return False


def require_device(device: str) -> None:
    """Raises SkdError unless engines can run on it here."""
    if device == CPU:
        return
    from switchkd.runtime.engines.onnx.session import devices

    known = devices()
    if device not in known:
        raise SkdError(f"There is no device '{device}' here; --device can be {', '.join(known)}.")


def _find(name: str, run: Path | None) -> Path:
    return find_variant(name) if run is None else find_variant(name, run / "exports")


def name_all(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders, each once at its first place, by their last name, or by their whole path where that isn't unique."""
    first: dict[Path, Path] = {}
    for folder in folders:
        first.setdefault(folder.resolve(), folder)
    unique = list(first.values())
    short = [model_name(folder) for folder in unique]
    return {name if short.count(name) == 1 else str(folder): folder for name, folder in zip(short, unique, strict=True)}
