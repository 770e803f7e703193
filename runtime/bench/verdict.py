"""What to ship, by goal, and why: read off a bench's figures. What noise or too few questions can't tell is said so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from switchkd.hardware.fit import NO, Estimate, Fit
from switchkd.hardware.instructions import elsewhere
from switchkd.hardware.profile import Profile
from switchkd.runtime.bench.limits import shippable
from switchkd.runtime.bench.pairs import SURE, paired_with, told
from switchkd.runtime.bench.prediction import plain_prediction, predict, this_computer
from switchkd.runtime.bench.statistics import ratio
from switchkd.scoring import Paired

GOALS = {"first_token": "first token", "decode_token": "tokens after it", "size": "size", "accuracy": "accuracy"}
MEASURED = "measured here"
Summary = Mapping[str, Any]
Variants = dict[str, Any]


def recommend(summary: Summary, target: Profile | None) -> dict[str, Any] | None:
    """One choice for each goal, among the exports that hold the limits (all, where none does); None where nothing was measured.

    Args:
        summary: bench.json so far, with "pairs" and "limits".
        target: another computer to predict the speeds of.

    Returns:
        "goals": [{"goal", "choice", "level", "basis", "reasons"}], for a target as well; "considered": variants; "caveats":
        sentences; "predicted": variant → seconds and bytes on the target, None without one.
    """
    measured = {name: each for name, each in shippable(summary).items() if each.get("quality")}
    if not measured:
        return None
    limits = summary["limits"]
    passed = {name: each for name, each in measured.items() if limits is None or limits[name]["passed"]}
    variants = passed or measured
    caveats = _limited(passed, measured)
    goals = [choose(goal, variants, summary) for goal in GOALS]
    fits: dict[str, Fit] = {}
    if target is not None:
        fits, refused = predict(variants, target)
        goals += _predicted(fits, target.name)
        caveats += [f"Nothing is predicted of {name}: {why}" for name, why in refused.items()]
        caveats += _missing(fits, target.name)
    machine = summary["machine"]
    caveats += elsewhere(frozenset(machine["isa"]))
    caveats += ["The machine was disturbed while it was measured, see the warnings."] * bool(
        machine["conditions"].get("warnings")
    )
    caveats += _preference(variants, summary, goals[0])
    return {
        "considered": list(variants),
        "goals": [goal for goal in goals if goal],
        "caveats": caveats,
        "predicted": {name: plain_prediction(each) for name, each in fits.items()} if target else None,
    }


def _limited(passed: Variants, measured: Variants) -> list[str]:
    """Among which the choices are, where limits leave some out."""
    if not passed:
        return ["No variant holds the limits: the choices are among all of them."]
    left_out = [name for name in measured if name not in passed]
    return [f"Not considered, as limits aren't held: {', '.join(left_out)}."] if left_out else []


def choose(goal: str, variants: Variants, summary: Summary) -> dict[str, Any] | None:
    """The choice for one of GOALS, with those that are "level" with it as far as was measured; None where no variant has its
    figure."""
    if goal == "accuracy":
        name, level, reasons = _most_accurate(variants, summary)
    elif goal == "size":
        name, level, reasons = _smallest(variants)
    else:
        timed = {each: found for each in variants if (found := variants[each]["latency"][goal])["p50"]}
        if not timed:
            return None
        name, level, reasons = _fastest(timed)
    reasons += _against_reference(name, summary)
    return {"goal": goal, "choice": name, "level": level, "basis": MEASURED, "reasons": reasons}


def _fastest(timed: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    """By the median: the variant, those that this run's noise can't tell from it, and why."""
    name = min(timed, key=lambda each: timed[each]["p50"])
    level = [each for each in timed if each != name and not _slower(timed[each], timed[name])]
    reasons = [f"{_milliseconds(timed[name])} in the median"]
    if level:
        others = ", ".join(f"{each} ({_milliseconds(timed[each])})" for each in level)
        reasons.append(f"this run's noise can't tell from it {others}")
    rest = [each for each in timed if each not in (name, *level)]
    if rest:
        after = min(rest, key=lambda each: timed[each]["p50"])
        reasons.append(f"{timed[after]['p50'] / timed[name]['p50']:.2f} times that: {after}")
    return name, level, reasons


def _slower(one: Summary, best: Summary) -> bool:
    """Whether it is, by more than the two noises together; without noise to go by, whether its median is."""
    value, noise = ratio(one["p50"], best["p50"], one["p50_noise"] or 0.0, best["p50_noise"] or 0.0)
    return value - 1 > value * (noise or 0.0)


def _milliseconds(phase: Summary) -> str:
    noise = "" if phase["p50_noise"] is None else f" ± {100 * phase['p50_noise']:.0f} %"
    return f"{1e3 * phase['p50']:.3g} ms{noise}"


def _smallest(variants: Variants) -> tuple[str, list[str], list[str]]:
    sizes = {name: each["files"]["weights"] for name, each in variants.items()}
    name, *rest = sorted(sizes, key=sizes.__getitem__)
    after = [f"{sizes[rest[0]] / sizes[name]:.2f} times that: {rest[0]}"] if rest else []
    return name, [], [f"{sizes[name] / 1e6:,.1f} MB of weights", *after]


def _most_accurate(variants: Variants, summary: Summary) -> tuple[str, list[str], list[str]]:
    """By right answers; of those that the questions can't tell from the best the closest to the reference by KL, if known."""
    best = max(variants, key=lambda name: variants[name]["quality"]["accuracy"]["all"]["accuracy"])
    pairs = {name: paired_with(summary, best, name) for name in variants if name != best}
    group = [best, *(name for name, pair in pairs.items() if pair is not None and pair.p_value >= SURE)]
    close = {name: kl for name in group if (kl := _divergence(variants[name])) is not None}
    name, why = best, "it has the most right"
    if len(close) == len(group):
        name, why = min(close, key=close.__getitem__), f"it is the closest to {summary['settings']['reference']} by KL"
    right, level = variants[name]["quality"]["accuracy"]["all"], [each for each in group if each != name]
    reasons = [f"{100 * right['accuracy']:.1f} % of {right['total']:,} questions right"]
    if level:
        clauses = (_beside(each, pair) for each in level if (pair := paired_with(summary, name, each)))
        reasons.append(f"{right['total']:,} questions can't tell from it {', '.join(clauses)}; of these {why}")
    return name, level, reasons


def _beside(name: str, pair: Paired) -> str:
    if not pair.difference:
        return f"{name} (±0)"
    return f"{name} ({100 * pair.difference:+.1f} points, about {pair.questions_for(pair.difference):,} could)"


def _divergence(each: Summary) -> float | None:
    found = each["quality"].get("divergence")
    return None if found is None else found["kl_mean"]


def _against_reference(name: str, summary: Summary) -> list[str]:
    reference = summary["settings"]["reference"]
    pair = None if name == reference else paired_with(summary, reference, name)
    return [] if pair is None else [told(pair, reference)]


_ESTIMATES: dict[str, Callable[[Fit], Estimate | None]] = {
    "first_token": lambda each: each.first_token,
    "decode_token": lambda each: each.token,
}


def _predicted(fits: Mapping[str, Fit], target: str) -> list[dict[str, Any]]:
    """The speeds' and the memory's goals on another computer; what doesn't fit isn't chosen while something does."""
    there = {name: each for name, each in fits.items() if each.fits != NO} or dict(fits)
    basis = f"predicted for {target}"
    goals = []
    for goal, find in _ESTIMATES.items():
        known = {name: found for name, each in there.items() if (found := find(each)) is not None}
        if known:
            name = min(known, key=lambda each: known[each].value)
            low, value, high = (1e3 * getattr(known[name], end) for end in ("low", "value", "high"))
            reasons = [f"{value:.3g} ms ({low:.3g} to {high:.3g})"]
            level = [each for each in known if each != name and known[each].low <= known[name].high]
            if level:
                reasons.append(f"the bands of {', '.join(level)} overlap with its own: measure there")
            goals.append({"goal": goal, "choice": name, "level": level, "basis": basis, "reasons": reasons})
    if there:
        name = min(there, key=lambda each: there[each].memory.total)
        reasons = [f"{there[name].memory.total / 1e6:,.0f} MB of memory in all", f"fits: {there[name].fits}"]
        goals.append({"goal": "size", "choice": name, "level": [], "basis": basis, "reasons": reasons})
    return goals


def _missing(fits: Mapping[str, Fit], target: str) -> list[str]:
    reasons = dict.fromkeys(reason for each in fits.values() for reason in each.missing)
    return [f"Not all can be predicted for {target}: {'; '.join(reasons)}."] if reasons else []


def _preference(variants: Variants, summary: Summary, fastest: Summary | None) -> list[str]:
    """What `skd hardware fit` prefers here, and whether the bench's first tokens say the same."""
    fits, _ = predict(variants, this_computer())
    if not fits or fastest is None:
        return []
    advice = next(iter(fits.values())).advice
    choice = advice.choice
    if choice is None:
        return [f"`skd hardware fit` prefers nothing here: {advice.reasons[0]}."]
    said = f"`skd hardware fit` prefers {choice.short} here: {advice.reasons[0]}."
    texts = {name: each.workload.text for name, each in fits.items()}
    same = [name for name, text in texts.items() if (text.format, text.quant) == (choice.format, choice.quant)]
    if not same:
        wanted = f"--format {choice.format} --quant {choice.quant}"
        return [f"{said} No such export was measured: `skd export {wanted}` makes one."]
    if fastest["choice"] in same:
        return [f"{said} So does this bench for the first token."]
    if set(same) & set(fastest["level"]):
        return [f"{said} This bench can't tell it from {fastest['choice']} for the first token."]
    one, best = (variants[each]["latency"]["first_token"]["p50"] for each in (same[0], fastest["choice"]))
    return [
        f"{said} Here {same[0]} took {one / best:.2f} times as long as {fastest['choice']} to the first token. That rule is of "
        "students of 0.5B; what was measured with the very model counts."
    ]
