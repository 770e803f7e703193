"""What an export has to hold to pass, and whether it does: only if the figures show it. What they can't tell fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from switchkd.runtime.bench.pairs import paired_with

LIMITS = ("max_loss", "max_ms", "max_mb")  # of a bench's settings
PASS, FAIL, UNTOLD = "pass", "fail", "can't tell"  # of one limit; only the first passes
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One limit of one variant."""

    limit: str  # of LIMITS
    allowed: float  # points, milliseconds or megabytes
    value: float | None  # in the same unit; None where it wasn't measured
    outcome: str  # PASS, FAIL or UNTOLD
    reason: str  # a sentence without its full stop


def shippable(summary: Summary) -> dict[str, Any]:
    """The variants that a device would run: the exports; where there are none, all."""
    variants = summary["variants"]
    exports = {name: each for name, each in variants.items() if each["files"]["format"] != "torch"}
    return exports or dict(variants)


def judge(summary: Summary) -> dict[str, Any] | None:
    """Whether each variant of a bench holds the limits in its settings; None where there are none.

    Returns:
        variant → "passed", and "checks", each as a `Check` says.
    """
    settings = summary["settings"]
    limits = {name: settings[name] for name in LIMITS if settings[name] is not None}
    if not limits:
        return None
    return {name: _judge(name, each, limits, summary) for name, each in shippable(summary).items()}


def failed(summary: Summary) -> list[str]:
    """A line for each limit that a variant doesn't hold."""
    return [
        f"{name} fails: {check['reason']}."
        for name, found in (summary.get("limits") or {}).items()
        for check in found["checks"]
        if check["outcome"] != PASS
    ]


def _judge(name: str, each: Summary, limits: Mapping[str, float], summary: Summary) -> dict[str, Any]:
    checks = [
        _CHECKS[limit](name, each, allowed, summary)
        if each.get("quality")
        else Check(limit, allowed, None, FAIL, "nothing was measured of it")
        for limit, allowed in limits.items()
    ]
    return {"passed": all(check.outcome == PASS for check in checks), "checks": [asdict(check) for check in checks]}


def _loss(name: str, each: Summary, allowed: float, summary: Summary) -> Check:
    reference = summary["settings"]["reference"]
    if name == reference:
        return Check("max_loss", allowed, 0.0, PASS, "it is what the others are compared with")
    found = paired_with(summary, reference, name)
    if found is None:
        return Check("max_loss", allowed, None, FAIL, f"it answered no question that {reference} answered")
    loss = 0.0 - 100 * found.difference
    least, most = (-100 * bound for bound in reversed(found.interval()))
    said = (
        f"points lost against {reference}: {loss:.1f} ({least:.1f} to {most:.1f}, 95 %, {found.total:,} questions); "
        f"{allowed:g} are allowed"
    )
    if most <= allowed:
        return Check("max_loss", allowed, loss, PASS, said)
    if least > allowed:
        return Check("max_loss", allowed, loss, FAIL, said)
    if loss < allowed:
        enough = f"about {found.questions_for((allowed - loss) / 100):,} questions could"
    else:
        enough = "more questions would hardly help"
    return Check("max_loss", allowed, loss, UNTOLD, f"{said}: they can't tell that, {enough}")


def _milliseconds(name: str, each: Summary, allowed: float, summary: Summary) -> Check:
    answer = each["latency"]["answer"]
    value, noise = 1e3 * answer["p50"], answer["p50_noise"]
    if noise is None:
        said = (
            f"a whole answer takes {value:.3g} ms in the median, of too few to say how surely; {allowed:g} are allowed"
        )
        return Check("max_ms", allowed, value, PASS if value <= allowed else FAIL, said)
    said = f"a whole answer takes {value:.3g} ms ± {100 * noise:.0f} % in the median; {allowed:g} are allowed"
    if value * (1 + noise) <= allowed:
        return Check("max_ms", allowed, value, PASS, said)
    if value * (1 - noise) > allowed:
        return Check("max_ms", allowed, value, FAIL, said)
    return Check("max_ms", allowed, value, UNTOLD, f"{said}: this run's noise can't tell that")


def _megabytes(name: str, each: Summary, allowed: float, summary: Summary) -> Check:
    value = each["files"]["weights"] / 1e6
    said = f"its weights take {value:,.1f} MB; {allowed:g} are allowed"
    return Check("max_mb", allowed, value, PASS if value <= allowed else FAIL, said)


_CHECKS = {"max_loss": _loss, "max_ms": _milliseconds, "max_mb": _megabytes}
