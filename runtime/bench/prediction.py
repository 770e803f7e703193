"""What `skd hardware` says of a bench's exports: how fast they will be on another computer, and which it prefers there and here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.hardware.fit import Estimate, Fit, FitError, fit
from switchkd.hardware.profile import LOCAL, Figure, Profile
from switchkd.runtime.computer import local
from switchkd.runtime.computer.workloads import read_workload

Summary = Mapping[str, Any]


def this_computer() -> Profile:
    """What the system tells of it, nothing measured: enough for a preference."""
    known, unknown = local.facts()
    figures = {name: Figure(value, "the system", "measured") for name, value in known.items()}
    return Profile(LOCAL, "this computer", figures, unknown)


def predict(variants: Summary, profile: Profile) -> tuple[dict[str, Fit], dict[str, str]]:
    """Each export on another computer, asked what it was asked here.

    Args:
        variants: of bench.json.

    Returns:
        Predictions by variant; of the others, why there is none.
    """
    found: dict[str, Fit] = {}
    refused: dict[str, str] = {}
    for name, each in variants.items():
        if not each.get("quality"):
            continue
        try:
            workload = read_workload(Path(each["folder"]))
            asked, said = each["latency"]["prompt_tokens"], each["latency"]["new_tokens"]
            found[name] = fit(
                workload,
                profile,
                text_tokens=max(1, round(asked) - workload.image_tokens),
                answer_tokens=max(1, round(said)),
            )
        except (SkdError, FitError, OSError) as error:
            refused[name] = str(error)
    return found, refused


def plain_prediction(found: Fit) -> dict[str, Any]:
    """A prediction as bench.json has it: seconds, bytes."""
    times = {"first_token": found.first_token, "decode_token": found.token}
    return {
        **{name: None if each is None else _plain(each) for name, each in times.items()},
        "memory": found.memory.total,
        "available": found.available,
        "fits": found.fits,
        "missing": list(found.missing),
    }


def _plain(estimate: Estimate) -> dict[str, float]:
    return estimate.to_json()
