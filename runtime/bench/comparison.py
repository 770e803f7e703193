"""Two benches against each other, and why they may not be comparable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from switchkd.runtime.bench.measurement import RATIOS
from switchkd.runtime.bench.statistics import ratio
from switchkd.runtime.bench.tables import WORDS, Grid, Summary, accuracy_cell

_COMPARED: tuple[tuple[str, Callable[[Summary], Any]], ...] = (
    ("first token, p50", lambda each: each["latency"]["first_token"]),
    ("a token, p50", lambda each: each["latency"]["decode_token"]),
    ("whole answer, p50", lambda each: each["latency"]["answer"]),
    ("camera: age, p50", lambda each: each["camera"]["age"]),
)


def compare(old: Summary, new: Summary) -> Grid:
    """Ratios of the medians of two benches, variant by variant, with their uncertainty."""
    rows = []
    references = {each["settings"].get("reference") for each in (old, new)}
    for name, each in new["variants"].items():
        before = old["variants"].get(name)
        if before is None:
            continue
        for words, find in _COMPARED:
            pair = _both(find, before, each)
            if pair is not None:
                rows.append((f"{name}, {words}", *_ratio_cells(*pair)))
        for phase in RATIOS if len(references) == 1 else ():
            pair = _both(_finding_multiple(phase), before, each)
            if pair is not None:
                rows.append((f"{name}, {WORDS[phase]} beside {next(iter(references))}", *_ratio_cells(*pair, "×", 1)))
        rows += _plain_rows(name, before, each)
    note = (
        "New / old. ±: 95 %, out of how noisy each of the two runs was; what differs between runs for other reasons "
        "isn't in it. Beside another: as a multiple of its time for the same question, in which the computer's own changes "
        "cancel. Peaks are single readings. Right answers: difference in points with its 95 % interval, as if the two had been "
        "asked different questions."
    )
    return Grid("Against the older bench", ("variant", "old", "new", "ratio", ""), rows, note)


def _finding_multiple(phase: str) -> Callable[[Summary], Any]:
    return lambda each: each["latency"]["beside"][phase]


def _both(find: Callable[[Summary], Any], old: Summary, new: Summary) -> tuple[Summary, Summary] | None:
    try:
        pair = find(old), find(new)
    except (KeyError, TypeError):  # measured in one of them only
        return None
    return pair if pair[0]["p50"] and pair[1]["p50"] else None


def _ratio_cells(old: Summary, new: Summary, unit: str = "ms", scale: float = 1e3) -> tuple[str, ...]:
    value, noise = ratio(new["p50"], old["p50"], new["p50_noise"], old["p50_noise"])
    shown = f"{value:.3f}" if noise is None else f"{value:.3f} ±{value * noise:.3f}"
    verdict = "" if noise is None else "within noise" if abs(value - 1) <= value * noise else "differs"
    return f"{scale * old['p50']:.4g} {unit}", f"{scale * new['p50']:.4g} {unit}", shown, verdict


def _plain_rows(name: str, old: Summary, new: Summary) -> list[tuple[str, ...]]:
    """Peak memory and accuracy, where both benches have them."""
    rows = []
    peaks = [peak for each in (old, new) if (peak := (each.get("memory") or {}).get("peak"))]
    if len(peaks) == 2:
        rows.append(
            (f"{name}, peak memory", *(f"{peak / 1e6:.4g} MB" for peak in peaks), f"{peaks[1] / peaks[0]:.3f}", "")
        )
    scores = [each["quality"]["accuracy"]["all"] for each in (old, new) if each.get("quality")]
    if len(scores) == 2:
        rows.append((f"{name}, right, %", *map(accuracy_cell, scores), *_difference_cells(*scores)))
    return rows


def _difference_cells(old: Summary, new: Summary) -> tuple[str, str]:
    """New minus old in points, with Newcombe's interval out of the two of Wilson (Statistics in Medicine 17, 1998, method 10)."""
    change = new["accuracy"] - old["accuracy"]
    (old_low, old_high), (new_low, new_high) = old["interval"], new["interval"]
    low = change - math.hypot(new["accuracy"] - new_low, old_high - old["accuracy"])
    high = change + math.hypot(new_high - new["accuracy"], old["accuracy"] - old_low)
    verdict = "within noise" if low <= 0 <= high else "differs"
    return f"{100 * change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})", verdict


def changes_between(old: Summary, new: Summary) -> list[str]:
    """Why two benches may not be comparable, a sentence each."""
    lines = []
    for place, keys in (
        ("machine", ("cpu", "usable_cores", "governor")),
        ("settings", ("scenario", "device", "threads", "context", "max_tokens", "rate", "sequential", "data")),
    ):
        lines += _changes(old[place], new[place], keys)
    before, after = (each["machine"].get("versions") or {} for each in (old, new))
    lines += _changes(before, after, sorted(before.keys() & after.keys()))
    both = [name for name in new["variants"] if name in old["variants"]]
    for name in both:
        files = [each["variants"][name].get("files") or {} for each in (old, new)]
        if files[0].get("manifest_sha256") != files[1].get("manifest_sha256"):
            lines.append(f"{name} was another export in the older bench.")
    for whose, names in (("older", old["variants"]), ("newer", new["variants"])):
        if only := [name for name in names if name not in both]:
            lines.append(f"Only the {whose} bench has {', '.join(only)}.")
    return lines


def _changes(old: Summary, new: Summary, keys: Sequence[str]) -> list[str]:
    return [
        f"The older bench had another {key.replace('_', ' ')}: {old.get(key)} instead of {new.get(key)}."
        for key in keys
        if old.get(key) != new.get(key)
    ]
