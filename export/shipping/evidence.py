"""What goes into a package beside the variant: the target's profile, the predicted fit, measurements of this very variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.files import file_sha256
from switchkd.hardware.fit import FitError, fit
from switchkd.manifest import FILE_NAME
from switchkd.runs import RUNS
from switchkd.runtime.computer.profile import find_profile
from switchkd.runtime.computer.workloads import read_workload

_SCHEMA = 1  # of bench.json
_MAX_BENCH = 64 << 20  # bytes
_CONTEXT = 2048  # tokens of memory that the fit is asked about, where the student was trained on so many


@dataclass(frozen=True)
class TargetEvidence:
    """What is known and predicted of the variant's target."""

    hardware_id: str  # the profile's name
    profile: str  # JSON: figures with their sources
    report: str  # JSON: predicted memory and speed, or why there is no prediction
    fits: str  # yes, no or unknown; predicted


def target_evidence(variant: Path, target: str) -> TargetEvidence:
    """Looks a target up and predicts the variant's fit.

    Raises:
        SkdError: there is no such target, or the variant's shapes can't be read.
    """
    profile = find_profile(target)
    workload = read_workload(variant)
    try:
        found = fit(workload, profile, context=min(_CONTEXT, workload.trained_context))
        report, fits = found.to_json(), found.fits
    except FitError as error:
        report, fits = (
            {"variant": workload.name, "target": profile.name, "predicted": None, "missing": [str(error)]},
            "unknown",
        )
    return TargetEvidence(profile.name, _json(profile.to_json()), _json(report), fits)


def bench_evidence(variant: Path, file: Path | None) -> str | None:
    """The part of a bench.json that is about this variant, as JSON.

    Args:
        file: None takes reports/bench/bench.json (a camera's results lie elsewhere) of the run that the variant lies in, else
            of the newest, and nothing where it isn't about a variant with this manifest.

    Raises:
        SkdError: `file` is given, and can't be read or isn't about this variant.
    """
    if file is not None:
        return _json(_of_variant(_read(file), variant, file))
    for run in (variant.resolve().parent.parent, RUNS / "latest"):
        path = run / "reports" / "bench" / "bench.json"
        try:
            return _json(_of_variant(_read(path), variant, path))
        except SkdError:
            continue
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BENCH:
            raise SkdError(f"{path} is too large for a bench.json.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SkdError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SkdError(f"{path} is no JSON.") from error
    if not isinstance(value, dict) or value.get("schema") != _SCHEMA or not isinstance(value.get("variants"), dict):
        raise SkdError(f"{path} isn't a bench.json of schema {_SCHEMA}; `skd bench` writes one.")
    return value


def _of_variant(bench: dict[str, Any], variant: Path, path: Path) -> dict[str, Any]:
    name, digest = variant.resolve().name, file_sha256(variant / FILE_NAME)
    entry = bench["variants"].get(name)
    if entry is None:
        raise SkdError(f"{path} has no measurements of {name}; it has {', '.join(bench['variants'])}.")
    files = entry.get("files") if isinstance(entry, dict) else None
    if not isinstance(files, dict) or files.get("manifest_sha256") != digest:
        raise SkdError(f"{path} measured another {name} than this one (its manifest differs): measure again.")
    if entry.get("error"):
        raise SkdError(f"{path} has no whole measurement of {name}: {entry['error']}")
    # Names alone: where things lie on the computer that measured is nobody's business on the device.
    settings = bench.get("settings")
    if isinstance(settings, dict):
        unread = [each.get("id") for each in settings.get("unreadable") or [] if isinstance(each, dict)]
        kept = settings | {"data": Path(str(settings.get("data", ""))).name, "unreadable": unread}
        bench = {**bench, "settings": kept}
    return {**bench, "variants": {name: {**entry, "folder": name}}}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
